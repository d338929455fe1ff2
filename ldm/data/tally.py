"""How many items could be used and how many could not, and when these are too many.

Each worker process sees a share of the items. So the tally is one byte for each item in shared memory, with the state of the
item when it was last seen. Writing the same state twice changes nothing, so no lock is needed, and an item is counted once
whatever the number of epochs.

A run stops as soon as bad > max_bad * max(seen, min(items, 500)). So a few bad images at the beginning of a large set do not
stop it, a small set is judged as a whole, and a set in which no image can be used stops at once.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch

from ldm.data.caption import PROBLEMS

_SEEN, _BAD, _PROBLEM = 1, 2, 4  # the number of the caption's problem, 0 for none, is in the bits from the third on
_ENOUGH = 500


class TooManyBadError(RuntimeError):
    """More items cannot be used than `max_bad` allows."""


class Tally:
    """The state of every item of one split, shared between processes, and the file that lists those that cannot be used.

    Arguments:
        items: number of items; for a stream, the number of latest items that are counted.
        split: the name of the split, for messages.
        max_bad: the share of items that cannot be used above which the run stops.
        file: a file to which a line of JSON is added for each such item when it is first met; None for none.
    """

    def __init__(self, items: int, split: str, max_bad: float, file: Path | None = None):
        self.state = torch.zeros(items, dtype=torch.uint8).share_memory_()
        self._bytes = self.state.numpy()  # the same memory; access to one byte is ten times as fast
        self.split, self.max_bad, self.file = split, max_bad, file

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_bytes"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._bytes = self.state.numpy()

    def good(self, index: int, problem: str | None = None, name: str = "") -> None:
        """Count an item as one that can be used; `problem` is what is wrong with its caption, if anything is."""
        code = 0 if problem is None else 1 + PROBLEMS.index(problem)
        state = _SEEN + _PROBLEM * code
        slot = index % len(self.state)
        if problem not in (None, "missing") and int(self._bytes[slot]) != state:
            self._write(index, name, "caption", problem)
        self._bytes[slot] = state

    def bad(self, index: int, name: str, reason: str) -> None:
        """Count an item as one that cannot be used; TooManyBadError where these are too many now."""
        slot = index % len(self.state)
        if int(self._bytes[slot]) != _SEEN + _BAD:
            self._write(index, name, "image", reason)
        self._bytes[slot] = _SEEN + _BAD
        seen, bad = self.seen, self.unusable
        if bad > self.max_bad * max(seen, min(len(self.state), _ENOUGH)):
            raise TooManyBadError(
                f"{bad} of {seen} items seen of the {self.split} set cannot be used, more than "
                f"data.max_bad={self.max_bad:g} allows; the last: {name}: {reason}. Mend or remove them"
                + (f" (listed in {self.file})" if self.file else "")
                + ", or allow more with data.max_bad"
            )

    @property
    def seen(self) -> int:
        """Number of items that were seen."""
        return int((self.state > 0).sum())

    @property
    def unusable(self) -> int:
        """Number of items that cannot be used."""
        return int((self.state == _SEEN + _BAD).sum())

    def counts(self) -> dict[str, int]:
        """How many items were `seen`, were `bad`, and had each problem with their caption that occurred."""
        counts = {"seen": self.seen, "bad": self.unusable}
        for code, problem in enumerate(PROBLEMS, start=1):
            number = int((self.state == _SEEN + _PROBLEM * code).sum())
            if number:
                counts[f"caption {problem}"] = number
        return counts

    def _write(self, index: int, name: str, kind: str, reason: str) -> None:
        if self.file is None:
            return
        entry = {"split": self.split, "index": index, "name": name, "kind": kind, "reason": reason}
        self.file.parent.mkdir(parents=True, exist_ok=True)
        # A single write to a file that was opened for appending is not interleaved with those of other processes.
        descriptor = os.open(self.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, (json.dumps(entry) + "\n").encode())
        finally:
            os.close(descriptor)
