"""One measured number, with what about its measurement must agree before it is compared with another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """A metric's value as the metric itself knows it; a `Record` adds what the run knows.

    Attributes:
        metric: name, as `fid`, `fd_random_conv`, `psnr`.
        value, standard_error: in the metric's unit; the error is None where no honest one is known.
        n: images (or whatever is averaged) behind the value.
        features, features_hash: name and hash of the feature network, None where there is none.
        reference_hash: hash of the set of real images, whatever their order.
        paired: of two sets that are compared, whether the i-th images of both belong together (one caption, one original);
            dependent sets look more alike than independent ones.
        rounded: whether images were rounded to 8 bits first.
        kind: of likelihoods only.
    """

    metric: str
    value: float
    standard_error: float | None
    n: int
    features: str | None = None
    features_hash: str | None = None
    reference_hash: str | None = None
    paired: bool | None = None
    rounded: bool | None = None
    kind: Literal["exact", "bound", "estimate"] | None = None
