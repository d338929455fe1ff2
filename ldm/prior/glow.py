"""Glow: steps of actnorm, an invertible 1x1 convolution and an affine coupling of channels, over several levels.

A level squeezes 2x2 pixels into channels, takes K steps, and sends one half of the channels through the next level (Kingma and
Dhariwal 2018, figure 2). The convolution takes the place of a fixed order in which channels are moved. Latents of one pixel,
or of odd sides, are not squeezed.

What makes it fail: a log-scale without a bound (ldm.bijection.transform), a 1x1 convolution that becomes singular
(ldm.bijection.conv1x1) and an inverse that draws the halves that left anew (ldm.bijection.multiscale). Its images are known to
be best at temperatures of about 0.7, and it takes many more parameters and updates than an autoregressive model of the same
likelihood. In public reports, affine couplings have the better likelihood and additive ones (`transform`) the safer samples.

Sources:
    Kingma and Dhariwal, Glow: Generative Flow with Invertible 1x1 Convolutions (2018), arXiv 1807.03039
"""

from __future__ import annotations

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from ldm.bijection.mixing import mixing_flow
from ldm.bijection.network import ConvNet, MakesNetwork
from ldm.bijection.transform import Affine, Transform
from ldm.prior.base import Latents
from ldm.prior.normalizing_flow import NormalizingFlow
from ldm.types import ContextShape


class Glow(NormalizingFlow):
    """Levels of steps that normalise, mix and couple channels.

    Arguments:
        latents, context: what is modelled and what it is given; known when the first stage and the condition are.
        steps: of each level, K.
        levels: how many times the sides are halved; by default while they are even and more than 2, at most three times.
        transform: how a coupling moves a number; by default affine with a bounded log-scale.
        network: makes the networks of the couplings.
        temperature: of the noise in sampling.
    """

    def __init__(
        self,
        latents: Latents,
        context: ContextShape,
        steps: PositiveInt = 8,
        levels: NonNegativeInt | None = None,
        transform: Transform | None = None,
        network: MakesNetwork = ConvNet,
        temperature: PositiveFloat = 1.0,
    ):
        bijection = mixing_flow(latents.shape, steps, levels, transform or Affine(), network, context)
        super().__init__(latents, context, bijection, temperature)
