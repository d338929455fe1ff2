"""The logistic law over the 256 values of 8-bit pixels, discretised (Salimans et al. 2017, section 2.1).

With F the distribution function of a logistic law of mean m and scale s, values x of 0 ... 255 in [-1, 1], and h = 1 / 255,

    P(x) = F(x + h) - F(x - h),      F(x - h) = 0 at x = -1,      F(x + h) = 1 at x = 1,

which sums to one over all values, wherever m lies. With a = (x + h - m) / s and b = (x - h - m) / s it is computed as

    log (sigmoid(a) - sigmoid(b)) = log sigmoid(a) + log sigmoid(-b) + log(1 - exp(b - a)),

which loses no digits in the tails (the paper's code takes the density at the middle there).

Sources:
    Salimans et al., PixelCNN++: Improving the PixelCNN with Discretized Logistic Mixture Likelihood and Other Modifications
        (2017), arXiv 1701.05517
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_HALF = 1 / 255  # half of the distance of two values


def log_mass(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """log P of values x in [-1, 1] for means and log-scales, in nats; broadcast."""
    inverse = (-log_scale).exp()
    above, below = (x + _HALF - mean) * inverse, (x - _HALF - mean) * inverse
    width = (2 * _HALF * inverse).expand_as(above)
    inside = F.logsigmoid(above) + F.logsigmoid(-below) + torch.log(-torch.expm1(-width))
    inside = torch.where(x < -1 + _HALF, F.logsigmoid(above), inside)
    return torch.where(x > 1 - _HALF, F.logsigmoid(-below), inside)
