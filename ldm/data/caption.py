"""From a stored caption to a text that a tokeniser can take; '' is 'no condition'.

A caption that is missing, empty, not text, not valid Unicode or without a visible character becomes '', which the
conditioner reads as unconditional; one longer than `LONGEST` characters is cut. Each such case is named, so that it
can be counted. Bytes are text as `ldm.files.decoded` reads it, and a byte order mark is no part of a caption.
"""

from __future__ import annotations

import math
import re
import unicodedata
from typing import Any

from ldm.files import decoded

LONGEST = 1000
PROBLEMS = ("missing", "not text", "invalid unicode", "invisible", "too long")
_SPACE = re.compile(r"\s+")


def _visible(text: str) -> bool:
    return any(unicodedata.category(c)[0] not in "CZ" for c in text[:LONGEST])


def clean(value: Any, draw: int = 0) -> tuple[str, str | None]:
    """The text, and which of `PROBLEMS` was met. Of a list, the usable caption number `draw` modulo their count."""
    if isinstance(value, list | tuple):
        cleaned = [clean(entry) for entry in value]
        usable = [pair for pair in cleaned if pair[0]]
        if usable:
            return usable[draw % len(usable)]
        return "", (cleaned[0][1] if cleaned else "missing")
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "", "missing"
    if not isinstance(value, str | bytes):
        return "", "not text"
    try:
        text = decoded(value) if isinstance(value, bytes) else value
        text.encode("utf-8")  # a lone surrogate, as a lenient reader leaves it, stops a tokeniser
    except UnicodeError:
        return "", "invalid unicode"
    if not text.strip():
        return "", "missing"
    if not _visible(text):
        return "", "invisible"
    text = _SPACE.sub(" ", text[: 4 * LONGEST].replace("\0", " ").replace("\ufeff", "")).strip()
    return (text, None) if len(text) <= LONGEST else (text[:LONGEST].rstrip(), "too long")
