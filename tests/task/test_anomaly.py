"""Scores by their formulas on models of which everything is known, and their areas by the peer library."""

import math

import pytest
import torch
from torchmetrics.functional.classification import binary_auroc

from ldm.data.inputs import Inputs
from ldm.model import LatentModel
from ldm.random import Random
from ldm.task.anomaly import Anomaly, auroc, png_nats
from ldm.task.tools.rows import Rows
from tests.runs import saved, tiny
from tests.task.toy import MEAN, SHAPE, STD, built, gaussian, images

pytestmark = pytest.mark.usefixtures("unchecked")


@pytest.fixture(scope="module")
def normal(tmp_path_factory):
    return built(tmp_path_factory.mktemp("normal"), "prior=normal")


def numbers(task, model, x):
    rows = Rows(task, model, Inputs(x, SHAPE))
    return next(rows.answers(range(len(rows)), 100))[1].numbers


def nll(x):
    """Of the standard normal, of levels that are 2 / 255 wide."""
    return (x.square() / 2 + math.log(2 * math.pi) / 2 - math.log(2 / 255)).flatten(1).sum(1).double()


def test_scores_of_a_density(normal, tmp_path):
    """Of the standard normal, against itself as background, with the images' own mean as what is typical."""
    size = "data.image_shape=[3,8,8]"
    background = saved(tmp_path, tiny(tmp_path, "autoencoder=identity", "condition=none", "prior=normal", size))
    x = images(5)
    found = numbers(Anomaly(background=background), normal, x)
    torch.testing.assert_close(found["nll"], nll(x), atol=0.1, rtol=0)
    torch.testing.assert_close(found["ratio"], torch.zeros(5, dtype=torch.float64), atol=1e-3, rtol=0)
    torch.testing.assert_close(found["complexity"], nll(x) - png_nats(x), atol=0.1, rtol=0)
    assert "typicality" not in found and "reconstruction" not in found


def test_logits_have_the_density_of_their_pixels(tmp_path):
    """p = a + (1 - 2 a) (l + u) / 256 of level l, z = log p / (1 - p): P(x) = N(z; 0, 1) (1 - 2 a) / (256 p (1 - p)).

    A black image has z near -6 and slopes of some hundreds: in logits it would be improbable, as pixels it is not.
    """
    model = built(tmp_path, "prior=normal", "autoencoder=identity_logit")
    x = (torch.tensor([0.0, 200.0, 255.0]) / 127.5 - 1).view(3, 1, 1, 1).expand(3, *SHAPE)
    u = Random(0, 0, torch.arange(3)).uniform("dequantisation", SHAPE).double()
    p = 1e-6 + (1 - 2e-6) * ((x.double() + 1) * 127.5 + u) / 256
    z = (p / (1 - p)).log()
    log_p = -z.square() / 2 - math.log(2 * math.pi) / 2 + math.log((1 - 2e-6) / 256) - p.log() - (1 - p).log()
    found = numbers(Anomaly(), model, x)
    torch.testing.assert_close(found["nll"], -log_p.flatten(1).sum(1), atol=0, rtol=1e-4)
    assert "reconstruction" not in found


def test_a_background_is_of_the_same_latents(tmp_path):
    run = saved(tmp_path, tiny(tmp_path, "condition=none", "prior=normal"))
    model, x = LatentModel.load(run), Inputs(torch.zeros(2, 3, 32, 32), (3, 32, 32))
    [(_, answer)] = Rows(Anomaly(background=run), model, x).answers([0, 1], 2)
    assert answer.numbers["ratio"].abs().max() < 1e-3
    with torch.no_grad():
        next(model.autoencoder.encoder.parameters()).add_(0.1)
    with pytest.raises(ValueError, match="has another first stage.*autoencoder.checkpoint=RUN"):
        next(Rows(Anomaly(background=run), model, x).answers([0, 1], 2))


def test_typicality_is_learnt_from_the_reference(normal, tmp_path):
    import PIL.Image

    for i, value in enumerate((64, 255)):
        PIL.Image.new("RGB", (8, 8), (value,) * 3).save(tmp_path / f"{i}.png")
    entropy = nll(torch.tensor([64 / 127.5 - 1, 1.0]).view(2, 1, 1, 1).expand(2, *SHAPE)).mean()
    x = images(3)
    found = numbers(Anomaly(reference=tmp_path), normal, x)
    torch.testing.assert_close(found["typicality"], (nll(x) - entropy).abs(), atol=0.1, rtol=0)


def test_denoising_errors_are_what_a_gaussian_has(tmp_path):
    """At x = m + d the error is ((1 - g alpha) d)^2 + (g sigma)^2 with g = alpha s^2 / (alpha^2 s^2 + sigma^2)."""
    model = gaussian(tmp_path)
    x = (MEAN + torch.tensor([0.0, 0.5])).view(2, 1, 1, 1).expand(2, *SHAPE)
    found = numbers(Anomaly(likelihood=False, levels=(0.2, 0.6), draws=50), model, x)
    assert set(found) == {"denoising_0.2", "denoising_0.6"}
    for t in (0.2, 0.6):
        gain = (1 - t) * STD**2 / ((1 - t) ** 2 * STD**2 + t**2)
        wanted = [((1 - gain * (1 - t)) * d) ** 2 + (gain * t) ** 2 for d in (0.0, 0.5)]
        assert found[f"denoising_{t:g}"].tolist() == pytest.approx(wanted, rel=0.1)


def test_an_area_is_torchmetrics_and_its_error_delongs():
    given, others = torch.randint(0, 9, (40,)).double(), torch.randint(3, 12, (30,)).double()
    labels = torch.cat([torch.zeros(40), torch.ones(30)]).long()
    wanted = binary_auroc(torch.cat([given, others]).float() / 12, labels)
    assert auroc(given, others)[0] == pytest.approx(float(wanted), abs=1e-6)
    area, error = auroc(torch.tensor([2.0, 1.0]), torch.tensor([3.0, 1.5]))
    assert (area, error) == (0.75, pytest.approx(0.125**0.5))
    assert auroc(torch.tensor([1.0]), torch.tensor([0.0])) == (0.0, None)


def test_areas_are_said_of_others(normal):
    x = images(6)
    rows = Rows(Anomaly(), normal, Inputs(x, SHAPE), Inputs((3 * x).clamp(-1, 1), SHAPE))
    from ldm.task.base import Found

    [(_, answer)] = rows.answers(range(12), 12)
    found = Found([str(i) for i in range(12)], 6, answer.numbers, {}, dict)
    assert rows.task.conclude(found)["auroc"]["nll"]["value"] == 1
    assert rows.task.conclude(Found(found.names, 12, answer.numbers, {}, dict)) == {}


def test_png_nats_are_the_files_bytes():
    plain, noise = torch.zeros(1, *SHAPE), torch.rand(1, *SHAPE) * 2 - 1
    assert png_nats(plain) < png_nats(noise) and png_nats(noise) > 192 * 8 * math.log(2)


def test_densities_are_had_or_told(tmp_path):
    gan = built(tmp_path, "prior=gan")
    with pytest.raises(
        ValueError, match=r"task\.reference= needs a prior with densities, and this model's, GAN, has none"
    ):
        Rows(Anomaly(reference=tmp_path), gan, Inputs(images(1), SHAPE))
    with pytest.raises(ValueError, match=r"task\.background= is of densities, and task\.likelihood=false"):
        Rows(Anomaly(background=tmp_path, likelihood=False), built(tmp_path, "prior=normal"), Inputs(images(1), SHAPE))
