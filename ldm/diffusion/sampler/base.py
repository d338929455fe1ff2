"""Samplers: from noise to data along a grid of times; a new one writes `step` and nothing else.

A sampler sees a denoiser, a schedule and times. What it remembers between steps it returns as `memory`, so a sampler
has no state. Its noise is a function of (seed, step of the grid, image), so an image does not depend on the batch that
it was sampled in. Times reversed run the probability-flow ODE backwards (inversion); times cut begin in the middle
(img2img).

The two ends are the same for all. To the data, t = 0, every rule of the literature steps by x_0 = E[x | x_t]: that is
the limit of DDIM, of ancestral sampling and of DPM-Solver++ as sigma_s -> 0, Euler's last step in EDM (arXiv
2206.00364, algorithm 1) and Tweedie's formula after Langevin dynamics. From the data E[eps | x_0] = 0, so x_s = alpha_s
x. `step` never sees t = 0.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ldm.constructed import Constructed
from ldm.diffusion.denoiser import Denoiser, along
from ldm.random import Random
from ldm.types import Context, Latent, Time


class Sampler(Constructed, ABC):
    """
    order: the error of a sample, or of its mean and deviation where it is stochastic, falls as steps^-order;
    floor: down to this, which finer grids do not remove;
    stochastic: whether noise is added on the way, so that times cannot be reversed.
    """

    order: int
    floor: float = 0.0
    stochastic: bool = False

    @abstractmethod
    def step(
        self, denoiser: Denoiser, x_t: Latent, t: Time, s: Time, c: Context, noise: Callable[[], Latent], memory: Any
    ) -> tuple[Latent, Any]:
        """x_s of x_t, and what the next step may want to know; t, s (b,) in (0, 1]; `noise()` gives standard normals,
        others at each call. alpha may be 0 at t, but not at s."""

    def begin(self, times: Float[Tensor, " n"]) -> Any:
        """The memory of the first step: what it has to know of the grid."""
        return None

    @torch.no_grad()
    def __call__(
        self, denoiser: Denoiser, x_t: Latent, times: Float[Tensor, " n"], c: Context, random: Random
    ) -> Latent:
        """Follow `times` (on the CPU, so that no step waits for a device) from x_t, which is at times[0], to times[-1]."""
        memory, known = self.begin(times), times.tolist()
        if self.stochastic and known[-1] > known[0]:
            raise ValueError(
                f"times run from {known[0]} up to {known[-1]}, but {type(self).__name__} adds noise and cannot go back; "
                "invert with a sampler of the ODE, as ddim, heun or unipc"
            )
        grid = times.to(x_t.device)[:, None].repeat(1, len(x_t))
        for k in range(len(known) - 1):
            here, t, s = denoiser.within(known[k], known[k + 1]), grid[k], grid[k + 1]
            if known[k + 1] <= 0:
                x_t = here(x_t, t, c)
            elif known[k] <= 0:
                x_t = along(denoiser.schedule.alpha_sigma(s)[0], x_t) * x_t
            else:
                noise = _Noise(random, k, tuple(x_t.shape[1:]))
                x_t, memory = self.step(here, x_t, t, s, c, noise, memory)
        return x_t


class _Noise:
    """The noise of step k, drawn only by a sampler that asks for it."""

    def __init__(self, random: Random, k: int, shape: tuple[int, ...]):
        self.random, self.k, self.shape, self.draws = random, k, shape, 0

    def __call__(self) -> Latent:
        stream = f"sampler step {self.k}" + (f" draw {self.draws}" if self.draws else "")
        self.draws += 1
        return self.random.normal(stream, self.shape)
