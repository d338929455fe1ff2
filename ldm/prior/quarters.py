"""The held-out loss by quarter of the time: where along the way from data to noise a diffusion or a flow errs.

One mean over all times hides this: most of its size comes from times whose error no network can lower, and samples depend on the
others. At fixed noise and times the four means of two checkpoints, or of two models on one schedule, may be compared; of two
schedules they may not, for a time is then another noise level.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from ldm.types import Time


def by_quarter(losses: Float[Tensor, " b"], t: Time) -> dict[str, Float[Tensor, " b"]]:
    """`loss_t0` at times 0 <= t < 1/4, nearest to the data, to `loss_t3` at 3/4 <= t <= 1: the losses (b,) of the examples whose
    times t (b,) lie there, and NaN for the others."""
    quarter = (4 * t).long().clamp(0, 3)
    return {f"loss_t{k}": torch.where(quarter == k, losses, torch.nan) for k in range(4)}
