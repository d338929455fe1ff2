"""Autoguidance (Karras et al. 2024, section 3): away from a worse version of the same model, smaller or less trained.

    x = x_guide + scale (x_c - x_guide),   with the answers x_c of the model and x_guide of the worse one, the guide.

Both are given the condition. So, unlike classifier-free guidance, it does not reduce the variety of the images that fit the
condition. Any denoiser on the same schedule can be the guide. With the same network whose self-attention is replaced by the
identity, this is perturbed-attention guidance (Ahn et al. 2024).

A guide may have been trained with a conditioner of its own, and then needs the context that this conditioner makes. `Paired`
is a context that carries both.

Sources:
    Karras et al., Guiding a Diffusion Model with a Bad Version of Itself (2024), arXiv 2406.02507
    Ahn et al., Self-Rectifying Diffusion Sampling with Perturbed-Attention Guidance (2024), arXiv 2403.17377
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
    """Guidance away from the answer of a worse model.

    Arguments:
        denoiser: the denoiser of the guided model; the prior gives it.
        guide: the denoiser of the worse model; the word guide=DIR gives it.
        scale: how far to go from the guide's answer through the model's; 1 is the model without guidance.
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
    """The model's context together with the context of the guide.

    Fields:
        guide: the context that the guide is given.
    """

    guide: Context | None = None


class Guide(Denoiser):
    """The denoiser of another model, which is given the part `guide` of a `Paired` context.

    Arguments:
        denoiser: the other model's denoiser.
    """

    def __init__(self, denoiser: Denoiser):
        super().__init__()
        self.denoiser, self.schedule = denoiser, denoiser.schedule

    def forward(self, x_t: Latent, t: Time, c: Paired) -> Latent:
        return self.denoiser(x_t, t, c.guide)


def waits_for_guide(guidance: Callable[..., Denoiser]) -> bool:
    """Whether a guidance, or one that it wraps, is an autoguidance whose guide is not given yet."""
    if not isinstance(guidance, functools.partial):
        return guidance is Autoguidance
    if "guidance" in guidance.keywords:
        return waits_for_guide(guidance.keywords["guidance"])
    return guidance.func is Autoguidance and "guide" not in guidance.keywords


def with_guide(guidance: Callable[..., Denoiser], guide: Denoiser) -> functools.partial:
    """A guidance for which `waits_for_guide` is true, with this guide put in its place."""
    if isinstance(guidance, functools.partial) and "guidance" in guidance.keywords:
        return functools.partial(guidance, guidance=with_guide(guidance.keywords["guidance"], guide))
    return functools.partial(guidance, guide=guide)
