"""How many items were good and how many were not, and when that is too many.

Every worker process sees its share of the items, so the tally is one byte per item in shared memory: what an item was
when last seen. Writing it twice changes nothing, so no lock is needed and no epoch counts an item again.

A run stops as soon as `bad > max_bad * max(seen, min(items, 500))`: a large set forgives its first few bad images
whenever they come, a small one is judged as a whole, and a set of nothing but garbage stops at once.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch

from ldm.data.caption import PROBLEMS

_SEEN, _BAD, _PROBLEM = 1, 2, 4  # the caption's problem, 0 for none, is stored from the third bit on
_ENOUGH = 500


class TooManyBadError(RuntimeError):
    """More items than allowed cannot be used."""


class Tally:
    """The state of every item of one split, shared between processes, and the file that lists the bad ones.

    Arguments:
        items: number of items; of a stream, the number of latest items to judge by.
        split: the split's name, for messages.
        max_bad: the share of bad images above which the run stops.
        file: a line of JSON is added here for each bad item, when it is first met; None for no file.
    """

    def __init__(self, items: int, split: str, max_bad: float, file: Path | None = None):
        self.state = torch.zeros(items, dtype=torch.uint8).share_memory_()
        self._bytes = self.state.numpy()  # the same memory, ten times faster to touch one byte of
        self.split, self.max_bad, self.file = split, max_bad, file

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_bytes"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._bytes = self.state.numpy()

    def good(self, index: int, problem: str | None = None, name: str = "") -> None:
        """The item can be used; `problem` is its caption's, if any."""
        code = 0 if problem is None else 1 + PROBLEMS.index(problem)
        state = _SEEN + _PROBLEM * code
        slot = index % len(self.state)
        if problem not in (None, "missing") and int(self._bytes[slot]) != state:
            self._write(index, name, "caption", problem)
        self._bytes[slot] = state

    def bad(self, index: int, name: str, reason: str) -> None:
        """The item cannot be used; TooManyBadError where that is one too many."""
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
        return int((self.state > 0).sum())

    @property
    def unusable(self) -> int:
        return int((self.state == _SEEN + _BAD).sum())

    def counts(self) -> dict[str, int]:
        """Items seen, bad, and with each kind of caption problem that occurred."""
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
        # One write to a descriptor opened for appending is not torn apart by another process's.
        descriptor = os.open(self.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, (json.dumps(entry) + "\n").encode())
        finally:
            os.close(descriptor)
