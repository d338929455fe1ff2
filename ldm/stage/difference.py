"""In what two nested configs differ, and how that is said to a person."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_OTHER_DATA = "data.train: other images, labels or captions"
_SHOWN = 5
_TARGET = "_target_"


def said(changed: list[tuple[str, Any, Any]], below: str = "") -> tuple[str, ...]:
    """Each change as a text. Settings that do not exist any more are left out where there are other changes, as those of
    another class are; so are those that another class alone has."""
    classes = tuple(
        key.removesuffix(_TARGET) for key, before, _ in changed if key.endswith(_TARGET) and before is not None
    )
    there = [each for each in changed if each[2] is not None] or changed
    there = [each for each in there if each[1] is not None or not each[0].startswith(classes)]
    return tuple(
        _OTHER_DATA if key == "data.train" else f"{below}{key}={now} (was {before})" for key, before, now in there
    )


def shown(reasons: tuple[str, ...]) -> str:
    """The first reasons in one line, and the number of the others."""
    more = f" and {len(reasons) - _SHOWN} more" if len(reasons) > _SHOWN else ""
    return "; ".join(reasons[:_SHOWN]) + more


def differences(old: Any, new: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(dotted key, old value, new value) of every value that differs between two nested configs; None for a value that one of
    them does not have. An empty node counts as None, as that of a group that an older run did not have."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted(old.keys() | new.keys()):
            yield from differences(old.get(name), new.get(name), f"{key}.{name}" if key else str(name))
    elif old != new and not (old in (None, {}) and new in (None, {})):
        yield key, old, new
