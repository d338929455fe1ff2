"""Guidance: a denoiser around a denoiser, which also gives the plain answer that it moved away from.

Three choices are independent of each other. What the plain answer is moved away from: the same network without its
condition (`classifier_free`), or a worse one (`autoguidance`). How far it goes that way: `rescaled` and `projected`
change the update and are functions of (guided, plain) alone. And when: `interval`. The first kind wraps a denoiser, the
others wrap a guidance, so that any of them go together.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

from torch import nn

from ldm.diffusion.denoiser import Denoiser
from ldm.types import Context, Latent, Time


class Guidance(Denoiser):
    """
    neutral: arguments with which it is the identity around `around`, bit for bit.
    around: the denoiser, or guidance, that it is wrapped around.
    """

    neutral: ClassVar[dict[str, Any]]

    def __init__(self, around: Denoiser):
        nn.Module.__init__(self)
        self.around, self.schedule = around, around.schedule

    @property
    def unconditional(self) -> bool:
        """Whether it asks for the answer without a condition, which has to be trained by dropping conditions."""
        return False

    @abstractmethod
    def pair(self, x_t: Latent, t: Time, c: Context) -> tuple[Latent, Latent]:
        """The guided E[x | x_t, c] and the plain one."""

    def forward(self, x_t: Latent, t: Time, c: Context) -> Latent:
        return self.pair(x_t, t, c)[0]
