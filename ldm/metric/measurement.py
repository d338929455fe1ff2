"""One measured number, together with everything about the measurement that has to agree with that of another number before
the two may be compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """The value of a metric with what the metric knows of it; a `Record` adds what the run knows.

    Fields:
        metric: the name, as `fid`, `fd_random_conv`, `psnr`.
        value, standard_error: in the unit of the metric; the error is None where no valid one is known.
        n: number of images (or of whatever is averaged).
        features, features_hash: name and hash of the feature network; None where there is none.
        reference_hash: a hash of the set of real images that does not depend on their order.
        paired: for two sets that are compared, whether the i-th images of both belong together (the same caption, or the
            same original). Dependent sets have smaller distances than independent ones.
        rounded: whether images were rounded to 8 bits first.
        kind: for likelihoods, whether the value is exact, a bound or an estimate.
        reference: split and number of the real images that samples are compared with, as `val:10000`; of a ratio both sets.
        labels: the law of the labels or captions that samples were drawn for (ldm.run.scene).
        feature_batch: how many images passed the feature network at once, of which its rounding depends.
        error: how the standard error was made: `jackknife`, `halves`, `binomial`, ...
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
    reference: str | None = None
    labels: str | None = None
    feature_batch: int | None = None
    error: str | None = None
