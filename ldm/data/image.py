"""From stored bytes to pixels, with one fixed rule for everything that an image file can be.

| found | done |
| --- | --- |
| more pixels or bytes than the limit | refused by its header, before anything is decoded |
| empty, not an image, incomplete, a PNG chunk with a wrong checksum | refused |
| EXIF orientation | applied |
| transparency (RGBA, LA, palette or tRNS) | composited on white; kept where four channels are wanted |
| 16-bit grey | scaled to 8 bits (v / 257, rounded); 32-bit and float pixels are refused, having no known range |
| an ICC profile | converted to sRGB; one that cannot be used is ignored |
| CMYK, YCbCr, palette, 1-bit, grey | converted to the wanted channels |
| an animation | its first frame |

Then the largest window with the wanted proportions is cut out of the image and resized to the wanted size in one antialiased
(bicubic) step. So a smaller image is enlarged, and an image of 1 x 20000 pixels costs no more than its window.

Without these rules, Pillow turns mid-grey 16-bit pixels white, shows the colours under transparent pixels, and ignores the
orientation.
"""

from __future__ import annotations

import functools
import io
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from PIL import Image, ImageCms, ImageOps
from torch import Tensor

MAX_PIXELS = 2**26
MAX_BYTES = 2**26
# A list of our own, because Pillow also reads formats that run other programs (EPS) or that are a risk for its decoders.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000")
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


class BadImageError(ValueError):
    """An image that cannot be used; `name` says which, and `reason` says why."""

    def __init__(self, reason: str, name: str = ""):
        super().__init__(f"{name}: {reason}" if name else reason)
        self.reason, self.name = reason, name


def _read(data: bytes | Path, name: str, limit: int) -> bytes:
    try:
        size = len(data) if isinstance(data, bytes) else os.path.getsize(data)
        if size == 0:
            raise BadImageError("the file is empty (0 bytes)", name)
        if size > limit:
            raise BadImageError(f"{size} bytes, more than the limit of {limit}", name)
        return data if isinstance(data, bytes) else Path(data).read_bytes()
    except OSError as error:
        raise BadImageError(f"cannot be read: {error.strerror or error}", name) from error


def _check_png(data: bytes, name: str) -> None:
    """Raise BadImageError where a chunk's checksum is wrong. Pillow does not check those of pixels, so it would read a PNG
    with a flipped bit as a valid image."""
    at, end = 8, len(data)
    while at + 12 <= end:
        length, kind = struct.unpack_from(">I4s", data, at)
        if at + 12 + length > end:
            raise BadImageError("cut short: a PNG chunk ends behind the file's end", name)
        (stored,) = struct.unpack_from(">I", data, at + 8 + length)
        if zlib.crc32(memoryview(data)[at + 4 : at + 8 + length]) != stored:
            raise BadImageError(f"wrong checksum of the PNG chunk {kind.decode('latin-1')!r}", name)
        at += 12 + length
        if kind == b"IEND":
            return
    raise BadImageError("cut short: the PNG has no end chunk", name)


def _limit(image: Image.Image, name: str, pixels: int) -> None:
    width, height = image.size
    if width * height > pixels or min(width, height) < 1:
        raise BadImageError(f"{width} x {height} pixels, outside the limit of 1 to {pixels}", name)


@functools.lru_cache(maxsize=32)
def _to_srgb(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The conversion from a colour profile to sRGB; None for a profile that is sRGB itself or that cannot be used."""
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "srgb" in ImageCms.getProfileDescription(opened).lower():
            return None
        return ImageCms.buildTransform(opened, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None


def _colours(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Grey (L) or RGB, 8 bits, without alpha, in sRGB."""
    if image.mode.startswith("I;16") or image.mode == "I":
        values = np.asarray(image).astype(np.int64)
        if values.size and (values.min() < 0 or values.max() > 65535):
            raise BadImageError(f"pixels of mode {image.mode} from {values.min()} to {values.max()}; wanted 0 to 65535")
        return Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if image.mode == "F":
        raise BadImageError("floating-point pixels, whose range is unknown; store 8 or 16 bits")
    if image.mode in ("1", "L"):
        image = image.convert("L")
    elif image.mode not in ("RGB", "CMYK", "LAB"):
        image = image.convert("RGB")
    transform = _to_srgb(profile, image.mode) if profile else None
    if transform is not None:
        return ImageCms.applyTransform(image, transform)
    return image if image.mode in ("L", "RGB") else image.convert("RGB")


def _convert(image: Image.Image, channels: int, profile: bytes | None) -> Image.Image:
    """The image with 1, 3 or 4 channels; transparency is composited on white where there is no fourth channel."""
    alpha = None
    if image.has_transparency_data and not image.mode.startswith("I"):
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
        image = image.convert("RGB")
    image = _colours(image, profile)
    if channels == 4:
        image = image.convert("RGB")
        image.putalpha(255 if alpha is None else alpha)
        return image
    if alpha is not None:
        ground = Image.new(image.mode, image.size, "white")
        ground.paste(image, mask=alpha)
        image = ground
    return image.convert(_MODES[channels])


def _open(data: bytes, name: str, pixels: int, least: tuple[int, int] | None) -> Image.Image:
    image = Image.open(io.BytesIO(data), formats=_FORMATS)
    _limit(image, name, pixels)
    if image.format == "PNG":
        _check_png(data, name)
    if image.format == "JPEG" and least is not None:
        # The decoder can halve a photograph while reading it. At three times the needed size the result differs by at
        # most about one grey level.
        side = 3 * max(least)
        scale = min(image.size) // side
        if scale > 1:
            image.draft(None, (image.width // scale, image.height // scale))
    image.load()
    return image


def decode(
    data: Any,
    channels: Literal[1, 3, 4] = 3,
    name: str = "",
    least: tuple[int, int] | None = None,
    max_pixels: int = MAX_PIXELS,
    max_bytes: int = MAX_BYTES,
) -> Image.Image:
    """A PIL image of mode L, RGB or RGBA, by the rules above; BadImageError where there is none.

    Arguments:
        data: a PIL image, encoded bytes, a path, or a uint8 array (h, w) or (h, w, 1 | 3 | 4).
        channels: 1 for grey, 3 for RGB, 4 for RGBA.
        name: what to call the image in messages.
        least: (height, width) that will be cut out of it. A photograph may be read at a reduced scale, but at three times
            this size at least.
        max_pixels, max_bytes: an image above either is refused.
    """
    try:
        if isinstance(data, str | os.PathLike):
            data = Path(data)
            name = f"{name} ({data})" if name and not str(data).endswith(name) else str(data)
        if isinstance(data, bytes | Path):
            image = _open(_read(data, name, max_bytes), name, max_pixels, least)
        elif isinstance(data, np.ndarray):
            if data.dtype != np.uint8 or data.ndim not in (2, 3):
                raise BadImageError(
                    f"array of {data.dtype} {data.shape}; wanted uint8 (h, w) or (h, w, 1 | 3 | 4)", name
                )
            image = Image.fromarray(data[..., 0] if data.ndim == 3 and data.shape[2] == 1 else data)
        elif isinstance(data, Image.Image):
            image = data
            _limit(image, name, max_pixels)
        else:
            raise BadImageError(f"no image but {type(data).__name__}", name)
        profile = image.info.get("icc_profile")
        if not isinstance(data, np.ndarray) and image.getexif().get(0x0112, 1) != 1:
            image = ImageOps.exif_transpose(image)
        return _convert(image, channels, profile)
    except BadImageError as error:
        raise error if error.name or not name else BadImageError(error.reason, name) from error
    except Image.UnidentifiedImageError as error:
        start = data[:16] if isinstance(data, bytes) else Path(data).read_bytes()[:16]
        raise BadImageError(f"not an image of a known format; it begins with {start!r}", name) from error
    except Exception as error:  # for damaged files decoders raise errors of any type
        raise BadImageError(f"cannot be decoded: {error or type(error).__name__}", name) from error


@dataclass(frozen=True)
class Transform:
    """How images are decoded, cropped and resized, and whether they are mirrored.

    Arguments:
        image_shape: (channels, height, width); channels are 1 (grey), 3 (RGB) or 4 (RGBA).
        crop: where the largest window with the wanted proportions is cut out: at the centre, or at a random place.
        flip: whether to mirror left and right at random. It is off by default, because it makes captions with "left" wrong.
        max_pixels, max_bytes: an image above either is refused.
    """

    image_shape: tuple[int, int, int]
    crop: Literal["centre", "random"] = "centre"
    flip: bool = False
    max_pixels: int = MAX_PIXELS
    max_bytes: int = MAX_BYTES

    def __post_init__(self):
        if self.image_shape[0] not in _MODES or min(self.image_shape) < 1:
            raise ValueError(
                f"image_shape: wanted (channels, height, width) with 1 (grey), 3 (RGB) or 4 (RGBA) channels and "
                f"positive sides; got {self.image_shape}"
            )

    def __call__(self, data: Any, place: float = 0.5, name: str = "") -> UInt8[np.ndarray, "h w c"]:
        """The pixels (h, w, c) of an image, not yet mirrored. `place` in [0, 1) is the position of a random crop along the
        side that is too long."""
        channels, height, width = self.image_shape
        image = decode(data, channels, name, (height, width), self.max_pixels, self.max_bytes)
        if image.size != (width, height):
            scale = min(image.width / width, image.height / height)
            spare = image.width - width * scale, image.height - height * scale
            place = place if self.crop == "random" else 0.5
            left, top = place * spare[0], place * spare[1]
            box = (left, top, min(left + width * scale, image.width), min(top + height * scale, image.height))
            image = image.resize((width, height), Image.Resampling.BICUBIC, box=box)
        pixels = np.asarray(image)
        return pixels[..., None] if channels == 1 else pixels

    @property
    def key(self) -> str:
        """A text that names everything on which the pixels depend; it is part of the key of a latent cache."""
        return f"v1 shape={self.image_shape} crop={self.crop} flip={self.flip}"


def to_float(pixels: UInt8[Tensor, "b h w c"]) -> Float[Tensor, "b c h w"]:
    """Pixels 0 to 255, (b, h, w, c), as images in [-1, 1], (b, c, h, w)."""
    return rearrange(pixels, "b h w c -> b c h w").contiguous().to(torch.float32).div_(127.5).sub_(1)
