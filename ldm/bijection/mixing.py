"""Levels of steps in which channels are normalised, mixed and coupled: the layers of Glow and of spline flows.

A step is actnorm, an invertible 1x1 convolution, and a coupling that moves the second half of the channels given the first
(Kingma and Dhariwal 2018, figure 2). The half that a level sends away is the one that its last coupling has moved.

Sources:
    Kingma and Dhariwal, Glow: Generative Flow with Invertible 1x1 Convolutions (2018), arXiv 1807.03039
"""

from __future__ import annotations

from ldm.bijection.actnorm import ActNorm
from ldm.bijection.base import Bijection
from ldm.bijection.chain import Chain
from ldm.bijection.conv1x1 import Conv1x1
from ldm.bijection.coupling import Coupling
from ldm.bijection.mask import Halves
from ldm.bijection.multiscale import Multiscale, Shape, halved, levels_of, squeezed
from ldm.bijection.network import MakesNetwork
from ldm.bijection.transform import Transform
from ldm.types import ContextShape


def mixing_flow(
    shape: Shape,
    steps: int,
    levels: int | None,
    transform: Transform,
    network: MakesNetwork,
    context: ContextShape,
) -> Bijection:
    """A bijection of maps of `shape` with so many steps at each level.

    Arguments:
        levels: how many times the sides are halved; None for what fits (`levels_of`). With 0, steps of the map as it is.
        transform, network: of the couplings.
    Raises:
        ValueError: there are not so many levels in `shape`, or nothing to couple.
    """

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

    count = levels_of(shape, levels)
    return level(shape, count) if count else stack(shape)
