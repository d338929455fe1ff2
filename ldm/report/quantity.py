"""What the name of a number says: its title, which way is better, what it is about, and where its error comes from.

Names are those of records and of rows of metrics.jsonl. A number of a name that is not listed here has a title and a column as
any other; only which way is better is not known, so no best one is marked, and the report says so.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass, replace
from functools import cache

PARTS = ("Samples", "Reconstruction", "Likelihood", "Cost", "Other numbers", "Channels of latents")
"""What numbers are about, in the order of the page."""

_SAMPLES, _RECONSTRUCTION, _LIKELIHOOD, _COST, _OTHER, CHANNELS = PARTS


class Better(enum.Enum):
    """Which way a number is better."""

    LOWER = -1
    HIGHER = 1
    UNKNOWN = 0


class Origin(enum.Enum):
    """Where the error of a number comes from."""

    SAMPLED = "measured on a finite number of images"
    COUNTED = "counted, without an error"
    CLOCKED = "by the clock of one machine, so only numbers of one device are compared"


@dataclass(frozen=True)
class Quantity:
    """What is known of the numbers of a name.

    Fields:
        bounds: between which such a number lies; one beyond them was not measured.
    """

    title: str
    better: Better = Better.UNKNOWN
    part: str = _OTHER
    origin: Origin = Origin.SAMPLED
    bounds: tuple[float, float] | None = None


def _better(better: Better, part: str, *pairs: tuple[str, str], **more: object) -> list[tuple[str, Quantity]]:
    return [(pattern, replace(Quantity(title, better, part), **more)) for pattern, title in pairs]


_LOW, _HIGH, _UNIT = Better.LOWER, Better.HIGHER, (0.0, 1.0)
_KNOWN: list[tuple[str, Quantity]] = [
    *_better(Better.UNKNOWN, CHANNELS, (r"latent_(mean|deviation)_(\d+)", "Latent {} {}")),
    *_better(_LOW, _SAMPLES, ("fid", "FID"), ("kid", "KID"), (r"fd_(.+)", "FD, {}")),
    *_better(_LOW, _SAMPLES, (r"kd_(.+)", "KD, {}"), (r"fdr_(.+)", "FD / that of held-out, {}")),
    *_better(_LOW, _SAMPLES, ("fdr", "FD / that of held-out, mean")),
    *_better(_HIGH, _SAMPLES, (r"precision_(.+)", "Precision, {}"), (r"recall_(.+)", "Recall, {}"), bounds=_UNIT),
    *_better(
        _HIGH, _SAMPLES, (r"coverage_(.+)", "Coverage, {}"), (r"shows_(.+)", "Shows the caption's {}"), bounds=_UNIT
    ),
    *_better(_HIGH, _SAMPLES, ("modes", "Modes of shapes"), ("modes_share", "Modes of shapes, of those expected")),
    *_better(_LOW, _SAMPLES, ("modes_strange", "Samples of no mode of the data"), bounds=_UNIT),
    *_better(_HIGH, _SAMPLES, ("label_accuracy", "Label accuracy"), bounds=_UNIT),
    *_better(_LOW, _SAMPLES, (r"copies_(.+)", "Copies of training images, {}"), bounds=_UNIT),
    *_better(_LOW, _SAMPLES, (r"path_length_(.+)", "Path length, {}")),
    *_better(
        _HIGH,
        _SAMPLES,
        (r"density_(.+)", "Density, {}"),
        (r"(?:is|inception_score)", "Inception score"),
        ("classifier_score", "Classifier score"),
    ),
    *_better(_HIGH, _SAMPLES, (r"clip_score(.*)", "CLIP score{}")),
    *_better(_HIGH, _RECONSTRUCTION, ("psnr", "PSNR, dB"), ("ms_ssim", "MS-SSIM"), ("ssim", "SSIM")),
    *_better(
        _LOW,
        _RECONSTRUCTION,
        (r"lpips(?:_.+)?", "LPIPS"),
        (r"feature_distance_(.+)", "Feature distance, {}"),
        ("mse", "Mean squared error"),
        ("rfid", "rFID"),
    ),
    *_better(_HIGH, _RECONSTRUCTION, (r"probe_(.+)", "Labels by a {} probe of latents"), bounds=_UNIT),
    *_better(
        _LOW,
        _LIKELIHOOD,
        ("bits_per_dim", "Bits per dimension"),
        (r"bits_per_dim_(\d+)", "Bits per dimension, {} draws"),
    ),
    *_better(
        _LOW, _LIKELIHOOD, (r"(?:nats_per_dim|nll).*", ""), ("code_bits_per_image", "Bits of the codes, an image")
    ),
    *_better(_LOW, _LIKELIHOOD, (r"val(?:idation)?[ _]loss.*", "")),
    *_better(_LOW, _COST, (r"(?:.*_)?flops(?:_.*)?", ""), (r"parameters(?:_.*)?", ""), origin=Origin.COUNTED),
    *_better(
        _LOW,
        _COST,
        ("sequential_steps", ""),
        (r"(?:network_)?evaluations", "Network evaluations a sample"),
        origin=Origin.COUNTED,
    ),
    *_better(_HIGH, _COST, (r".*_per_second(?:_.*)?", ""), origin=Origin.CLOCKED),
    *_better(
        _LOW,
        _COST,
        (r"(?:.*_)?seconds(?:_.*)?", ""),
        (r"peak_memory_(.+)", "Peak memory of the {}, MiB"),
        origin=Origin.CLOCKED,
    ),
]


@cache
def quantity(name: str) -> Quantity:
    """What is known of the numbers of this name."""
    if name.startswith("reconstruction_"):
        own = quantity(name.removeprefix("reconstruction_"))
        return replace(own, title=f"{own.title}, of reconstructions", part=_RECONSTRUCTION)
    for pattern, found in _KNOWN:
        if match := re.fullmatch(pattern, name):
            return replace(
                found, title=found.title.format(*(group.replace("_", " ") for group in match.groups())) or plain(name)
            )
    return Quantity(plain(name))


def lower_is_better(name: str) -> bool:
    """Whether the smaller of two numbers of this name is the better one; ValueError where neither is known to be, and of costs,
    which alone choose nothing."""
    found = quantity(name)
    if found.better is Better.UNKNOWN or found.part == _COST:
        raise ValueError(
            f"{name}: of no metric of this name is it known whether more of it is better; take one as fd_NETWORK, kd_NETWORK, "
            "precision_NETWORK, label_accuracy or psnr"
        )
    return found.better is Better.LOWER


def plain(name: str) -> str:
    """A name as words: `training_seconds` is `Training seconds`."""
    words = name.replace("_", " ")
    return (words[:1].upper() + words[1:]).replace(" flops", " FLOPs")
