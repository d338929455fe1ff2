"""Guidance: a denoiser that wraps a denoiser and moves its answer, E[x | x_t, c], away from a worse one.

A guidance returns a pair: the guided answer, and the plain answer of the wrapped denoiser. Three choices are independent of
each other. What the plain answer is moved away from: the answer of the same network without its condition
(`classifier_free`), or that of a worse network (`autoguidance`). How far it is moved: `rescaled` and `projected` change the
update, and they depend on the guided and the plain answer alone. At which noise levels it is moved: `interval`. A guidance
of the first kind wraps a denoiser, the others wrap a guidance, so that they can be combined freely.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

from torch import nn

from ldm.diffusion.denoiser import Denoiser
from ldm.types import Context, Latent, Time


class Guidance(Denoiser):
    """A denoiser with guidance. A new one writes `pair` and `neutral`.

    Arguments:
        around: the denoiser, or the guidance, that it wraps.

    Attributes:
        neutral: arguments with which it changes nothing, to the last bit.
    """

    neutral: ClassVar[dict[str, Any]]

    def __init__(self, around: Denoiser):
        nn.Module.__init__(self)
        self.around, self.schedule = around, around.schedule

    @property
    def unconditional(self) -> bool:
        """Whether it needs the answer without a condition, for which the model has to be trained with dropped conditions."""
        return False

    @abstractmethod
    def pair(self, x_t: Latent, t: Time, c: Context) -> tuple[Latent, Latent]:
        """The guided and the plain E[x | x_t, c], (b, c, h, w) each, for x_t (b, c, h, w) at times t (b,)."""

    def forward(self, x_t: Latent, t: Time, c: Context) -> Latent:
        """The guided E[x | x_t, c], (b, c, h, w)."""
        return self.pair(x_t, t, c)[0]
