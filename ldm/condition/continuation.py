"""The continuation of an image into its unknown part, from coarse to fine (pull and push, Gortler et al. 1996, section 3.4).

Known pixels are averaged two by two until every square knows something (pull); on the way back what is unknown takes the coarser
image, interpolated (push). It costs a third more than one pass over the pixels, so it can be made in each update, where the
smoothest continuation, a membrane, is a system of equations.

Sources:
    Gortler et al., The Lumigraph (1996), doi 10.1145/237170.237200
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ldm.types import Image


def continued(x: Image, known: Float[Tensor, "b 1 h w"]) -> Image:
    """x (b, c, h, w) where `known` is 1, and elsewhere what is around; 0 where nothing is known. What x is elsewhere plays no
    part."""
    own = torch.where(known > 0, x, 0)
    if max(x.shape[2:]) == 1:
        return own
    share = F.avg_pool2d(known, 2, ceil_mode=True)
    mean = F.avg_pool2d(own, 2, ceil_mode=True) / share.where(share > 0, 1)
    coarse = continued(mean, (share > 0).to(known.dtype))
    return torch.where(known > 0, x, F.interpolate(coarse, x.shape[2:], mode="bilinear", align_corners=False))
