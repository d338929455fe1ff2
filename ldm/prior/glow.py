"""Glow: steps of actnorm, an invertible 1x1 convolution and a coupling of channels, over several levels.

A level squeezes 2x2 pixels into channels, takes K steps, and sends one half of the channels through the next level (Kingma and
Dhariwal 2018, figure 2). The convolution takes the place of a fixed order in which channels are moved. The half that a level
sends away is the one that its last coupling has moved. Latents of one pixel, or of odd sides, are not squeezed.

With affine couplings this is Glow; with rational-quadratic splines in their place (prior=spline) it is a neural spline flow
(Durkan et al. 2019, section 5.2, RQ-NSF (C)), of which one coupling can make several modes of one, so that it takes fewer layers.

What makes it fail: a log-scale without a bound (ldm.bijection.transform.affine), a 1x1 convolution that becomes singular
(ldm.bijection.conv1x1) and an inverse that draws the halves that left anew (ldm.bijection.multiscale). Its images are known to
be best at temperatures of about 0.7, and it takes many more parameters and updates than an autoregressive model of the same
likelihood. In public reports, affine couplings have the better likelihood and additive ones the safer samples. Splines of many
bins learn few examples by heart (ldm.bijection.transform.spline).

Sources:
    Kingma and Dhariwal, Glow: Generative Flow with Invertible 1x1 Convolutions (2018), arXiv 1807.03039
    Durkan et al., Neural Spline Flows (2019), arXiv 1906.04032
"""

from __future__ import annotations

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from ldm.bijection.actnorm import ActNorm
from ldm.bijection.base import Bijection
from ldm.bijection.chain import Chain
from ldm.bijection.conv1x1 import Conv1x1
from ldm.bijection.coupling import Coupling
from ldm.bijection.mask import Halves
from ldm.bijection.multiscale import Multiscale, Shape, halved, levels_of, squeezed
from ldm.bijection.network import ConvNet, MakesNetwork
from ldm.bijection.transform.affine import Affine
from ldm.bijection.transform.base import Transform
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
        transform = transform or Affine()

        def stack(inner: Shape) -> Chain:
            channels, sides = inner[0], inner[1:]
            parts: list[Bijection] = []
            for _ in range(steps):
                coupling = Coupling(Halves(channels), transform, network, sides, context)
                parts += [ActNorm(channels), Conv1x1(channels), coupling]
            return Chain(parts)

        def level(outer: Shape, count: int) -> Bijection:
            inner = squeezed(outer)
            return Multiscale(stack(inner), level(halved(inner), count - 1) if count > 1 else None)

        count = levels_of(latents.shape, levels)
        bijection = level(latents.shape, count) if count else stack(latents.shape)
        super().__init__(latents, context, bijection, temperature)
