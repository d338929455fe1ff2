"""Words that belong together follow each other: what is composed but of no use to what the user chose is left out or told.

An experiment says more of a part than which class it is: `condition: {vocabulary: 512}` beside `condition: text`. Who then types
`condition=none` has not asked for a vocabulary. So of a part that was chosen on the command line, arguments that its class
does not have are dropped, unless they were typed, too; typed ones stay, and are refused with the nearest right one.

`backbone` and `diffusion` are there to be referred to by a prior. Of a prior that does not, they are no part of the run, and a
typed word of theirs would do nothing: it is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict

from ldm.signature import BESIDE, PIECES, declared


def follow(config: DictConfig, words: Sequence[str]) -> None:
    """Drop what the file of an experiment says of parts that `words` (a command line) replaced and these do not have."""
    typed = {key for word in words for key in _set_by(word)}
    for place in sorted({_place(key) for key, value in map(_said, words) if re.fullmatch(r"\w+", value)}):
        node = OmegaConf.select(config, place)
        if isinstance(node, DictConfig):
            _prune(node, place, typed)


def idle(config: DictConfig, words: Sequence[str]) -> str | None:
    """Leave out the pieces that nothing refers to any more; what to say of a typed word of one that was not used at all."""
    plain = OmegaConf.to_container(config, resolve=False)
    rest = str({name: value for name, value in plain.items() if name not in PIECES})
    unused = [piece for piece in PIECES if f"${{{piece}" not in rest]
    for word in words:
        piece = re.split(r"[./@=]", _said(word)[0])[0]
        if piece in unused:
            return f"{word}: this prior has no {piece}, so the word would do nothing; leave it out, or take prior=diffusion"
    return None


def limited_twice(config: DictConfig, words: Sequence[str]) -> str | None:
    """What to say of a number of updates that was typed for a stage which ends by a budget."""
    for key, value in map(_said, words):
        if key not in ("first.steps", "second.steps"):
            continue
        place = key.replace(".steps", ".budget")
        for name, limit in (OmegaConf.select(config, place) or {}).items():
            if name != "_target_" and limit is not None:
                said = f"{place}.{name}"
                return f"{key}={value} and {said}={limit}: a stage ends by one of them; leave out {key}, or say {said}=null"
    return None


def _said(word: str) -> tuple[str, str]:
    key, _, value = word.partition("=")
    return key.lstrip("+~"), value


def _set_by(word: str) -> list[str]:
    """The places that a word sets: that of its key and, of a value in braces, those of what stands in them."""
    key, value = _said(word)
    if not value.startswith("{"):
        return [key]
    return [key, *_below(OverridesParser.create().parse_override(word).value(), key)]


def _below(value: Any, place: str) -> Iterator[str]:
    """The places of what stands in a mapping at a place, and in mappings in it."""
    for name, inner in value.items() if isinstance(value, Mapping) else ():
        yield f"{place}.{name}"
        yield from _below(inner, f"{place}.{name}")


def _place(key: str) -> str:
    """Where the choice of a group lands in the config."""
    group, _, place = key.partition("@")
    return place or group.replace("/", ".")


def _prune(node: DictConfig, place: str, typed: set[str]) -> None:
    plain = OmegaConf.to_container(node, resolve=False)
    found = declared(plain["_target_"]) if isinstance(plain.get("_target_"), str) else None
    known = None if found is None or found.free else {*found.arguments, *BESIDE.get(place, ())}
    for name, value in list(plain.items()):
        own = f"{place}.{name}"
        if known is not None and not name.startswith("_") and name not in known:
            if not any(key == own or key.startswith(f"{own}.") for key in typed):
                with open_dict(node):
                    del node[name]
        elif isinstance(value, dict):
            _prune(node[name], own, typed)
