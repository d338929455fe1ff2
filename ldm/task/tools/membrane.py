"""A membrane: the smoothest continuation into a hole of what is known around it (Perez et al. 2003, equation 2).

It solves Laplace's equation in the hole, each pixel the mean of its neighbours, with the known pixels as border; where the hole
meets the end of the image no border holds it. It fills a hole before an encoder sees it, and it takes the seam out of what was
filled in: the difference of both sides at the border, continued into the hole, is added there.

Sources:
    Perez et al., Poisson Image Editing (2003), doi 10.1145/882262.882269
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ldm.diffusion.posterior.conjugate import conjugate_gradients
from ldm.types import Image


def membrane(x: Image, hole: Float[Tensor, "b 1 h w"]) -> Image:
    """x (b, c, h, w) with its hole, where `hole` is 1, filled by the continuation of the rest; 0 in a hole that is all."""
    known = (1 - hole) * x

    def inside(v: Image) -> Image:
        return hole * _bend(hole * v)

    return known + hole * conjugate_gradients(inside, -hole * _bend(known), 2 * sum(x.shape[2:]))


def seamless(x: Image, made: Image, hole: Float[Tensor, "b 1 h w"]) -> Image:
    """The given image x with what was made in its hole, (b, c, h, w) each: outside x itself, and no step at the border."""
    return torch.where(hole > 0, (made + membrane(x - made, hole)).clamp(-1, 1), x)


def _bend(x: Image) -> Image:
    """The sum over the four neighbours of the difference to them; none beyond the image's end."""
    around = F.pad(x, (1, 1, 1, 1), mode="replicate")
    neighbours = around[..., :-2, 1:-1] + around[..., 2:, 1:-1] + around[..., 1:-1, :-2] + around[..., 1:-1, 2:]
    return 4 * x - neighbours
