"""The same network under diffusers' schedulers and under our samplers: the same trajectory, by the same noise.

A network sees variance-preserving x_t and a step k of a table of 1000, which is t = (k + 1) / 1000 here. diffusers'
Euler and Heun keep x_t / alpha and scale it before the network sees it, so what is compared is what the network sees,
step by step, and the last x.

Options are set so that a scheduler does what its paper says: no clipping of x (clip_sample), a last sigma of 0
(final_sigmas_type, the default) and alpha = 1 at the end (set_alpha_to_one, the default). Euler and Heun at spacing
'linspace' put steps between those of the table, where diffusers interpolates sigma / alpha linearly and we log-SNR, so
they are compared at whole steps only. Heun's method is theirs without its limit.
"""

import math

import pytest
import torch

from ldm.diffusion.denoiser import Denoiser, along
from ldm.diffusion.sampler.ddim import DDIM
from ldm.diffusion.sampler.ddpm import DDPM
from ldm.diffusion.sampler.dpmpp import DPMpp
from ldm.diffusion.sampler.euler import Euler
from ldm.diffusion.sampler.heun import Heun
from ldm.diffusion.sampler.unipc import UniPC
from ldm.diffusion.schedule import Rectified, ScaledLinear
from ldm.random import Random
from ldm.types import Context
from tests.pieces import pieces

diffusers = pytest.importorskip("diffusers", reason="peers are compared where the extra 'test' is installed")

TABLE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
VP = {**TABLE, "clip_sample": False}
BOTH, ALL = ("leading", "trailing"), ("leading", "trailing", "linspace")
# name: scheduler, its options, its step's options, our sampler, spacings, whether it keeps x_t / alpha
PEERS = {
    "ddpm": ("DDPMScheduler", VP, {}, lambda: DDPM(), BOTH, False),
    # At 'trailing' diffusers adds this variance in the last step, too, which ends at t = 0.
    "ddpm large": ("DDPMScheduler", {**VP, "variance_type": "fixed_large"}, {}, lambda: DDPM(large=True), ("leading",), False),
    "ddim": ("DDIMScheduler", VP, {"eta": 0.0}, lambda: DDIM(), BOTH, False),
    "ddim eta 1": ("DDIMScheduler", VP, {"eta": 1.0}, lambda: DDIM(1.0), BOTH, False),
    "euler": ("EulerDiscreteScheduler", TABLE, {}, lambda: DDIM(), BOTH, True),
    "euler ancestral": (
        "EulerAncestralDiscreteScheduler", TABLE, {}, pieces("diffusion/sampler")["euler_ancestral"], BOTH, True
    ),
    "heun": ("HeunDiscreteScheduler", TABLE, {}, lambda: Heun(limit=math.inf), BOTH, True),
    "dpmpp 2m": ("DPMSolverMultistepScheduler", TABLE, {}, lambda: DPMpp(), ALL, False),
    "dpmpp 2m sde": (
        "DPMSolverMultistepScheduler", {**TABLE, "algorithm_type": "sde-dpmsolver++"}, {}, lambda: DPMpp(sde=True), ALL, False
    ),
    "unipc": ("UniPCMultistepScheduler", {**TABLE, "final_sigmas_type": "zero"}, {}, lambda: UniPC(), ALL, False),
}  # fmt: skip


def network(x, k):
    """Something like eps, and not linear."""
    return 0.8 * torch.tanh(x) + 0.2 * torch.sin(3 * x + k / 150)


class Ours(Denoiser):
    """The network predicts eps, or the velocity where paths are straight; `seen` is what it was given."""

    def __init__(self, schedule):
        super().__init__()
        self.schedule, self.seen = schedule, []

    def forward(self, x_t, t, c):
        self.seen.append(x_t)
        alpha, sigma = self.schedule.alpha_sigma(t)
        if isinstance(self.schedule, Rectified):
            return x_t - along(t, x_t) * network(x_t, along(1000 * t, x_t))
        return (x_t - along(sigma, x_t) * network(x_t, along(1000 * t - 1, x_t))) / along(alpha, x_t)


class Given(Random):
    """The n-th noise that is asked for is the n-th of all."""

    def __init__(self, noise):
        super().__init__(0, 0, torch.arange(noise.shape[1]))
        self.noise = iter(noise)

    def normal(self, stream, shape=()):
        return next(self.noise)


def theirs(scheduler, options, x, scaled):
    """What the network sees on the way, and the last x."""
    seen = []
    for k in scheduler.timesteps:
        seen.append(scheduler.scale_model_input(x, k) if scaled else x)
        x = scheduler.step(network(seen[-1], k), k, x, **options, return_dict=False)[0]
    return [*seen, x]


def times_of(scheduler):
    """Heun's timesteps come twice."""
    return torch.cat([(scheduler.timesteps.float().unique().flip(0) + 1) / 1000, torch.zeros(1)]).float()


def noises(steps):
    return torch.randn(steps, 4, 2, 3, 3, generator=torch.Generator().manual_seed(0))


CASES = [(name, spacing, steps) for name, peer in PEERS.items() for spacing in peer[4] for steps in (5, 20, 50)]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("name", "spacing", "steps"), CASES)
def test_the_same_trajectory(name, spacing, steps, monkeypatch):
    kind, options, step, sampler, _, scaled = PEERS[name]
    scheduler = getattr(diffusers, kind)(**options, timestep_spacing=spacing)
    scheduler.set_timesteps(steps)
    noise, times = noises(steps + 1), times_of(scheduler)
    given = iter(noise[1:])
    module = __import__(type(scheduler).__module__, fromlist=["x"])
    if hasattr(module, "randn_tensor"):
        monkeypatch.setattr(module, "randn_tensor", lambda *shape, **_: next(given))
    denoiser = Ours(ScaledLinear())
    found = sampler()(denoiser, noise[0], times, Context(), Given(noise[1:]))
    start = noise[0] / denoiser.schedule.alpha_sigma(times[:1])[0] if scaled else noise[0]
    wanted = theirs(scheduler, step, start, scaled)
    for ours, peers in zip([*denoiser.seen, found], wanted, strict=True):
        assert (ours - peers).abs().max() < 1e-4 * max(1, peers.abs().max())


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("steps", [5, 20, 50])
def test_the_same_flow(steps, shift):
    """FlowMatchEuler: its sigma is our t, from 1 to 1/1000 and then 0."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(steps)
    x, denoiser = noises(1)[0], Ours(Rectified())
    wanted = theirs(scheduler, {}, x, False)
    for sampler in (Euler(), DDIM()):
        denoiser.seen = []
        found = sampler(denoiser, x, scheduler.sigmas, Context(), Random(0, 0, torch.arange(4)))
        for ours, peers in zip([*denoiser.seen, found], wanted, strict=True):
            assert (ours - peers).abs().max() < 1e-4
