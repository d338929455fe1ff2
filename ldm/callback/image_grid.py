"""Pictures of many images: a grid with the caption under each cell, and rows that belong together beside each other.

Small images are enlarged by a whole number without smoothing, so that a pixel stays a pixel. A picture is saved as a
PNG with a JSON file beside it that says what every cell is and where it lies, so that the report can take the cells out
again and set them as a page needs them, and so that captions can be searched.

Text is drawn in DejaVu Sans, which lies beside this file, so that pictures are the same on every machine: Latin with its
accents, Greek, Cyrillic, Armenian, Georgian, Hebrew, Arabic, and many signs; other scripts were left
out of the file, which is half as large so. What it lacks (Chinese, Japanese, Korean, most emoji) is a small square; the
JSON file has the caption as it is.
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
    """One image of a grid: its box (left, top, right, bottom) in the picture, caption, and title of its row."""

    box: tuple[int, int, int, int]
    caption: str
    row: str


@dataclass(frozen=True)
class ImageGrid:
    """A picture and what is where in it.

    Attributes:
        picture: RGB.
        cells: in reading order of the images, row title by row title where there are several.
        columns: images beside each other.
        scale: how many pixels of the picture a pixel of an image has become, each way.
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
    """Whether the font has this character: one that it lacks looks as U+FFFF does, which no font has."""
    return unicodedata.category(character) not in ("Cc", "Cs") and _glyph(character) != _glyph("\uffff")


def _legible(text: str) -> str:
    """The text with a square in place of each character that the font lacks, and without what is never seen: joiners, marks of
    direction and of a variant."""
    composed = unicodedata.normalize("NFC", " ".join(text.split()))
    seen = (c for c in composed if unicodedata.category(c) != "Cf" and not "\ufe00" <= c <= "\ufe0f")
    return "".join(c if _drawable(c) else _ABSENT for c in seen)


def _wrapped(text: str, width: int, lines: int = _LINES) -> list[str]:
    """The text broken into at most `lines` lines of `width` pixels; what does not fit ends in an ellipsis."""
    font, found = _font(), [""]
    for word in _legible(text).split():
        while word:
            longer = f"{found[-1]} {word}".strip()
            if font.getlength(longer) <= width:
                found[-1], word = longer, ""
            elif found[-1] and font.getlength(word) <= width:
                found.append("")
            else:  # a word wider than a line is broken where it has to be
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
    """Images (n, 1 | 3 | 4, h, w) in [-1, 1], each with its caption below.

    Arguments:
        captions: one an image, or None.
        columns: images beside each other; 8, or fewer where that is nearer to a square, by default.
        cell: width in pixels that small images are enlarged to at least.
    """
    return beside([("", images)], captions, columns, cell)


def beside(
    rows: Sequence[tuple[str, Image]],
    captions: Sequence[str] | None = None,
    columns: int | None = None,
    cell: int = 128,
) -> ImageGrid:
    """Sets of as many images each, below each other under their titles, as originals and reconstructions.

    Where the sets are longer than `columns`, blocks of all rows follow each other. Captions stand below a block.

    Arguments:
        rows: (title, images (n, 1 | 3 | 4, h, w) in [-1, 1]) of one n, h and w.
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
    kind: Literal["samples", "reconstructions"],
    stage: Literal["first", "second"],
    step: int,
    images: int,
    title: str = "",
) -> None:
    """Write `path` (.png) and the JSON file of the same name beside it, each in one move.

    Arguments:
        kind: what the report makes of it.
        stage, step, images: when in the run it was made; `images` is how many had been trained on.
        title: a line above it in the report, as `guidance 3, ddim, 50 steps`.
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
