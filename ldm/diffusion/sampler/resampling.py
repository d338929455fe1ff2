"""Resampling: a sampler that goes back in time and forth again (RePaint, Lugmayr et al. 2022, section 4.2).

After `jump` steps, from t to s, noise is added as the forward process adds it,

    x_t = (alpha_t / alpha_s) x_s + sqrt(sigma_t^2 - (alpha_t sigma_s / alpha_s)^2) n,

and the same steps are made again, `repeats` times in all. If x_s has the law of its time, then so has x_t, so nothing is lost
where the inner sampler is exact; where it is not, its errors are forgotten (Xu et al. 2023 use it for that alone). With
`replacement` around the denoiser this is RePaint: each time, the part that was measured and the part that is made up come
nearer to what fits together. The noise of 10 of the paper's 250 steps is that of one step of 25.

The memory of the inner sampler begins anew at each jump, for it is of an x_t that is no more. The last step, to the data, is
the loop's and is not repeated.

Sources:
    Lugmayr et al., RePaint: Inpainting using Denoising Diffusion Probabilistic Models (2022), arXiv 2201.09865
    Xu et al., Restart Sampling for Improving Generative Processes (2023), arXiv 2306.14878
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor

from ldm.diffusion.denoiser import Denoiser, along
from ldm.diffusion.sampler.base import Sampler
from ldm.diffusion.schedule import Schedule
from ldm.types import Context, Latent, Time


@dataclass(frozen=True)
class _Stretch:
    """The steps since the last jump: how the inner sampler begins, each step's denoiser, t and s, and its memory now."""

    first: Any
    steps: tuple[tuple[Denoiser, Time, Time], ...]
    memory: Any


class Resampling(Sampler):
    """Steps of another sampler, each stretch of `jump` steps made `repeats` times with noise added in between.

    Arguments:
        sampler: the other sampler.
        jump: steps of a stretch.
        repeats: how often each stretch is made; 1 is the other sampler alone.
    """

    order = 1

    def __init__(self, sampler: Sampler, jump: PositiveInt = 1, repeats: PositiveInt = 4):
        self.sampler, self.jump, self.repeats = sampler, jump, repeats
        self.stochastic, self.floor = sampler.stochastic or repeats > 1, sampler.floor

    def begin(self, times: Float[Tensor, " n"]) -> Any:
        """An empty stretch."""
        first = self.sampler.begin(times)
        return _Stretch(first, (), first)

    def step(
        self, denoiser: Denoiser, x_t: Latent, t: Time, s: Time, c: Context, noise: Callable[[], Latent], memory: Any
    ) -> tuple[Latent, Any]:
        x_s, now = self.sampler.step(denoiser, x_t, t, s, c, noise, memory.memory)
        stretch = _Stretch(memory.first, (*memory.steps, (denoiser, t, s)), now)
        if self.repeats == 1 or len(stretch.steps) < self.jump:
            return x_s, stretch
        for _ in range(self.repeats - 1):
            x_s = noised(denoiser.schedule, x_s, s, stretch.steps[0][1], noise)
            now = stretch.first
            for here, start, end in stretch.steps:
                x_s, now = self.sampler.step(here, x_s, start, end, c, noise, now)
        return x_s, _Stretch(memory.first, (), memory.first)


def noised(schedule: Schedule, x_s: Latent, s: Time, t: Time, noise: Callable[[], Latent]) -> Latent:
    """x_t (b, c, h, w) of the forward process from x_s (b, c, h, w), at times s <= t, (b,)."""
    (alpha_s, sigma_s), (alpha_t, sigma_t) = schedule.alpha_sigma(s), schedule.alpha_sigma(t)
    ratio = alpha_t / alpha_s
    std = (sigma_t**2 - (ratio * sigma_s) ** 2).clamp(min=0).sqrt()
    return along(ratio, x_s) * x_s + along(std, x_s) * noise()
