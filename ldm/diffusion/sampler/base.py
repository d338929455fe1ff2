"""Samplers: from noise to data along a grid of times.

A sampler is given a denoiser, which has a schedule, and the times. It has no state: what it has to remember from one step
to the next it returns as `memory`. Its noise is a function of (seed, step of the grid, image), so an image does not depend
on the batch that it is sampled in. With increasing times the same code runs the probability-flow ODE backwards, from data
to noise (inversion), and with times that begin below 1 it starts from a partly noisy image (image to image).

Steps to and from t = 0 are the same for all samplers and are made by the loop, so that `step` never sees t = 0. The last
step, to the data, is x_0 = E[x | x_t]. All published methods agree in it: it is the limit of DDIM, of ancestral sampling
and of DPM-Solver++ as sigma_s -> 0, the last Euler step of EDM (Karras et al. 2022, algorithm 1), and Tweedie's formula
after Langevin dynamics. The first step of an inversion, from the data, is x_s = alpha_s x, because E[eps | x_0] = 0.

Sources:
    Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models (2022), arXiv 2206.00364
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
    """A rule for the step from one time to the next. A new one writes `step`.

    Attributes:
        order: the error of a sample, or for a stochastic sampler of its mean and standard deviation, falls as steps^-order.
        floor: an error that remains however many steps are taken.
        stochastic: whether noise is added on the way, so that times cannot be reversed.
    """

    order: int
    floor: float = 0.0
    stochastic: bool = False

    @abstractmethod
    def step(
        self, denoiser: Denoiser, x_t: Latent, t: Time, s: Time, c: Context, noise: Callable[[], Latent], memory: Any
    ) -> tuple[Latent, Any]:
        """One step from x_t at time t to x_s at time s. Returns x_s and the memory for the next step.

        Arguments:
            denoiser: gives E[x | x_t, c].
            x_t: noisy latents, (b, c, h, w).
            t, s: times in (0, 1], (b,). alpha may be 0 at t, but not at s.
            c: the context.
            noise: returns standard normal noise of the shape of x_t, new noise at each call.
            memory: what the step before returned, or `begin` for the first step.
        """

    def begin(self, times: Float[Tensor, " n"]) -> Any:
        """The memory for the first step: what the sampler has to know of the grid."""
        return None

    @torch.no_grad()
    def __call__(
        self, denoiser: Denoiser, x_t: Latent, times: Float[Tensor, " n"], c: Context, random: Random
    ) -> Latent:
        """Go from x_t (b, c, h, w) at times[0] along `times` to the latents at times[-1], (b, c, h, w).

        `times` are on the CPU, so that no step has to wait for a device. Raises ValueError where times increase and the
        sampler is stochastic.
        """
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
    """The noise of step k, drawn only when it is called."""

    def __init__(self, random: Random, k: int, shape: tuple[int, ...]):
        self.random, self.k, self.shape, self.draws = random, k, shape, 0

    def __call__(self) -> Latent:
        stream = f"sampler step {self.k}" + (f" draw {self.draws}" if self.draws else "")
        self.draws += 1
        return self.random.normal(stream, self.shape)
