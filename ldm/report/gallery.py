"""The images of a run on a page: the cells of saved grids are cut out and arranged anew, each with its caption as text."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import PIL.Image

from ldm.report.words import labels, listed

_SMALL, _MOST_CELLS, _MOST_STEPS, _ACROSS = 96, 32, 6, 8


@dataclass(frozen=True)
class Picture:
    """A saved grid.

    Fields:
        path: its PNG file.
        kind, stage, step, images, title, scale, cells: the content of its JSON file (see `ldm.callback.image_grid.save`).
    """

    path: Path
    kind: str
    stage: str
    step: int
    images: int
    title: str
    scale: int
    cells: Sequence[dict]

    @property
    def rows(self) -> list[str]:
        """The titles of the rows, in order."""
        return list(dict.fromkeys(cell["row"] for cell in self.cells))

    def items(self) -> list[list[dict]]:
        """The cells that belong together, one of each row, in order."""
        return [list(item) for item in zip(*([c for c in self.cells if c["row"] == r] for r in self.rows), strict=True)]


def pictures(directory: Path) -> list[Picture]:
    """The grids saved in a directory, ordered by step. A grid without one of its two files, or with one that cannot be read, is
    incomplete and left out."""
    found = [picture for path in sorted(directory.glob("*.json")) if (picture := _picture(path)) is not None]
    return sorted(found, key=lambda picture: (picture.step, picture.path.name))


def _picture(path: Path) -> Picture | None:
    names = ("kind", "stage", "step", "images", "title", "scale", "cells")
    if not path.with_suffix(".png").is_file():
        return None
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        return Picture(path.with_suffix(".png"), *(facts[name] for name in names))
    except (ValueError, KeyError, TypeError, OSError):
        return None


def latest(directory: Path, kind: str) -> Picture | None:
    """The newest grid of a kind in a directory, whose picture can be opened; None where there is none."""
    for picture in reversed(pictures(directory)):
        if picture.kind == kind and picture.rows:
            try:
                PIL.Image.open(picture.path).verify()
                return picture
            except (OSError, SyntaxError, PIL.Image.DecompressionBombError):
                continue
    return None


def side_by_side(chosen: Sequence[tuple[str, Picture]]) -> str:
    """The first images of several grids as HTML, one grid a line, with the captions that most have in common below; lines of
    others are told. The real images, where there are some, stand on top."""
    captions = [_captions(picture) for _, picture in chosen]
    usual = max(captions, key=captions.count)
    strips, others = [], []
    beside = chosen[captions.index(usual)][1]
    originals = [title for title in beside.rows if title in ("original", "real")]
    if originals:
        strips.append(_strip(originals[0], beside, originals[0]))
    for (label, picture), own in zip(chosen, captions, strict=True):
        row = next((title for title in picture.rows if title not in ("original", "real")), picture.rows[0])
        strips.append(_strip(label, picture, row))
        others += [label] if own != usual else []
    words = "".join(f"<small>{escape(caption)}</small>" for caption in usual)
    strips += [f'<span></span><div class="captions">{words}</div>'] if any(usual) else []
    note = (
        f"{listed(others)}: of other captions or labels than the rest, so its images answer to none above them."
        if others
        else ""
    )
    lead = f'<p class="quiet">{escape(note)}</p>' if note else ""
    return f'{lead}<div class="strip named">{"".join(strips)}</div>'


def _captions(picture: Picture) -> list[str]:
    return [str(cell["caption"]) for cell in picture.cells if cell["row"] == picture.rows[0]][:_ACROSS]


def _strip(label: str, picture: Picture, row: str) -> str:
    sheet = PIL.Image.open(picture.path).convert("RGB")
    cells = [cell for cell in picture.cells if cell["row"] == row][:_ACROSS]
    broken = escape(label).replace("_", "_<wbr>")  # where a long name may go on in the next line
    return f"<span>{broken}</span><div>{''.join(_inline(sheet, cell, picture.scale) for cell in cells)}</div>"


def _inline(sheet: PIL.Image.Image, cell: dict, scale: int) -> str:
    """An <img> of a cell in its original size: as PNG for small images, and as WebP for larger ones."""
    image = sheet.crop(tuple(cell["box"]))
    image = image.resize((image.width // scale, image.height // scale), PIL.Image.Resampling.NEAREST)
    small, buffer = image.width <= _SMALL, io.BytesIO()
    if small:
        image.save(buffer, "PNG", optimize=True)
    else:
        image.save(buffer, "WEBP", quality=82)
    data = f"data:image/{'png' if small else 'webp'};base64,{base64.b64encode(buffer.getvalue()).decode()}"
    alt = ", ".join(part for part in (cell["row"], cell["caption"]) if part)
    style = ' class="small"' if small else ""
    return f'<img{style} src="{data}" alt="{escape(alt)}" width="{image.width}" height="{image.height}">'


def gallery(picture: Picture, most: int = _MOST_CELLS) -> str:
    """The first `most` items of a grid as HTML: the images of all rows above each other, and the caption below."""
    sheet, figures, large = PIL.Image.open(picture.path).convert("RGB"), [], False
    for item in picture.items()[:most]:
        images = "".join(_inline(sheet, cell, picture.scale) for cell in item)
        large = (item[0]["box"][2] - item[0]["box"][0]) // picture.scale > _SMALL
        caption = f"<figcaption>{escape(item[0]['caption'])}</figcaption>" if item[0]["caption"] else ""
        figures.append(f"<figure>{images}{caption}</figure>")
    titles = [title for title in picture.rows if title]
    order = f"From top to bottom: {', '.join(titles)}." if len(titles) > 1 else ""
    title = picture.title[:1].upper() + picture.title[1:].rstrip(".") + "." if picture.title else ""
    lead = " ".join(part for part in (title, order) if part)
    note = f'<p class="quiet">{escape(lead)}</p>' if lead else ""
    return f'{note}<div class="cells{" large" if large else ""}">{"".join(figures)}</div>'


def development(found: Sequence[Picture]) -> str:
    """The first images of the first row at several steps of the training, as HTML; empty for fewer than two grids."""
    if len(found) < 2:
        return ""
    most = min(_MOST_STEPS, len(found))
    chosen = [found[round(i * (len(found) - 1) / (most - 1))] for i in range(most)]
    strips = []
    for picture, images_seen in zip(chosen, labels([float(picture.images) for picture in chosen]), strict=True):
        sheet = PIL.Image.open(picture.path).convert("RGB")
        images = "".join(_inline(sheet, item[0], picture.scale) for item in picture.items()[:_ACROSS])
        strips.append(f'<span class="quiet">{images_seen} images</span><div>{images}</div>')
    return f'<div class="strip">{"".join(strips)}</div>'
