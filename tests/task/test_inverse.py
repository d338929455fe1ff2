"""Tasks that solve an inverse problem, on a model of which all is known, and on one of latents."""

import functools
import json
import math

import numpy as np
import PIL.Image
import pytest
import torch

from ldm.command.apply import apply
from ldm.diffusion.posterior.diffpir import DiffPIR
from ldm.diffusion.posterior.mmps import MMPS
from ldm.diffusion.posterior.replacement import Replacement
from ldm.model import LatentModel
from ldm.random import Random
from ldm.task.denoise import Denoise
from ldm.task.inpaint import Inpaint, known_latents
from ldm.task.super_resolution import SuperResolution
from ldm.task.tools.inverse import psnr
from tests.diffusion.gaussian import GaussianDenoiser
from tests.runs import compose, saved, tiny

MEAN, STD = torch.tensor([0.2, -0.1, 0.0]), torch.tensor([0.5, 0.25, 0.4])
OWN = (0.3, 0.6)  # mean and deviation of the whitened pixels


@pytest.fixture(scope="module")
def pixels(tmp_path_factory):
    """A model of independent normal pixels, exact, whitened by MEAN and STD."""
    folder = tmp_path_factory.mktemp("pixels")
    model = LatentModel.load(saved(folder, tiny(folder, "autoencoder=identity", "diffusion=flow", "condition=none")))
    model.autoencoder.set_statistics(MEAN, STD)
    model.prior.denoiser, model.prior.steps = GaussianDenoiser(model.prior.denoiser.schedule, *OWN), 12
    return model


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("latents")
    return saved(folder, tiny(folder, "condition=none", "diffusion.steps=3"))


@pytest.fixture(scope="module")
def latents(run):
    return LatentModel.load(run)


def batch(n=2, first=0):
    rows = torch.arange(first, first + n)
    x = MEAN.view(3, 1, 1) + 0.2 * Random(5, 0, rows).normal("x", (3, 32, 32))
    return {"index": rows, "image": x.clamp(-1, 1)}, Random(0, 0, rows)


def every(**words):
    return {
        "inpaint": Inpaint("box", **words),
        "super_resolution": SuperResolution(**words),
        "denoise": Denoise(**words, add=True, draws=2),
    }


@pytest.mark.parametrize("name", every(posterior=MMPS))
def test_a_row_is_the_same_whatever_the_batch(latents, name):
    task = every(posterior=MMPS)[name]
    task.check(latents)
    whole, part = (task(latents, *batch(*rows)) for rows in ((3, 0), (1, 2)))
    assert whole.pictures.keys() == part.pictures.keys() and whole.numbers.keys() == part.numbers.keys()
    for key in whole.pictures:
        assert torch.allclose(whole.pictures[key][2:], part.pictures[key], atol=1e-4), key
    for key, value in whole.numbers.items():
        assert value.shape == (3,) and torch.allclose(value[2:], part.numbers[key], atol=1e-2), key


def test_what_is_outside_the_hole_is_returned_as_it_was_given(latents, pixels):
    given, random = batch()
    outside = torch.ones(32, 32, dtype=torch.bool)
    outside[8:24, 8:24] = False
    for model in (latents, pixels):
        for task in (Inpaint("box", MMPS), Inpaint("box", functools.partial(Replacement), 0.0, False)):
            task.check(model)
            found = task(model, given, random)
            filled, x = found.pictures["filled"], given["image"]
            assert (
                torch.equal(filled[..., outside], x[..., outside]) and filled[..., ~outside].ne(x[..., ~outside]).any()
            )
            assert torch.equal(found.pictures["kept"][..., ~outside], torch.zeros(2, 3, 256))
            error = (filled - x)[..., ~outside].square().mean((1, 2))
            assert torch.allclose(found.numbers["psnr"], 10 * (4 / error).log10(), atol=1e-3)


@pytest.mark.parametrize(
    ("method", "through"), [(MMPS, True), (MMPS, False), (DiffPIR, True), (DiffPIR, False), (Replacement, False)]
)
def test_what_is_kept_is_what_the_model_draws(pixels, method, through):
    found = Inpaint("half", method, 0.0, through)(pixels, *batch())
    assert found.numbers["psnr_kept"].min() > 35


def test_averages_are_those_of_the_given_image_and_the_rest_is_the_models(pixels):
    """Of independent normal pixels: given the mean of a square they keep (1 - 1/16) of their variance."""
    given, random = batch(1)
    found = SuperResolution(functools.partial(MMPS, iterations=2), 4, 0.0)(pixels, given, random)
    x, made = given["image"], found.pictures["made"]
    assert found.numbers["consistency"].item() < 5e-3
    left = made - torch.nn.functional.avg_pool2d(x, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)
    wanted = (1 - 1 / 16) ** 0.5 * OWN[1] * STD[2].item()
    assert left[:, 2].std().item() == pytest.approx(wanted, rel=0.1)
    assert found.pictures["averages"].unique().numel() <= 3 * 64
    assert psnr(found.pictures["bicubic"], x).item() == pytest.approx(found.numbers["psnr_bicubic"].item())


def test_denoising_a_model_of_pixels_is_its_denoisers_answer(pixels):
    """Pixels of the channel with the least deviation are the noisiest, and have y as it is; the others have more noise."""
    given, random = batch(1)
    y, sigma = given["image"], 0.1
    found = Denoise(MMPS, sigma)(pixels, given, random)
    m, s = OWN[0] * STD[1] + MEAN[1], OWN[1] * STD[1]
    denoised = m + s**2 / (s**2 + sigma**2) * (y[:, 1] - m)
    assert torch.allclose(found.pictures["denoised"][:, 1], denoised.clamp(-1, 1), atol=1e-4)
    sampled = m + s / (s**2 + sigma**2).sqrt() * (y[:, 1] - m)  # where the flow of the ODE leads
    assert torch.allclose(found.pictures["sampled"][:, 1], sampled.clamp(-1, 1), atol=0.02)
    m, s, level = OWN[0] * STD[0] + MEAN[0], OWN[1] * STD[0], sigma * STD[0] / STD[1]  # to which its noise was raised
    gain, found_0 = s**2 / (s**2 + level**2), found.pictures["denoised"][:, 0]
    assert found_0.mean().item() == pytest.approx((m + gain * (y[:, 0].mean() - m)).item(), abs=0.02)
    assert found_0.std().item() == pytest.approx((gain * (0.2**2 + level**2 - sigma**2) ** 0.5).item(), rel=0.06)
    assert "noisy" not in found.pictures and "psnr_noisy" not in found.numbers


def test_noise_is_added_where_that_is_asked(pixels):
    given, random = batch(1)
    found = Denoise(MMPS, 0.2, add=True)(pixels, given, random)
    assert (found.pictures["noisy"] - given["image"]).std().item() == pytest.approx(0.2, rel=0.05)
    assert found.numbers["psnr_noisy"].item() == pytest.approx(10 * math.log10(4 / 0.04), abs=0.5)


def test_denoised_is_the_mean_of_draws_where_latents_are_not_pixels(latents):
    given, random = batch(1)
    one, three = (Denoise(MMPS, 0.5, draws=draws)(latents, given, random).pictures for draws in (1, 3))
    assert torch.equal(one["denoised"], one["sampled"]) and torch.equal(one["sampled"], three["sampled"])
    assert not torch.allclose(three["denoised"], three["sampled"])


def test_a_latent_is_known_where_all_of_its_pixels_are():
    hole = torch.zeros(1, 1, 4, 6)
    hole[..., 1, 2], hole[..., 3, 5] = 1, 1
    assert known_latents(hole, 2)[0, 0].tolist() == [[1, 0, 1], [1, 1, 0]]
    with pytest.raises(ValueError, match="no latent, of 4 x 4 pixels, is wholly outside .* task.through_decoder=true"):
        known_latents(torch.eye(4)[None, None], 4)


def test_psnr_by_hand():
    x, y, where = (
        torch.zeros(1, 2, 1, 2),
        torch.tensor([[0.2, 1.0], [0.2, 1.0]]).view(1, 2, 1, 2),
        torch.tensor([1.0, 0]),
    )
    assert psnr(x, y).item() == pytest.approx(10 * math.log10(4 / 0.52))
    assert psnr(x, y, where.view(1, 1, 1, 2)).item() == pytest.approx(20, abs=1e-4)


def test_what_cannot_be_done_is_told(latents, tmp_path):
    other = LatentModel.load(saved(tmp_path / "a", tiny(tmp_path / "a", "prior=normal")))
    vq = tiny(tmp_path / "b", "autoencoder=vq_f4_small", "condition=none")
    quantised = LatentModel.load(saved(tmp_path / "b", vq))
    for task in every(posterior=MMPS).values():
        with pytest.raises(ValueError, match=r"needs a prior with a denoiser \(diffusion or flow matching\).*Normal"):
            task.check(other)
        with pytest.raises(ValueError, match="first stage quantises before it; take a run with autoencoder=kl_f4"):
            task.check(quantised)
    Inpaint("box", MMPS, through_decoder=False).check(quantised)
    with pytest.raises(ValueError, match="factor=3 does not divide this model's images of 32 x 32 pixels"):
        SuperResolution(MMPS, 3).check(latents)


def job(run, out, *words):
    apply(**compose(f"run={run}", "device=cpu", f"out={out}", *words, name="apply"))


def test_on_the_command_line(run, tmp_path):
    """With a mask drawn by hand and another posterior; a mask of another size before anything is written."""
    image, mask = tmp_path / "x.png", np.zeros((32, 32), np.uint8)
    PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)).save(image)
    mask[10:20, 5:9] = 255
    PIL.Image.fromarray(mask).save(tmp_path / "m.png")
    words = ("task=inpaint", f"task.mask={tmp_path / 'm.png'}", "diffusion/posterior=diffpir", f"images={image}")
    job(run, tmp_path / "out", *words)
    said = json.loads((tmp_path / "out" / "result.json").read_text())
    assert said["task"]["posterior"]["_target_"].endswith("DiffPIR") and "psnr" in said["means"]
    filled, given = (np.array(PIL.Image.open(each)) for each in (tmp_path / "out" / "0000-filled.png", image))
    assert np.array_equal(filled[mask == 0], given[mask == 0]) and (filled[mask > 0] != given[mask > 0]).any()
    PIL.Image.fromarray(mask[:20]).save(tmp_path / "m.png")
    with pytest.raises(ValueError, match="m.png is 32 x 20 pixels, and this model's images are 32 x 32"):
        job(run, tmp_path / "other", *words)
    assert not (tmp_path / "other").exists()
    with pytest.raises(
        ValueError, match="posterior= is of tasks that solve an inverse problem, and task=embed is none"
    ):
        job(run, tmp_path / "other", "task=embed", "diffusion/posterior=dps", f"images={image}")
