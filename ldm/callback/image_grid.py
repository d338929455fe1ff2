"""Grids of images: pictures of many images with their captions, also of several sets of images in corresponding order.

Small images are enlarged by a whole factor without smoothing, so that their pixels remain visible. A grid is saved as a PNG
with a JSON file beside it, which says what every cell is and where it lies. So the report can cut the cells out and arrange
them anew, and captions can be searched.

Text is drawn in DejaVu Sans, whose file lies beside this one, so that grids look the same on every machine. It has Latin with
accents, Greek, Cyrillic, Armenian, Georgian, Hebrew, Arabic, and many symbols; other scripts were removed from the file, which
halved its size. A character that it does not have (Chinese, Japanese, Korean, most emoji) is drawn as a small square; the JSON
file has the caption unchanged.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import PIL.Image
from einops import rearrange
from PIL import ImageDraw, ImageFont

from ldm.eight_bits import eight_bits
from ldm.files import whole_file, write_json
from ldm.types import Image

_PAPER, _INK, _QUIET, _EDGE = "#ffffff", "#1f2328", "#656d76", "#d8dee4"
_GAP, _TEXT, _LEADING, _LINES, _MARGIN = 12, 12, 16, 5, 140
_ABSENT = "\u25a1"  # a white square


@dataclass(frozen=True)
class Cell:
    """One image of a grid.

    Fields:
        box: (left, top, right, bottom) in pixels of the picture.
        caption: the caption below it.
        row: the title of its row.
    """

    box: tuple[int, int, int, int]
    caption: str
    row: str


@dataclass(frozen=True)
class ImageGrid:
    """A picture of many images, and where each of them is in it.

    Fields:
        picture: the picture, RGB.
        cells: the images in their order; where there are several rows of titles, one title after another.
        columns: number of images beside each other.
        scale: the side, in pixels of the picture, of a pixel of an image.
    """

    picture: PIL.Image.Image
    cells: tuple[Cell, ...]
    columns: int
    scale: int


@cache
def _font(layout: ImageFont.Layout | None = None) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(Path(__file__).parent / "font" / "DejaVuSans.ttf", _TEXT, layout_engine=layout)


def _glyph(character: str) -> tuple[tuple[int, int], bytes]:
    mask = _font(ImageFont.Layout.BASIC).getmask(character)
    return mask.size, bytes(mask)


@cache
def _drawable(character: str) -> bool:
    """Whether the font has this character. One that it does not have is drawn like U+FFFF, which no font has."""
    return unicodedata.category(character) not in ("Cc", "Cs") and _glyph(character) != _glyph("\uffff")


def _legible(text: str) -> str:
    """The text with a square in place of each character that the font does not have, and without invisible characters: joiners,
    direction marks and variation selectors."""
    composed = unicodedata.normalize("NFC", " ".join(text.split()))
    seen = (c for c in composed if unicodedata.category(c) != "Cf" and not "\ufe00" <= c <= "\ufe0f")
    return "".join(c if _drawable(c) else _ABSENT for c in seen)


def _wrapped(text: str, width: int, lines: int = _LINES) -> list[str]:
    """The text broken into at most `lines` lines of `width` pixels; a text that does not fit ends in an ellipsis."""
    font, found = _font(), [""]
    for word in _legible(text).split():
        while word:
            longer = f"{found[-1]} {word}".strip()
            if font.getlength(longer) <= width:
                found[-1], word = longer, ""
            elif found[-1] and font.getlength(word) <= width:
                found.append("")
            else:  # a word that is wider than a line is broken
                if found[-1]:
                    found.append("")
                fits = max([i for i in range(1, len(word)) if font.getlength(word[:i]) <= width], default=1)
                found[-1], word = word[:fits], word[fits:]
                if word:
                    found.append("")
    if len(found) > lines:
        last = found[lines - 1]
        while last and font.getlength(last + "…") > width:
            last = last[:-1]
        found = [*found[: lines - 1], last.rstrip() + "…"]
    return found if found != [""] else []


def _text(draw: ImageDraw.ImageDraw, left: int, top: int, lines: Sequence[str], colour: str) -> None:
    for i, line in enumerate(lines):
        draw.text((left, top + i * _LEADING), line, font=_font(), fill=colour)


def image_grid(
    images: Image, captions: Sequence[str] | None = None, columns: int | None = None, cell: int = 128
) -> ImageGrid:
    """A grid of images (n, 1 | 3 | 4, h, w) in [-1, 1], each with its caption below.

    Arguments:
        captions: a caption for each image, or None.
        columns: number of images beside each other; by default 8, or fewer for up to 16 images.
        cell: small images are enlarged to at least this width in pixels.
    """
    return beside([("", images)], captions, columns, cell)


def beside(
    rows: Sequence[tuple[str, Image]],
    captions: Sequence[str] | None = None,
    columns: int | None = None,
    cell: int = 128,
) -> ImageGrid:
    """A grid of several sets of images of equal number, as originals and reconstructions, each set in a row with a title.

    Where there are more images than `columns`, blocks of all rows follow each other. Captions are below each block.

    Arguments:
        rows: (title, images (n, 1 | 3 | 4, h, w) in [-1, 1]) of each set, with equal n, h and w.
        captions, columns, cell: as for `image_grid`.

    Raises:
        ValueError: the numbers or sizes of images, or the number of captions, do not agree.
    """
    pixels = [rearrange(eight_bits(images), "b c h w -> b h w c").cpu().numpy() for _, images in rows]
    if not pixels or not len(pixels[0]) or any(p.shape != pixels[0].shape for p in pixels):
        raise ValueError(f"wanted rows of equally many images of one size, got {[p.shape for p in pixels]}")
    n, height, width = pixels[0].shape[:3]
    if captions is not None and len(captions) != n:
        raise ValueError(f"{n} images came with {len(captions)} captions")
    columns = columns or min(n, 8 if n > 16 else max(4, -(-n // 2)))
    scale = max(1, -(-cell // width))
    return _drawn(rows, pixels, list(captions or [""] * n), min(columns, n), scale, (width * scale, height * scale))


def _drawn(rows, pixels, captions: list[str], columns: int, scale: int, size: tuple[int, int]) -> ImageGrid:
    n, (wide, high), apart = len(captions), size, _GAP * (2 if len(rows) > 1 else 1)
    widest = max(_font().getlength(_legible(title)) for title, _ in rows)
    margin = min(int(widest) + _GAP + 2, _MARGIN) if widest else 0
    lines = [_wrapped(caption, wide) for caption in captions]
    blocks = [range(start, min(start + columns, n)) for start in range(0, n, columns)]
    text = [_LEADING * max(len(lines[i]) for i in block) for block in blocks]
    between = _GAP // 3 if len(rows) > 1 else 0
    tall = [len(rows) * high + (len(rows) - 1) * between + below + (_GAP // 2 if below else 0) for below in text]
    paper = (margin + columns * (wide + _GAP) + _GAP, sum(tall) + apart * (len(blocks) - 1) + 2 * _GAP)
    picture = PIL.Image.new("RGB", paper, _PAPER)
    draw, top = ImageDraw.Draw(picture), _GAP
    cells: list[list[Cell]] = [[] for _ in rows]
    for block, space in zip(blocks, tall, strict=True):
        for k, (title, _) in enumerate(rows):
            y = top + k * (high + between)
            name = _wrapped(title, margin - _GAP, 3)
            _text(draw, _GAP, y + (high - _LEADING * len(name)) // 2, name, _QUIET)
            for column, i in enumerate(block):
                x = margin + _GAP + column * (wide + _GAP)
                image = PIL.Image.fromarray(pixels[k][i]).resize(size, PIL.Image.Resampling.NEAREST)
                draw.rectangle((x - 1, y - 1, x + wide, y + high), outline=_EDGE)
                picture.paste(image, (x, y))
                cells[k].append(Cell((x, y, x + wide, y + high), captions[i], title))
        for column, i in enumerate(block):
            below = top + len(rows) * high + (len(rows) - 1) * between + _GAP // 2
            _text(draw, margin + _GAP + column * (wide + _GAP), below, lines[i], _INK)
        top += space + apart
    return ImageGrid(picture, tuple(cell for row in cells for cell in row), columns, scale)


def save(
    grid: ImageGrid,
    path: Path,
    kind: Literal["samples", "reconstructions", "neighbours"],
    stage: Literal["first", "second"],
    step: int,
    images: int,
    title: str = "",
) -> None:
    """Write a grid to `path` (.png), and the JSON file of the same name beside it, each complete or not at all.

    Arguments:
        kind: what the images are, which decides where the report shows them.
        stage, step, images: the stage, its update, and the number of images that it had been trained on.
        title: a line for the report, as `guidance 3, ddim, 50 steps`.
    """
    facts = {
        "kind": kind,
        "stage": stage,
        "step": step,
        "images": images,
        "title": title,
        "columns": grid.columns,
        "scale": grid.scale,
        "cells": [{"box": cell.box, "caption": cell.caption, "row": cell.row} for cell in grid.cells],
    }
    with whole_file(path) as temporary:
        grid.picture.save(temporary, format="PNG")
    write_json(path.with_suffix(".json"), facts)
