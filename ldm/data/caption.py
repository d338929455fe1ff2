"""From a stored caption to a text for a tokenizer; the empty text means "no condition".

A caption that is missing, empty, not a text, not valid Unicode or without a visible character becomes the empty text. One
that is longer than `LONGEST` characters is cut. Each of these problems has a name, so that it can be counted. Bytes are
decoded as by `ldm.files.decoded`, and byte order marks are removed.
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
    """The text of a stored caption, and which of `PROBLEMS` it had, or None.

    Arguments:
        value: the stored caption, or a list of captions.
        draw: chooses one of the usable captions of a list, modulo their number.
    """
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
        text.encode("utf-8")  # tokenizers fail on lone surrogates, which some readers leave in a text
    except UnicodeError:
        return "", "invalid unicode"
    if not text.strip():
        return "", "missing"
    if not _visible(text):
        return "", "invisible"
    text = _SPACE.sub(" ", text[: 4 * LONGEST].replace("\0", " ").replace("\ufeff", "")).strip()
    return (text, None) if len(text) <= LONGEST else (text[:LONGEST].rstrip(), "too long")
