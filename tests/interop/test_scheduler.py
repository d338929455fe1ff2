"""A scheduler's config is honoured, handed over or refused, key by key; the peer is run in the test."""

import inspect
import json
import logging

import pytest
import torch

from ldm.diffusion.grid import Leading, Trailing
from ldm.diffusion.parameterization import Data, Noise, V
from ldm.diffusion.sampler.ddim import DDIM
from ldm.diffusion.schedule import ScaledLinear, ZeroTerminalSNR
from ldm.interop.diffusers import denoiser_from_diffusers, unet_from_diffusers
from ldm.interop.diffusers_config import ForeignModelError
from ldm.interop.diffusers_scheduler import DEFAULTS, NEUTRAL, SAMPLING, TRAINING, read_scheduler
from ldm.random import Random
from ldm.types import Context

diffusers = pytest.importorskip("diffusers")

LATENT = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
V_ZERO = LATENT | {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}


@pytest.fixture(scope="module")
def unet():
    torch.manual_seed(0)
    parts = {
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "cross_attention_dim": 12,
        "attention_head_dim": 2,
    }
    return diffusers.UNet2DConditionModel(**parts).eval()


def pipeline(folder, unet, scheduler):
    """The directory of a pipeline of both; returns the U-Net's share of a denoising problem, too."""
    unet.save_pretrained(folder / "unet")
    scheduler.save_pretrained(folder / "scheduler")
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 5, 12, generator=generator)


@torch.no_grad()
def their_samples(unet, scheduler, x, tokens, steps):
    scheduler.set_timesteps(steps)
    for step in scheduler.timesteps:
        x = scheduler.step(unet(x, step, tokens).sample, step, x).prev_sample
    return x


@torch.no_grad()
def our_samples(denoiser, grid, x, tokens, steps):
    return DDIM()(denoiser, x, grid(denoiser.schedule, steps), Context(tokens), Random(0, 0, torch.arange(len(x))))


@pytest.mark.parametrize(
    "training",
    [
        V_ZERO,
        V_ZERO | {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02, "num_train_timesteps": 200},
        V_ZERO | {"prediction_type": "sample"},
        LATENT | {"prediction_type": "epsilon"},
        LATENT | {"prediction_type": "v_prediction", "beta_schedule": "squaredcos_cap_v2"},
        {"trained_betas": torch.linspace(0.001, 0.03, 50).tolist(), "num_train_timesteps": 50},
        {},
    ],
    ids=["v-zero", "v-zero-linear", "data-zero", "noise", "v-cosine", "betas", "defaults"],
)
def test_a_pipeline_samples_as_the_peer_does(training, unet, tmp_path):
    """DDIM through all of ten steps, from the last of the table."""
    theirs = diffusers.DDIMScheduler(**training, timestep_spacing="trailing", clip_sample=False)
    x, tokens = pipeline(tmp_path, unet, theirs)
    ours = denoiser_from_diffusers(tmp_path)
    grid = Trailing(training.get("num_train_timesteps", 1000))
    wanted = their_samples(unet, theirs, x, tokens, 10)
    assert wanted.std() > 1e-2
    torch.testing.assert_close(our_samples(ours, grid, x, tokens, 10), wanted, atol=1e-5, rtol=3e-5)


def test_published_steps_with_an_offset(unet, tmp_path):
    theirs = diffusers.DDIMScheduler(**V_ZERO, timestep_spacing="leading", steps_offset=1, clip_sample=False)
    x, tokens = pipeline(tmp_path, unet, theirs)
    got = our_samples(denoiser_from_diffusers(tmp_path), Leading(1), x, tokens, 10)
    torch.testing.assert_close(got, their_samples(unet, theirs, x, tokens, 10), atol=1e-5, rtol=1e-5)


def test_the_network_is_told_the_steps_of_the_rescaled_table(unet, tmp_path):
    """Trap: at the log-SNR of step 500 of the rescaled table, the plain table has step 527."""
    pipeline(tmp_path, unet, diffusers.DDIMScheduler(**V_ZERO))
    schedule = ZeroTerminalSNR(ScaledLinear(), 1e-3)
    steps = torch.tensor([0, 1, 250, 500, 750, 998, 999])
    log_snr = schedule.log_snr((steps + 1).double() / 1000)
    assert log_snr[-1] == -torch.inf
    for loaded in (unet_from_diffusers(tmp_path), denoiser_from_diffusers(tmp_path).backbone):
        torch.testing.assert_close(loaded.time.step(log_snr.clamp(min=-20).float()), steps.double(), atol=0, rtol=0)


def test_a_unet_alone_is_no_denoiser(unet, tmp_path):
    unet.save_pretrained(tmp_path / "network")
    with pytest.raises(FileNotFoundError, match=r"scheduler_config.json is missing.*give the directory of the whole"):
        denoiser_from_diffusers(tmp_path / "network")
    denoiser = denoiser_from_diffusers(tmp_path / "network", read_scheduler(V_ZERO))
    assert isinstance(denoiser.parameterization, V) and isinstance(denoiser.schedule, ZeroTerminalSNR)


@pytest.mark.parametrize("kind, ours", [("epsilon", Noise), ("v_prediction", V), ("sample", Data)])
def test_the_prediction_is_read(kind, ours):
    assert type(read_scheduler({"prediction_type": kind}).parameterization) is ours


def our_alphas(config):
    schedule = read_scheduler(config).schedule
    steps = config.get("num_train_timesteps", 1000)
    return schedule.alpha_sigma(torch.arange(1, steps + 1, dtype=torch.float64) / steps)[0]


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("beta_schedule", ["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"])
def test_the_tables_are_theirs(beta_schedule, zero):
    given = {"beta_schedule": beta_schedule, "num_train_timesteps": 300, "prediction_type": "v_prediction"}
    theirs = diffusers.DDPMScheduler(**given, rescale_betas_zero_snr=zero)
    wanted = theirs.alphas_cumprod.double().sqrt()
    torch.testing.assert_close(our_alphas(dict(theirs.config)), wanted, atol=2e-5, rtol=0)


def test_rescaling_keeps_the_first_step_of_any_table():
    few = V_ZERO | {"num_train_timesteps": 50}
    first = our_alphas(few | {"rescale_betas_zero_snr": False})[0]
    torch.testing.assert_close(our_alphas(few)[0], first, atol=1e-12, rtol=0)
    assert first.item() == pytest.approx((1 - 0.00085) ** 0.5) and our_alphas(few)[-1] == 0


def classes():
    """Every scheduler of the installed diffusers whose constructor takes a schedule of betas."""
    for name in dir(diffusers):
        if name.endswith("Scheduler") and not name.startswith("Flax"):
            defaults = inspect.signature(getattr(diffusers, name).__init__).parameters
            if "beta_schedule" in defaults:
                yield name, {key: p.default for key, p in defaults.items() if key not in ("self", "kwargs")}


OTHERS = {"CogVideoXDDIMScheduler", "CogVideoXDPMScheduler", "RePaintScheduler", "UnCLIPScheduler"}
"""Of other models than a U-Net of images, refused by their names."""


def test_every_default_is_the_installed_peers():
    found = dict(classes())
    assert found.keys() == DEFAULTS.keys() | OTHERS
    for name in DEFAULTS:
        for key, value in DEFAULTS[name].items():
            assert found[name].get(key, value) == value, (name, key)


def test_every_key_of_theirs_is_honoured_handed_over_or_refused():
    known = TRAINING.keys() | SAMPLING | NEUTRAL.keys()
    for name, defaults in classes():
        if name not in OTHERS:
            assert not defaults.keys() - known, name
    assert not SAMPLING & TRAINING.keys()


def test_choices_of_sampling_are_handed_over_and_named(unet, tmp_path, caplog):
    theirs = diffusers.DDIMScheduler(**LATENT, clip_sample=True, timestep_spacing="leading", steps_offset=1)
    pipeline(tmp_path, unet, theirs)
    with caplog.at_level(logging.INFO, "ldm"):
        denoiser_from_diffusers(tmp_path)
    assert "clip_sample=True" in caplog.text and "steps_offset=1" in caplog.text and "leading" in caplog.text
    written = json.loads((tmp_path / "scheduler" / "scheduler_config.json").read_text())
    sampling = read_scheduler(written).sampling
    assert sampling == {key: value for key, value in written.items() if key in SAMPLING} and len(sampling) == 8
    assert "beta_start" not in sampling and "prediction_type" not in sampling


@pytest.mark.parametrize(
    "config, said",
    [
        ({"prediction_type": "flow_prediction"}, "prediction_type is flow_prediction; epsilon, v_prediction, sample"),
        ({"beta_schedule": "laplace"}, "beta_schedule is laplace; linear, scaled_linear, squaredcos_cap_v2, sigmoid"),
        ({"variance_type": "learned_range"}, "variance_type is learned_range"),
        ({"timestep_type": "continuous"}, "timestep_type is continuous"),
        ({"use_flow_sigmas": True}, "use_flow_sigmas is True"),
        ({"snr_shift_scale": 3.0}, "snr_shift_scale is 3.0, and not known"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}, "FlowMatchEulerDiscreteScheduler is none"),
        ({"rescale_betas_zero_snr": True}, "noise prediction says nothing of x at t = 1"),
    ],
    ids=lambda case: next(iter(case)) if isinstance(case, dict) else "",
)
def test_what_cannot_be_honoured_is_refused_by_name(config, said):
    with pytest.raises(ValueError, match=said):
        read_scheduler(config)


def test_a_table_below_what_networks_are_told_is_refused(unet, tmp_path):
    """40,000 steps to zero: their log-SNR falls below -20 before the last."""
    many = read_scheduler(V_ZERO | {"num_train_timesteps": 40_000})
    unet.save_pretrained(tmp_path / "unet")
    with pytest.raises(ForeignModelError, match="step 39998 of this schedule has log-SNR"):
        denoiser_from_diffusers(tmp_path / "unet", many)
