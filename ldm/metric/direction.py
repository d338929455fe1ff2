"""Which way a number is better, by the name of its metric: the one place where that is known."""

from __future__ import annotations

import re

_LOWER = (
    *("fid", "kid", "rfid", "mse", "lpips", r"(fd|kd|fdr)(_.+)?", r"bits_per_dim(_.+)?", r"(nats_per_dim|nll)(_.+)?"),
    r"val .+",
)
_HIGHER = (
    *("psnr", "ssim", "ms_ssim", "is", "inception_score", r"(precision|recall|density|coverage)(_.+)?"),
    *("label_accuracy", r"shows_.+", r"clip_score.*"),
)


def lower_is_better(metric: str) -> bool:
    """Whether the smaller of two numbers of this name is the better one; ValueError where neither is known to be."""
    own = metric.removeprefix("reconstruction_")
    for lower, patterns in ((True, _LOWER), (False, _HIGHER)):
        if any(re.fullmatch(pattern, own) for pattern in patterns):
            return lower
    raise ValueError(
        f"{metric}: of no metric of this name is it known whether more of it is better; take one as fd_NETWORK, kd_NETWORK, "
        "precision_NETWORK, label_accuracy or psnr"
    )
