"""What runs need of the store: `needs.json` in a run's directory, a list of kind/key; and in the store the runs that asked.

A run adds an artifact before it looks it up and drops those of former calls when it has finished, so what is in no list is
needed by nobody. `runs.txt` of the store names the directory of every run that ever asked, one a line, for runs may lie
anywhere. A run that was moved takes its list along.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from ldm.files import read_text, write_json

FILE = "needs.json"
RUNS = "runs.txt"


class Needs:
    """Those of one run.

    Arguments:
        run: its directory.
    """

    def __init__(self, run: Path):
        self.run, self._asked = run, list[str]()

    def begin(self) -> None:
        """Say what is known so far: what the run asked for before, or nothing."""
        write_json(self.run / FILE, read(self.run) or [])

    def add(self, store: Path, artifact: str) -> None:
        """The run is going to use `artifact`, kind/key, of a store."""
        self._asked.append(artifact)
        write_json(self.run / FILE, sorted({*(read(self.run) or []), *self._asked}))
        enrol(store, self.run)

    def settle(self, goes_on: bool) -> None:
        """The run has finished: it needs what it asked for in this call where more updates may be made, or nothing."""
        write_json(self.run / FILE, sorted(set(self._asked)) if goes_on else [])


def read(run: Path) -> list[str] | None:
    """What a run needs; None where it does not say, or not in a way that can be read."""
    try:
        found = json.loads(read_text(run / FILE))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, list) and all(isinstance(each, str) for each in found) else None


def enrol(store: Path, run: Path) -> None:
    """Note in a store where a run that uses it lies."""
    path = run.resolve()
    if path not in enrolled(store):
        store.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(store / RUNS, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, f"{path}\n".encode())
        finally:
            os.close(descriptor)


def enrolled(store: Path) -> list[Path]:
    """The directories of runs that asked, wherever they are by now."""
    file = store / RUNS
    return list(dict.fromkeys(Path(line) for line in read_text(file).splitlines() if line)) if file.exists() else []
