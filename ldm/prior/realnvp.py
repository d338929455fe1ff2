"""RealNVP: affine couplings between the pixels of checkerboards and between halves of the channels, over several scales.

A scale is couplings with checkerboards of alternating colours, a squeeze, couplings of halves of the channels, and the next
scale, which one half of the channels goes through; the last scale has checkerboards alone (Dinh et al. 2016, sections 3.4 to
3.6). Before each coupling stands an actnorm in the place of the paper's batch normalisation, for the density of an example
must not depend on its batch. On latents of one pixel there are no checkerboards, and couplings of channels take their place.

What makes it fail: the order in which numbers are moved is fixed, so each coupling has few numbers to learn from, and it takes
many; glow mixes channels between couplings instead.

Sources:
    Dinh et al., Density Estimation Using Real NVP (2016), arXiv 1605.08803
"""

from __future__ import annotations

from collections.abc import Callable

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from ldm.bijection.actnorm import ActNorm
from ldm.bijection.base import Bijection
from ldm.bijection.chain import Chain
from ldm.bijection.coupling import Coupling
from ldm.bijection.mask import Checkerboard, Halves, Mask
from ldm.bijection.multiscale import Multiscale, Shape, halved, levels_of, squeezed
from ldm.bijection.network import ConvNet, MakesNetwork
from ldm.bijection.transform.affine import Affine
from ldm.bijection.transform.base import Transform
from ldm.prior.base import Latents
from ldm.prior.normalizing_flow import NormalizingFlow
from ldm.types import ContextShape


class RealNVP(NormalizingFlow):
    """Couplings of checkerboards and of channels at several scales.

    Arguments:
        latents, context: what is modelled and what it is given; known when the first stage and the condition are.
        couplings: of each kind at each scale.
        levels: how many times the sides are halved; by default while they are even and more than 2, at most three times.
        transform: how a coupling moves a number; by default affine with a bounded log-scale.
        network: makes the networks of the couplings.
        temperature: of the noise in sampling.
    """

    def __init__(
        self,
        latents: Latents,
        context: ContextShape,
        couplings: PositiveInt = 3,
        levels: NonNegativeInt | None = None,
        transform: Transform | None = None,
        network: MakesNetwork = ConvNet,
        temperature: PositiveFloat = 1.0,
    ):
        transform = transform or Affine()

        def layers(mask: Callable[[int, bool], Mask], shape: Shape) -> list[Bijection]:
            found: list[Bijection] = []
            for k in range(couplings):
                found.append(ActNorm(shape[0]))
                found.append(
                    Coupling(mask(shape[0], k % 2 != (couplings - 1) % 2), transform, network, shape[1:], context)
                )
            return found

        def scale(shape: Shape, below: int) -> Bijection:
            if shape[1:] == (1, 1):
                return Chain(layers(Halves, shape))
            parts = layers(Checkerboard, shape)
            if below:
                steps = Chain(layers(Halves, squeezed(shape)))
                parts.append(Multiscale(steps, scale(halved(squeezed(shape)), below - 1)))
            return Chain(parts)

        super().__init__(latents, context, scale(latents.shape, levels_of(latents.shape, levels)), temperature)
