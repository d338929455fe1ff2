"""A frame as a piece of a page: pictures, captions, how far it is. All pictures are within the text, so no file is served."""

from __future__ import annotations

from html import escape

from ldm.demo.frame import Frame, Row
from ldm.demo.picture import address, inline

_SMALL = 160  # pixels of a side, below which an image is shown with its pixels as squares


def html(frame: Frame) -> str:
    """The frame as a page shows it."""
    parts = [_row(row, _kind(row, frame), not frame.left) for row in frame.rows]
    if frame.film:
        parts.insert(
            0, f'<figure class="film"><img alt="the walk, there and back" src="{inline(frame.film, "gif")}"></figure>'
        )
    return f'<div class="frame" aria-live="polite">{_way(frame.left)}{"".join(parts)}{_line("note", frame.note)}</div>'


def invited(text: str) -> str:
    """What stands where pictures will be."""
    return f'<div class="frame">{_way(0.0)}{_line("invited", text)}</div>'


def refused(text: str) -> str:
    """An error of a visitor's, in a sentence."""
    return f'<div class="frame" role="alert">{_way(0.0)}{_line("refused", text)}</div>'


def cannot(text: str) -> str:
    """Why a tab has nothing to do."""
    return f'<div class="frame">{_line("cannot", text)}</div>'


def _way(left: float | None) -> str:
    done = 0 if left is None else 100 * (1 - min(max(left, 0), 1))
    kind = "way" if left else "way done"
    return f'<div class="{kind}" role="progressbar" aria-valuenow="{done:.0f}"><i style="width: {done:.0f}%"></i></div>'


def _kind(row: Row, frame: Frame) -> str:
    """How large the pictures of a row are beside each other."""
    if frame.strip:
        return "strip"
    if row.words:
        return "beside"
    if len(frame.rows) > 1:
        return "several"
    return "one" if len(row.pictures) == 1 else "few" if len(row.pictures) <= 4 else "many"


def _row(row: Row, kind: str, last: bool) -> str:
    title = f"<h4>{escape(row.title)}</h4>" if row.title else ""
    words = [*row.words, *[""] * (len(row.pictures) - len(row.words))]
    cells = "".join(
        f'<figure><img class="{"square" if max(picture.size) < _SMALL else "smooth"}" alt="{escape(word) or f"image {i}"}" '
        f'src="{address(picture, last or max(picture.size) < _SMALL)}" width="{picture.width}" height="{picture.height}">'
        + (f"<figcaption>{escape(word)}</figcaption>" if word else "")
        + "</figure>"
        for i, (picture, word) in enumerate(zip(row.pictures, words, strict=True))
    )
    return f'{title}<div class="pictures {kind}">{cells}</div>'


def _line(kind: str, text: str) -> str:
    return f'<p class="{kind}">{escape(text)}</p>' if text else ""
