"""Path lengths of generators whose derivative is known."""

import pytest
import torch

from ldm.autoencoder.autoencoder import Autoencoder
from ldm.autoencoder.bottleneck import Identity
from ldm.autoencoder.convnet import Pixels
from ldm.condition.none import Unconditional
from ldm.loss.perceptual import Perceptual
from ldm.metric.metric import Examples
from ldm.metric.path_length import PathLength, path, slerp
from ldm.model import LatentModel
from ldm.prior.base import Latents, Prior
from ldm.random import Random, seed_of

SHAPE, SCALE = (3, 2, 2), 0.02


class Linear(Prior):
    """Its sample is its noise, made small, so that no image is clipped."""

    def loss(self, z, c, random=None):
        return {"none": z.sum()}

    def sample(self, shape, c, random=None):
        return SCALE * random.normal("prior", tuple(shape[1:]))


class Noisy(Linear):
    def sample(self, shape, c, random=None):
        return super().sample(shape, c, random) + SCALE * random.normal("again", tuple(shape[1:]))


class Chosen(Linear):
    def sample(self, shape, c, random=None):
        return super().sample(shape, c, random) * random.uniform("choice", (1, 1, 1))


class Square(Perceptual):
    def forward(self, x, y):
        return (x.double() - y.double()).square().flatten(1).sum(1).float()


def measured(family, count=300, batch=100):
    own = Autoencoder(SHAPE, Pixels, Pixels, Identity())
    condition, metric = Unconditional(), PathLength({"square": Square()})
    model = LatentModel(own, condition, family(Latents(SHAPE), condition.shape)).eval()
    for rows in torch.arange(count).split(batch):
        x = torch.zeros(len(rows), *SHAPE)
        metric.add(Examples(x, x, x, [""] * len(rows), rows, False, model, {"image": x, "index": rows}))
    return metric.measure()


def test_of_a_linear_generator_it_is_the_speed_on_the_arc():
    """d/dt slerp = w [cos(t w) b - cos((1 - t) w) a] / sin w; of 300 the 3 lowest and the 3 highest are left out."""
    [found] = measured(Linear)
    rows = torch.arange(300)
    a, b = (
        Random(seed_of(0, "path", end), 0, rows).normal("prior", SHAPE).double().flatten(1) for end in ("from", "to")
    )
    t = Random(seed_of(0, "path length"), 0, rows).uniform("place").double()
    w = ((a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))).acos()
    speed = (w / w.sin())[:, None] * ((t * w).cos()[:, None] * b - ((1 - t) * w).cos()[:, None] * a)
    wanted = (SCALE * speed).square().sum(1).sort().values
    assert found.value == pytest.approx(wanted[2:297].mean().item(), rel=0.01)
    assert found.standard_error == pytest.approx(wanted[2:297].std().item() / 295**0.5, rel=0.03)
    assert (found.metric, found.n, found.rounded) == ("path_length_square", 300, False)


def test_batches_do_not_change_it():
    assert measured(Linear, 20, 20)[0].value == pytest.approx(measured(Linear, 20, 7)[0].value, rel=1e-6)


@pytest.mark.parametrize(
    ("family", "why"),
    [(Noisy, "Noisy, which here draws noise again"), (Chosen, "Chosen, which here draws numbers that")],
)
def test_priors_that_draw_more_than_noise_are_left_out_by_name(caplog, family, why):
    assert measured(family, 4) == []
    assert "path_length_square is left out" in caplog.text and why in caplog.text


def test_an_arc_keeps_the_length_and_ends_where_it_should():
    a, b = torch.tensor([[2.0, 0.0], [1.0, 0.0]]), torch.tensor([[0.0, 2.0], [-1.0, 0.0]])
    half = slerp(a, b, torch.tensor([0.5, 0.5]))
    torch.testing.assert_close(half, torch.tensor([[2**0.5, 2**0.5], [0.0, 0.0]]))  # opposite ones by a straight line
    torch.testing.assert_close(slerp(a, b, torch.zeros(2)), a)
    torch.testing.assert_close(slerp(a, b, torch.ones(2)), b)


def test_noise_on_a_path_is_normal_anywhere():
    between = path(0, torch.arange(4000), torch.full((4000,), 0.3))
    noise = between.normal("x", (8,))
    assert noise.std().item() == pytest.approx(1, abs=0.03) and noise.mean().item() == pytest.approx(0, abs=0.03)
    assert (
        between.broken is None
        and path(0, torch.arange(1), torch.zeros(1)).broken == "draws its samples from no normal noise"
    )
