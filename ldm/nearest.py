"""The end of a message about an unknown word: which one may be meant, and which there are."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Set


def nearest(word: str, known: Iterable[str], there: str = "There are") -> str:
    """The end of a message about an unknown word: the most similar known word, and then all of them, those of a set sorted."""
    known = sorted(known) if isinstance(known, Set) else list(known)
    near = similar(word, known)
    return (f"; did you mean {near}?" if near else ".") + f" {there} {', '.join(known)}"


def similar(word: str, known: Iterable[str]) -> str | None:
    """The known word that is the most like this one, whatever its capitals; None where none is like it."""
    small = {each.casefold(): each for each in known}
    near = difflib.get_close_matches(word.casefold(), small, 1)
    return small[near[0]] if near else None
