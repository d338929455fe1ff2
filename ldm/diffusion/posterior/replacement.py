"""Replacement: what was measured is put in the place of what the denoiser says of it.

    E[x | x_t, y, c] = m + A^+ (y - A m),        m = E[x | x_t, c],

which has A x = y exactly, and is m in all that A does not see (Wang et al. 2022, equation 13, for any A with a pseudo-inverse
A^+). With a mask and a sampler that adds noise it is the first half of RePaint (Lugmayr et al. 2022, equation 8): there the
known part of x_s is drawn anew from q(x_s | y) in each step; here the sampler makes it from the known part of x_t and y, which
has the same law at each time and that of the true process between them.

What makes it fail: it is exact only where what was measured says nothing of the rest. The rest hears of y through
x_t alone, and too late: borders do not fit. The second half of RePaint, going back in time and forth again, is a sampler:
diffusion/sampler=resampling. Measurements have no noise.

Sources:
    Lugmayr et al., RePaint: Inpainting using Denoising Diffusion Probabilistic Models (2022), arXiv 2201.09865
    Wang et al., Zero-Shot Image Restoration Using Denoising Diffusion Null-Space Model (2022), arXiv 2212.00490
"""

from __future__ import annotations

from ldm.diffusion.denoiser import Denoiser
from ldm.diffusion.posterior.base import Measurement, Posterior
from ldm.diffusion.posterior.operator import Linear
from ldm.types import Context, Latent, Time


class Replacement(Posterior):
    """The mean with what was measured in its place.

    Arguments:
        denoiser: the denoiser, perhaps guided; the prior gives it.
        measurement: what was measured, without noise, by a linear operator; the task gives it.
    """

    def __init__(self, denoiser: Denoiser, measurement: Measurement):
        super().__init__(denoiser, measurement)
        if not isinstance(measurement.operator, Linear):
            raise ValueError(
                "replacement needs a pseudo-inverse of the measurement, which one through a decoder has not; measure in "
                "latents, or take diffusion/posterior=mmps, dps or diffpir"
            )
        if measurement.noise > 0 and not self.silent:
            raise ValueError(
                f"replacement takes what was measured to be exact; its noise is {measurement.noise:g}: say noise=0, or take "
                "diffusion/posterior=mmps, dps or diffpir"
            )

    def given(self, denoiser: Denoiser, x_t: Latent, t: Time, c: Context) -> Latent:
        x, operator = denoiser(x_t, t, c), self.measurement.operator
        return x + operator.pseudo_inverse(self.measurement.y - operator(x))
