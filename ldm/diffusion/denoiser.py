"""Denoisers: E[x | x_t, c], the expected clean latent given a noisy one and the context. Samplers, guidance and
likelihoods know a model by this function alone.

`NetworkDenoiser` turns a backbone F(c_in x_t, log SNR, c) into a denoiser, by x = (b x_t - sigma F) / det (see
ldm.diffusion.parameterization). The factor c_in = 1 / sqrt(alpha^2 + sigma^2) gives the backbone inputs of unit variance,
since latents have unit variance (Karras et al. 2022, table 1). The loss that it is trained with is written down in
ldm.diffusion.weighting.

Sources:
    Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models (2022), arXiv 2206.00364
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ldm.diffusion.parameterization import Parameterization
from ldm.diffusion.schedule import Schedule
from ldm.types import Context, Latent, Time

FARTHEST = 20.0
"""Log SNR is clamped to [-20, 20] before a network is given it: a schedule may end at pure data or pure noise, where log SNR
is infinite."""


def along(value: Time, x: Latent) -> Tensor:
    """`value`, (b,), reshaped to (b, 1, 1, 1), so that it multiplies `x`, (b, c, h, w), example by example."""
    return value.view(-1, *[1] * (x.ndim - 1))


class Denoiser(nn.Module, ABC):
    """E[x | x_t, c] of a model at every time t of its schedule. A new one writes `forward`.

    Attributes:
        schedule: alpha(t) and sigma(t) of x_t = alpha x + sigma eps.
    """

    schedule: Schedule

    @abstractmethod
    def forward(self, x_t: Latent, t: Time, c: Context) -> Latent:
        """E[x | x_t, c] for noisy latents x_t (b, c, h, w) at times t (b,), (b, c, h, w)."""

    def within(self, t: float, s: float) -> Denoiser:
        """A denoiser that gives the same answers as this one at all times between t and s, perhaps at a lower cost.

        t and s are Python numbers and not tensors on a device. So guidance that is limited to some noise levels can decide
        for a whole step of a sampler whether it is needed, without waiting for the device.
        """
        return self


class Rescheduled(Denoiser):
    """A denoiser on another schedule than the one that it was trained on.

    E[x | x_t] depends on (alpha, sigma) only through their ratio and a known scale of x_t. So x_t is rescaled to what it
    would be on the trained schedule at the time of the same log SNR, and the trained denoiser is asked there. Where the new
    schedule goes beyond the ends of the trained one, the nearest end is asked.

    Arguments:
        denoiser: the trained denoiser.
        schedule: the new schedule.
    """

    def __init__(self, denoiser: Denoiser, schedule: Schedule):
        super().__init__()
        self.denoiser, self.schedule = denoiser, schedule

    def forward(self, x_t: Latent, t: Time, c: Context) -> Latent:
        s = self.denoiser.schedule.time(self.schedule.log_snr(t)).clamp(min=1e-5).where(t > 0, 0)
        scale = torch.hypot(*self.denoiser.schedule.alpha_sigma(s)) / torch.hypot(*self.schedule.alpha_sigma(t))
        return self.denoiser(along(scale, x_t) * x_t, s, c)


class Watched(Denoiser):
    """A denoiser whose answers are told as they come: what a sampler goes by, made visible.

    Arguments:
        denoiser: that answers.
        tell: called with the time of the first example and the answer (b, c, h, w). What it raises ends the sample.
    """

    def __init__(self, denoiser: Denoiser, tell: Callable[[float, Latent], None]):
        super().__init__()
        self.denoiser, self.schedule, self.tell = denoiser, denoiser.schedule, tell

    def within(self, t: float, s: float) -> Denoiser:
        return Watched(self.denoiser.within(t, s), self.tell)

    def forward(self, x_t: Latent, t: Time, c: Context) -> Latent:
        x = self.denoiser(x_t, t, c)
        self.tell(t[0].item(), x)
        return x


@dataclass(frozen=True)
class Errors:
    """The mean squared errors of a prediction, one number for each example, (b,).

    Fields:
        prediction: of F itself.
        eps: the same error as one of eps, at fixed x_t.
        x: the same error as one of x, at fixed x_t.
    """

    prediction: Time
    eps: Time
    x: Time


class NetworkDenoiser(Denoiser):
    """The denoiser x = (b x_t - sigma F) / det of a network F that predicts a x + b eps, with det = alpha b - sigma a.

    Arguments:
        backbone: the network F(x, log_snr, c).
        schedule: alpha(t) and sigma(t).
        parameterization: the pair (a, b), which says what the network predicts.
    """

    def __init__(self, backbone: nn.Module, schedule: Schedule, parameterization: Parameterization):
        super().__init__()
        self.backbone, self.schedule, self.parameterization = backbone, schedule, parameterization

    def _predict(self, x_t: Latent, alpha: Time, sigma: Time, c: Context) -> Latent:
        """The network's output F for x_t, in float32."""
        c_in = (alpha**2 + sigma**2).rsqrt()
        log_snr = (2 * (alpha.log() - sigma.log())).clamp(-FARTHEST, FARTHEST)
        return self.backbone(along(c_in, x_t) * x_t, log_snr, c).float()

    def forward(self, x_t: Latent, t: Time, c: Context) -> Latent:
        alpha, sigma = self.schedule.alpha_sigma(t)
        a, b = self.parameterization.pair(self.schedule, t)
        det = alpha * b - sigma * a
        clean = t <= 0  # x_0 is x itself; for some parameterizations the formula would be 0 / 0 there
        c_skip, c_out = torch.where(clean, 1, b / det), torch.where(clean, 0, -sigma / det)
        return along(c_skip, x_t) * x_t + along(c_out, x_t) * self._predict(x_t, alpha, sigma, c)

    def errors(self, x: Latent, eps: Latent, t: Time, c: Context) -> Errors:
        """The mean squared errors of the prediction at x_t = alpha x + sigma eps.

        The target a x + b eps is computed from x and eps. To compute it from x_t by subtraction would lose all digits near
        t = 0 in bfloat16.

        Arguments:
            x, eps: clean latents and standard normal noise, (b, c, h, w).
            t: times in (0, 1], (b,).
            c: the context.
        """
        with torch.autocast(x.device.type, enabled=False):
            alpha, sigma = self.schedule.alpha_sigma(t)
            a, b = self.parameterization.pair(self.schedule, t)
            x_t = along(alpha, x) * x + along(sigma, x) * eps
            target = along(a, x) * x + along(b, x) * eps
        error = (self._predict(x_t, alpha, sigma, c) - target).square().flatten(1).mean(1)
        det = alpha * b - sigma * a
        return Errors(error, (alpha / det).square() * error, (sigma / det).square() * error)
