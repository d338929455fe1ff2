"""Autoguidance (arXiv 2406.02507, section 3): away from a worse version of the same model, smaller or less trained.

x = x_guide + scale (x_c - x_guide). The guide sees the condition, too, so unlike classifier-free guidance it says
nothing against the variety of what fits the condition. A guide is any denoiser on the same schedule; a network whose
self-attention is replaced by the identity is one, and makes this perturbed-attention guidance (arXiv 2403.17377).

A guide that was trained with a conditioner of its own reads that one's tokens and no other's: `Paired` carries both.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from pydantic import NonNegativeFloat

from ldm.diffusion.denoiser import Denoiser
from ldm.diffusion.guidance.base import Guidance
from ldm.types import Context, Latent, Time


class Autoguidance(Guidance):
    """
    Arguments:
        denoiser: of the model that is guided; the prior gives it.
        guide: of the worse model; guide=DIR gives it.
        scale: how far beyond the guide's answer; 1 is the plain model.
    """

    neutral: ClassVar = {"scale": 1.0}

    def __init__(self, denoiser: Denoiser, guide: Denoiser, scale: NonNegativeFloat = 1.0):
        super().__init__(denoiser)
        self.guide, self.scale = guide, scale

    def pair(self, x_t: Latent, t: Time, c: Context) -> tuple[Latent, Latent]:
        plain = self.around(x_t, t, c)
        if self.scale == 1:
            return plain, plain
        worse = self.guide(x_t, t, c)
        return worse + self.scale * (plain - worse), plain


@dataclass(frozen=True)
class Paired(Context):
    """A context with that of the guide, which reads it in place of the model's."""

    guide: Context | None = None


class Guide(Denoiser):
    """Another model's denoiser: what it is given is `Paired.guide`."""

    def __init__(self, denoiser: Denoiser):
        super().__init__()
        self.denoiser, self.schedule = denoiser, denoiser.schedule

    def forward(self, x_t: Latent, t: Time, c: Paired) -> Latent:
        return self.denoiser(x_t, t, c.guide)


def waits_for_guide(guidance: Callable[..., Denoiser]) -> bool:
    """Whether it is an autoguidance without a guide, itself or in what it is wrapped around."""
    if not isinstance(guidance, functools.partial):
        return guidance is Autoguidance
    if "guidance" in guidance.keywords:
        return waits_for_guide(guidance.keywords["guidance"])
    return guidance.func is Autoguidance and "guide" not in guidance.keywords


def with_guide(guidance: Callable[..., Denoiser], guide: Denoiser) -> functools.partial:
    """The guidance that waits for a guide, with this one."""
    if isinstance(guidance, functools.partial) and "guidance" in guidance.keywords:
        return functools.partial(guidance, guidance=with_guide(guidance.keywords["guidance"], guide))
    return functools.partial(guidance, guide=guide)
