"""Neural spline flow: couplings that bend numbers by rational-quadratic splines instead of shifting and scaling them.

The layers between are Glow's, as in Durkan et al. 2019, section 5.2 (RQ-NSF (C)): actnorm, an invertible 1x1 convolution by LU, a
coupling of channels, over several levels. A spline (ldm.bijection.spline) has 3 K - 1 parameters a number, where affine has two,
and one coupling can make several modes of one; so it takes fewer layers.

What makes it fail: numbers outside of the splines' square are not bent at all, so the square has to hold the data (latents have
variance 1, and actnorm keeps it); with many bins, few examples are learnt by heart.

Sources:
    Durkan et al., Neural Spline Flows (2019), arXiv 1906.04032
"""

from __future__ import annotations

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from ldm.bijection.mixing import mixing_flow
from ldm.bijection.network import ConvNet, MakesNetwork
from ldm.bijection.spline import RationalQuadratic
from ldm.prior.base import Latents
from ldm.prior.normalizing_flow import NormalizingFlow
from ldm.types import ContextShape


class Spline(NormalizingFlow):
    """Levels of steps that normalise, mix and couple channels by splines.

    Arguments:
        latents, context: what is modelled and what it is given; known when the first stage and the condition are.
        steps: of each level.
        bins: of a spline.
        bound: half of the side of the square that splines bend in; latents have deviation 1.
        levels: how many times the sides are halved; by default while they are even and more than 2, at most three times.
        network: makes the networks of the couplings.
        temperature: of the noise in sampling.
    """

    def __init__(
        self,
        latents: Latents,
        context: ContextShape,
        steps: PositiveInt = 4,
        bins: PositiveInt = 8,
        bound: PositiveFloat = 3.0,
        levels: NonNegativeInt | None = None,
        network: MakesNetwork = ConvNet,
        temperature: PositiveFloat = 1.0,
    ):
        transform = RationalQuadratic(bins, bound)
        bijection = mixing_flow(latents.shape, steps, levels, transform, network, context)
        super().__init__(latents, context, bijection, temperature)
