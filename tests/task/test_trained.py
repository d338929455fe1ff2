"""Filling in and enlarging by a model that was trained for it: which way is taken, what reaches the prior, what is refused."""

import json

import numpy as np
import PIL.Image
import pytest
import torch

from ldm.api import Model
from ldm.command.apply import apply
from ldm.command.sample import sample
from ldm.condition.continuation import continued
from ldm.diffusion.posterior.mmps import MMPS
from ldm.model import LatentModel
from ldm.random import Random
from ldm.task.inpaint import Inpaint
from ldm.task.super_resolution import SuperResolution
from ldm.task.tools.hole import Box
from tests.runs import compose, saved, tiny

OUTSIDE = torch.ones(32, 32, dtype=torch.bool)
OUTSIDE[8:24, 8:24] = False


def made(folder, *words):
    return saved(folder, tiny(folder, "diffusion=flow", "diffusion.steps=2", *words))


@pytest.fixture(scope="module")
def masked(tmp_path_factory):
    words = ("condition=masked", "condition@condition.of=label", "condition.of.classes=3")
    return made(tmp_path_factory.mktemp("masked"), *words)


@pytest.fixture(scope="module")
def low(tmp_path_factory):
    return made(tmp_path_factory.mktemp("low"), "condition=low_resolution", "condition.factor=4")


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return LatentModel.load(made(tmp_path_factory.mktemp("plain"), "condition=none"))


def batch(n=2, **more):
    rows = torch.arange(n)
    x = (0.4 * Random(5, 0, rows).normal("x", (3, 32, 32))).clamp(-1, 1)
    return {"index": rows, "image": x, **more}, Random(0, 0, rows)


def test_outside_is_as_given_and_the_way_is_what_the_run_is(masked, plain):
    model, (given, random) = LatentModel.load(masked), batch()
    task = Inpaint("box")
    task.check(model)
    assert task.way(model) == "condition=masked, which the run was trained with"
    assert task.way(plain) == Inpaint("box", MMPS).way(model) == "diffusion/posterior=mmps, without training for it"
    found = task(model, given, random).pictures
    assert torch.equal(found["filled"][..., OUTSIDE], given["image"][..., OUTSIDE])
    other = given | {"image": torch.where(OUTSIDE, given["image"], -given["image"])}
    assert torch.equal(task(model, other, random).pictures["filled"], found["filled"]), (
        "what was in the hole is not seen"
    )
    by_method = Inpaint("box", MMPS)(model, given, random).pictures["filled"]
    assert not torch.equal(by_method, found["filled"])
    labelled = task(model, given | {"label": torch.tensor([1, 1])}, random).pictures["filled"]
    assert not torch.equal(labelled, found["filled"])


def test_what_is_given_reaches_the_prior(tmp_path):
    """A prior that draws the known latents of its map, of pixels: what is kept is returned, and the hole is 0."""
    model = LatentModel.load(made(tmp_path, "condition=masked", "autoencoder=identity"))
    model.prior.sample = lambda shape, c, random: c.spatial[:, :3]
    given, random = batch()
    found = Inpaint("box")(model, given, random)
    assert found.numbers["psnr_kept"].min() > 90
    hole = Box()((32, 32), random)
    c = model.condition(given | {"hole": hole})
    wanted = torch.where(hole > 0, 0, continued(given["image"], 1 - hole))
    assert torch.equal(c.spatial, torch.cat([wanted, hole], 1))


def test_enlarging_is_told_the_averages_and_their_noise(low):
    model, (given, random) = LatentModel.load(low), batch()
    told = []
    model.condition.register_forward_pre_hook(lambda module, arguments: told.append(arguments[0]))
    for noise in (None, 0.25):
        task = SuperResolution(noise=noise)
        task.check(model)
        found = task(model, given, random)
        assert torch.equal(told[-1]["low_resolution"], torch.nn.functional.avg_pool2d(given["image"], 4))
        assert told[-1]["low_noise"].tolist() == [noise or 0.0] * 2
    off = torch.nn.functional.avg_pool2d(found.pictures["made"] - given["image"], 4).square().flatten(1).mean(1).sqrt()
    torch.testing.assert_close(found.numbers["consistency"], off)
    assert task.way(model) == "condition=low_resolution, which the run was trained with"


def test_without_an_image_a_whole_one_is_drawn(masked, tmp_path, caplog):
    """As of the context in which nothing is known; where that was never trained it is refused before a folder is made."""
    model = LatentModel.load(masked)
    given, random = batch()
    alone = model.sample({"index": given["index"]}, random)
    assert torch.equal(alone, model.sample(given | {"hole": torch.ones(2, 1, 32, 32)}, random))
    assert not torch.equal(alone, model.sample(given, random)), "of images by the law of training"
    caplog.set_level("INFO")
    assert Model(model).sample(n=2, tensors=True).shape == (2, 3, 32, 32)
    assert "nothing of one is given here, so whole images are drawn" in caplog.text
    never = made(tmp_path / "never", "condition=masked", "condition.drop=0")
    words = compose(f"run={never}", "device=cpu", f"out={tmp_path / 'out'}", name="sample")
    with pytest.raises(ValueError, match=r"condition\.drop=0 never trained it to draw without.*task=inpaint"):
        sample(**words)
    assert not (tmp_path / "out").exists()


def test_words_that_do_not_fit_are_told(masked, low, plain):
    masked, low = LatentModel.load(masked), LatentModel.load(low)
    for word, task in (
        ("noise", Inpaint("box", noise=0.1)),
        ("through_decoder", Inpaint("box", through_decoder=False)),
    ):
        with pytest.raises(
            ValueError, match=rf"task\.{word}= is of a method without training.*diffusion/posterior=mmps"
        ):
            task.check(masked)
    with pytest.raises(ValueError, match=r"task\.factor=2: this run was trained for factor 4"):
        SuperResolution(factor=2).check(low)
    with pytest.raises(ValueError, match=r"task\.noise=0\.7: this run was trained for .* at most 0\.5"):
        SuperResolution(noise=0.7).check(low)
    SuperResolution(factor=4, noise=0.5).check(low)
    SuperResolution(MMPS, factor=2, noise=0.7).check(low)
    Inpaint("box", MMPS, 0.1, False).check(masked)
    SuperResolution().check(plain)


def test_any_prior_that_takes_the_condition_fills_in(tmp_path):
    """One without a denoiser, for which there is no method without training."""
    model = LatentModel.load(saved(tmp_path, tiny(tmp_path, "prior=mean_flow", "condition=masked")))
    task = Inpaint("half")
    task.check(model)
    given, random = batch()
    filled = task(model, given, random).pictures["filled"]
    assert torch.equal(filled[..., :16], given["image"][..., :16]) and filled.isfinite().all()
    with pytest.raises(ValueError, match="needs a prior with a denoiser"):
        SuperResolution().check(model)


def test_on_the_command_line(masked, tmp_path):
    """By the condition, told in both files; by a method, where one is named."""
    PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)).save(tmp_path / "x.png")
    for name, words, way in (
        ("a", (), "condition=masked"),
        ("b", ("diffusion/posterior=diffpir",), "posterior=diffpir"),
    ):
        out = tmp_path / name
        asked = (f"run={masked}", "device=cpu", f"out={out}", "task=inpaint", "task.mask=box", "label=2", *words)
        apply(**compose(*asked, f"images={tmp_path / 'x.png'}", name="apply"))
        for file in ("task.json", "result.json"):
            assert way in json.loads((out / file).read_text())["way"]
    with pytest.raises(
        ValueError, match=r"diffusion\.posterior\.iterations= is an argument of a method, which is not named"
    ):
        apply(**compose(*asked[:-1], "+diffusion.posterior={iterations: 2}", name="apply") | {"images": str(tmp_path)})
    one, two = (np.array(PIL.Image.open(tmp_path / name / "0000-filled.png")) for name in "ab")
    given = np.array(PIL.Image.open(tmp_path / "x.png"))
    assert (one[OUTSIDE] == given[OUTSIDE]).all() and (one != two).any()
