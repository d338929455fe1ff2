"""What JPEG, WebP and PNG make of the images that a model has compressed: bytes, PSNR and a Fréchet distance beside the model's.

Of small images most of a JPEG is its header: tables that hardly differ between files. So bytes are said with it and without,
where `without_header` is what stands behind the marker that begins the scan, which is what each of many images with common tables
would cost (a little less, for the tables are fitted to each); of WebP it is the chunk without the container, of PNG the pixels'
chunks. Pillow's encoders are asked for their smallest files (optimised tables, slowest method).

The Fréchet distance is that of the decoded images to the given ones in the features of an untrained network
(ldm.metric.features): it is comparable within one table and with nothing else.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from ldm.eight_bits import eight_bits
from ldm.metric.features import RandomConv
from ldm.metric.frechet import frechet_distance
from ldm.task.base import Found
from ldm.types import Image

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_JPEG, _WEBP = (1, 5, 10, 20, 35, 50, 75, 90, 95), (0, 5, 10, 20, 35, 50, 75, 90, 100)
_SHOWN = 8  # images in the figure
_FEW = 16  # images, below which a Fréchet distance means nothing


@dataclass(frozen=True)
class Row:
    """A coder at a quality, over all images.

    Fields:
        coder: `model`, `JPEG`, `WebP`, or the lossless ones `WebP lossless`, `PNG`.
        quality: as Pillow calls it; None where there is none.
        bytes, without_header: means of a file.
        psnr: mean of the images that did not come back exactly, in dB; None where all did.
        lossless: share of those that did.
        frechet: distance of all decoded images to the given ones; None of less than 16.
        decoded: the first images, 8 bits (n, 3, h, w).
    """

    coder: str
    quality: int | None
    bytes: float
    without_header: float
    psnr: float | None
    lossless: float
    frechet: float | None
    decoded: UInt8[Tensor, "n 3 h w"]

    def plain(self) -> dict[str, Any]:
        """As JSON has it, without the images."""
        return {name: value for name, value in asdict(self).items() if name != "decoded"}


def psnr(x: Image, y: Image) -> tuple[Float[Tensor, " b"], Bool[Tensor, " b"]]:
    """Decibels of images y as images x of 8 bits, NaN where they are equal, and whether they are, (b,) each."""
    return _psnr(eight_bits(x), eight_bits(y))


def _psnr(x: UInt8[Tensor, "b 3 h w"], y: UInt8[Tensor, "b 3 h w"]) -> tuple[Float[Tensor, " b"], Bool[Tensor, " b"]]:
    error = (x.double() - y.double()).square().flatten(1).mean(1)
    return (10 * (255**2 / error).log10()).where(error > 0, torch.nan), error == 0


def beside(found: Found, grey: bool) -> list[Row]:
    """The model and every codec at every quality."""
    kinds = [found.pictures(row) for row in range(len(found.names))]
    given, decoded = (torch.stack([each[kind] for each in kinds]) for kind in ("given", "decoded"))
    features = RandomConv(size=max(given.shape[-1], 32)).eval()
    own = [int(each) for each in found.numbers["bytes"]], [int(each) for each in found.numbers["header"]]
    rows = [
        _row(
            "model", None, [(size, size - header) for size, header in zip(*own, strict=True)], given, decoded, features
        )
    ]
    for coder, quality, encode, bare in _codecs():
        files = [encode(_picture(x, grey)) for x in given]
        back = torch.stack([_pixels(PIL.Image.open(io.BytesIO(file))) for file in files])
        rows.append(_row(coder, quality, [(len(file), bare(file)) for file in files], given, back, features))
    return rows


def _row(
    coder: str, quality: int | None, sizes: Sequence[tuple[int, int]], x: Tensor, y: Tensor, features: RandomConv
) -> Row:
    values, same = _psnr(x, y)
    mean = None if same.all() else float(values.nanmean())
    size, bare = (float(np.mean(each)) for each in zip(*sizes, strict=True))
    far = frechet_distance(_features(features, y), _features(features, x)) if len(x) >= _FEW else None
    return Row(coder, quality, size, bare, mean, float(same.double().mean()), far, y[:_SHOWN])


@torch.no_grad()
def _features(network: RandomConv, pixels: Tensor) -> Tensor:
    return torch.cat([network.embed(part) for part in pixels.split(256)]).double()


def _codecs() -> Iterator[tuple[str, int | None, Callable[[PIL.Image.Image], bytes], Callable[[bytes], int]]]:
    """Name, quality, what writes a file, and how many of its bytes are no header."""
    for quality in _JPEG:
        yield "JPEG", quality, _saving("JPEG", quality=quality, optimize=True), _scan
    for quality in _WEBP:
        yield "WebP", quality, _saving("WEBP", quality=quality, method=6), _chunk
    yield "WebP lossless", None, _saving("WEBP", lossless=True, quality=100, method=6), _chunk
    yield "PNG", None, _saving("PNG", optimize=True), _data


def _saving(form: str, **words: Any) -> Callable[[PIL.Image.Image], bytes]:
    def save(image: PIL.Image.Image) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, form, **words)
        return buffer.getvalue()

    return save


def _scan(file: bytes) -> int:
    """Bytes of a JPEG's scan: behind the header of its marker, to the marker that ends the file."""
    start = file.rindex(b"\xff\xda")
    return len(file) - 2 - (start + 2 + int.from_bytes(file[start + 2 : start + 4], "big"))


def _chunk(file: bytes) -> int:
    """Bytes of a WebP but for its container (12) and the head of its one chunk (8)."""
    return len(file) - 20


def _data(file: bytes) -> int:
    """Bytes of a PNG's chunks of pixels."""
    at, total = 8, 0
    while at < len(file):
        length = int.from_bytes(file[at : at + 4], "big")
        total += length if file[at + 4 : at + 8] == b"IDAT" else 0
        at += 12 + length
    return total


def _picture(pixels: UInt8[Tensor, "3 h w"], grey: bool) -> PIL.Image.Image:
    """As codecs take it: one channel of a grey image, since three would cost them more."""
    return PIL.Image.fromarray(pixels[0].numpy() if grey else pixels.permute(1, 2, 0).numpy())


def _pixels(image: PIL.Image.Image) -> UInt8[Tensor, "3 h w"]:
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def figure(found: Found, rows: Sequence[Row]) -> Figure:
    """PSNR against bytes, and under it the first images: given, decoded, and by each codec at the quality nearest in bytes."""
    import matplotlib
    from matplotlib.figure import Figure

    own, shown = rows[0], min(len(found.names), _SHOWN)
    given = torch.stack([found.pictures(row)["given"] for row in range(shown)])
    lines = [("given", given)] + [(_said(row), row.decoded) for row in (own, *_nearest(rows))]
    with matplotlib.rc_context({"font.size": 8}):
        drawing = Figure(figsize=(8, 3.4 + 0.95 * len(lines)), layout="constrained")
        above, below = drawing.subfigures(2, 1, height_ratios=[3.4, 0.95 * len(lines)])
        _curves(above.subplots(), rows)
        for axes, (said, images) in zip(below.subplots(len(lines), 1), lines, strict=True):
            axes.imshow(torch.cat(list(images), dim=2).permute(1, 2, 0).numpy(), interpolation="nearest")
            axes.set_title(said, loc="left", pad=2)
            axes.set_axis_off()
    return drawing


def _curves(axes: Any, rows: Sequence[Row]) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    for coder, colour in (("JPEG", "C1"), ("WebP", "C2")):
        points = [row for row in rows if row.coder == coder and row.psnr is not None]
        for name, style in (("bytes", "-"), ("without_header", ":")):
            label = coder if name == "bytes" else f"{coder} without its header"
            axes.plot(
                [vars(row)[name] for row in points], [row.psnr for row in points], f"{style}{colour}", label=label
            )
    own = rows[0]
    if own.psnr is None:
        axes.axvline(own.bytes, color="C0", label="model, lossless")
        for row, style in zip(rows[-2:], ("--", ":"), strict=True):
            axes.axvline(row.bytes, color="black", linestyle=style, label=row.coder)
    else:
        axes.plot([own.bytes], [own.psnr], "oC0", label="model")
        axes.plot([own.without_header], [own.psnr], "oC0", fillstyle="none", label="model without its header")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("bytes of an image, mean")
    axes.set_ylabel("PSNR, dB")
    axes.legend(frameon=False)


def _nearest(rows: Sequence[Row]) -> list[Row]:
    """Of JPEG and WebP the quality whose files are nearest to the model's, headers included."""
    own = rows[0].bytes
    return [
        min((row for row in rows if row.coder == coder), key=lambda row: abs(np.log(row.bytes / own)))
        for coder in ("JPEG", "WebP")
    ]


def _said(row: Row) -> str:
    name = row.coder if row.quality is None else f"{row.coder} at quality {row.quality}"
    lost = "no loss" if row.psnr is None else f"{row.psnr:.1f} dB"
    return f"{name}: {row.bytes:.0f} bytes, {row.without_header:.0f} without header, {lost}"
