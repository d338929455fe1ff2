from functools import partial

import pytest
import torch

from ldm.backbone.mlp import MLP
from ldm.diffusion.grid import Karras, LogSNR
from ldm.diffusion.grid import Uniform as Grid
from ldm.diffusion.guidance.autoguidance import Autoguidance
from ldm.diffusion.guidance.classifier_free import ClassifierFree
from ldm.diffusion.guidance.interval import Interval
from ldm.diffusion.parameterization import V
from ldm.diffusion.sampler.ddim import DDIM
from ldm.diffusion.schedule import Cosine, Rectified
from ldm.diffusion.time import Uniform as Time
from ldm.diffusion.weighting import Prediction
from ldm.prior.base import Latents
from ldm.prior.diffusion import Diffusion
from ldm.random import Random
from ldm.types import Context, ContextShape


def prior(**options) -> Diffusion:
    torch.manual_seed(0)
    parts = (Cosine(), V(), Prediction(), Time(), DDIM(), Grid(), ClassifierFree)
    return Diffusion(
        Latents((3, 2, 2)), ContextShape(), lambda **given: MLP(**given, sides=(2, 2), width=8), *parts, **options
    )


def test_offset_noise_shifts_whole_channels(monkeypatch):
    z, random, noises = torch.randn(5, 3, 2, 2), Random(0, 7, torch.arange(5)), []
    for offset in (0.0, 0.3):
        one = prior(offset_noise=offset)
        monkeypatch.setattr(one, "errors", lambda z, c, t, eps: noises.append(eps) or eps)
        one.loss(z, Context(), random)
    plain, shifted = noises
    assert torch.equal(plain, random.normal("noise", (3, 2, 2)))
    shift = random.normal("offset noise", (3, 1, 1))
    torch.testing.assert_close(shifted - plain, 0.3 * shift.expand(5, 3, 2, 2))


def test_offset_noise_is_off_unless_asked_for():
    z, random = torch.randn(5, 3, 2, 2), Random(0, 7, torch.arange(5))
    losses = [one.loss(z, Context(), random)["diffusion"] for one in (prior(), prior(offset_noise=0.0))]
    assert torch.equal(*losses)
    assert not torch.equal(losses[0], prior(offset_noise=0.1).loss(z, Context(), random)["diffusion"])


class Hears(torch.nn.Module):
    """A backbone that answers 0 and keeps the log-SNR and the tokens that it was told."""

    def __init__(self, channels, context):
        super().__init__()
        self.told = []

    def forward(self, z, log_snr, c):
        self.told.append((log_snr, None if c.tokens is None else c.tokens[:, 0, 0]))
        return torch.zeros_like(z)


def hearing(grid=None, law=None, guidance=ClassifierFree, **options) -> Diffusion:
    parts = (Cosine(), V(), Prediction(), law or Time(), DDIM(), grid or Grid(), guidance)
    return Diffusion(Latents((1, 1, 1)), ContextShape(tokens=1), Hears, *parts, **options)


def conditioned(n):
    """Example i is told i + 1, and the null condition is 0."""
    return Context(tokens=torch.arange(1.0, n + 1).view(n, 1, 1), empty=Context(tokens=torch.zeros(1, 1, 1)))


def test_times_are_stratified_over_the_global_batch():
    """Of 32 examples on two ranks each 32nd of [minimum, 1] has one; independent times would have each with probability 1e-13."""
    times = []
    for rank in range(2):
        one = hearing()
        one.loss(torch.zeros(16, 1, 1, 1), conditioned(16), Random(0, 0, torch.arange(rank, 32, 2), 32))
        times.append(Cosine().time(one.denoiser.backbone.told[0][0].double()))
    strata = (torch.cat(times) - 1e-3) / (1 - 1e-3) * 32
    assert torch.equal(strata.floor().sort().values, torch.arange(32.0).double())


def asked(one, steps):
    """The times at which a sample of `steps` asked the network, of the schedule that it was trained on."""
    one.sample((1, 1, 1, 1), conditioned(1), Random(0, 0, torch.arange(1)))
    told = [log_snr.double() for log_snr, _ in one.denoiser.backbone.told]
    assert len(told) == steps
    return Cosine().time(torch.cat(told))


@pytest.mark.parametrize("grid", [Karras(), LogSNR(), Grid()])
def test_samples_ask_nothing_of_what_was_not_trained(grid):
    """With times from 0.3 on; the last step begins there and goes to the data."""
    times = asked(hearing(grid, Time(minimum=0.3), steps=20), 20)
    assert times.min().item() == pytest.approx(0.3, abs=1e-4) and times.argmin() == 19


def test_nor_on_another_schedule():
    one = hearing(Karras(), Time(minimum=0.3), steps=20, sampling_schedule=Rectified())
    assert one.guided().schedule is one.sampling_schedule
    assert asked(one, 20).min().item() == pytest.approx(0.3, abs=1e-4)
    level = torch.tan(torch.pi / 2 * torch.tensor(0.3)).item()  # sigma / alpha of the cosine, but for its bound
    assert one.lowest(Rectified()) == pytest.approx(level / (1 + level), rel=1e-3)


def test_a_grid_of_noise_levels_is_of_the_schedule_that_samples():
    """sigma / alpha is 2 and 0.1 there; on the way to the cosine schedule a level stays what it is."""
    one = hearing(LogSNR(0.1, 2.0), steps=2, sampling_schedule=Rectified())
    one.sample((1, 1, 1, 1), conditioned(1), Random(0, 0, torch.arange(1)))
    levels = [torch.exp(-log_snr / 2).item() for log_snr, _ in one.denoiser.backbone.told]
    assert levels == pytest.approx([2.0, 0.1], rel=1e-3)


SCALED = partial(ClassifierFree, scale=3.0)


@pytest.mark.parametrize(
    ("guidance", "asks"),
    [
        (SCALED, True),
        (partial(Interval, guidance=SCALED, low=0.4), True),
        (partial(ClassifierFree, scale=0.0), True),
        (ClassifierFree, False),
        (partial(Autoguidance, scale=2.0), False),
    ],
)
def test_whether_samples_ask_for_the_answer_without_a_condition(guidance, asks):
    one = hearing(steps=2)
    one.guidance = guidance
    assert one.asks_null() == asks
