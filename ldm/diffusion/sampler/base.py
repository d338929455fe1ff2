"""Samplers: from noise to data along a grid of times; a new one writes `step` and nothing else.

A sampler sees a denoiser, a schedule and times. What it remembers between steps it returns as `memory`, so a
sampler has no state. Its noise is a function of (seed, step of the grid, image), so an image does not depend on the batch that
it was sampled in. Times reversed run the probability-flow ODE backwards (inversion); times cut begin in the middle (img2img).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ldm.diffusion.denoiser import Denoiser
from ldm.random import Random
from ldm.types import Context, Latent, Time


class Sampler(ABC):
    @abstractmethod
    def step(
        self, denoiser: Denoiser, x_t: Latent, t: Time, s: Time, c: Context, noise: Callable[[], Latent], memory: Any
    ) -> tuple[Latent, Any]:
        """x_s of x_t, and what the next step may want to know; t, s (b,); `noise()` gives a standard normal."""

    @torch.no_grad()
    def __call__(
        self, denoiser: Denoiser, x_t: Latent, times: Float[Tensor, " n"], c: Context, random: Random
    ) -> Latent:
        """Follow `times` from x_t, which is at times[0], to times[-1]."""
        memory = None
        grid = times.to(x_t.device)[:, None].expand(-1, len(x_t))
        for k in range(len(times) - 1):
            noise = _Noise(random, k, tuple(x_t.shape[1:]))
            x_t, memory = self.step(denoiser, x_t, grid[k], grid[k + 1], c, noise, memory)
        return x_t


class _Noise:
    """The noise of step k, drawn only by a sampler that asks for it."""

    def __init__(self, random: Random, k: int, shape: tuple[int, ...]):
        self.random, self.k, self.shape = random, k, shape

    def __call__(self) -> Latent:
        return self.random.normal(f"sampler step {self.k}", self.shape)
