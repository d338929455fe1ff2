"""Pictures for a page and from it: what a visitor has painted brought to a model's size, and pictures as bytes of a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
import PIL.Image
from PIL import ImageChops

from ldm.data.image import Transform

_TOUCHED = 32  # of 255: a pixel of the model's that the brush covers by more than an eighth is filled in
_SIDE, _SECONDS = 256, 0.12  # of a film: its least side, and a frame of it


def fitted(picture: PIL.Image.Image, image_shape: tuple[int, int, int]) -> tuple[PIL.Image.Image, str]:
    """The picture as the model takes it (`ldm.data.image`), and what was done to it, in a sentence; "" where nothing was."""
    _, height, width = image_shape
    pixels = Transform(image_shape)(picture, name="the picture")
    own = PIL.Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    if picture.size == (width, height):
        return own, ""
    scale = min(picture.width / width, picture.height / height)
    across, down = round(width * scale), round(height * scale)
    cut = f"its middle {across} × {down} was taken and " if (across, down) != picture.size else "it was "
    return own, f"The picture is {picture.width} × {picture.height} pixels: {cut}made {width} × {height}."


def hole(layers: Sequence[PIL.Image.Image], image_shape: tuple[int, int, int]) -> PIL.Image.Image:
    """What was painted on any of the layers, white on black, at the model's size; cut out and resized as the picture below.
    ValueError where nothing was painted, or everything."""
    covers = [layer.getchannel("A") for layer in layers if layer.mode == "RGBA"]
    painted = covers[0] if covers else PIL.Image.new("L", (1, 1))
    for cover in covers[1:]:
        painted = ImageChops.lighter(painted, cover)
    grey = Transform((1, *image_shape[1:]))(painted)[..., 0]
    found = grey > _TOUCHED
    if not found.any():
        raise ValueError("Nothing is painted yet: paint over what is to be filled in.")
    if found.all():
        raise ValueError("All of the picture is painted over, so there is nothing to go by: leave some of it.")
    return PIL.Image.fromarray((found * 255).astype(np.uint8))


def enlarged(picture: PIL.Image.Image, side: int) -> PIL.Image.Image:
    """The picture with each pixel a square, the smallest that is `side` wide or more."""
    scale = max(1, -(-side // picture.width))
    return picture.resize((picture.width * scale, picture.height * scale), PIL.Image.Resampling.NEAREST)


def address(picture: PIL.Image.Image, exact: bool = True) -> str:
    """A picture as an address that holds all of it, so that a page asks for no file: as PNG, or smaller and not exact."""
    file = io.BytesIO()
    kind, words = ("PNG", {}) if exact else ("WEBP", {"quality": 80})
    picture.save(file, kind, **words)
    return inline(file.getvalue(), kind.lower())


def inline(data: bytes, kind: str) -> str:
    """The bytes of an image file as an address."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def film(frames: Sequence[PIL.Image.Image]) -> bytes:
    """The frames there and back as an endless GIF."""
    shown = [enlarged(frame, _SIDE) for frame in (*frames, *frames[-2:0:-1])]
    file = io.BytesIO()
    shown[0].save(file, "GIF", save_all=True, append_images=shown[1:], duration=int(1000 * _SECONDS), loop=0)
    return file.getvalue()
