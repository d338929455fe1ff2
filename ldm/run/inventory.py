"""What lies in a store, and which runs need it: nothing is loaded, and only `remove` changes anything.

A run is a directory with a `config.yaml`. Runs are looked for where the store was told that they are (ldm.run.needs) and
below given folders. One that does not say what it needs, as of an older ldm, is taken to need everything.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ldm.files import read_text
from ldm.run import needs

_PART = ".part"
_REMOVED = ".removed"


@dataclass(frozen=True)
class Entry:
    """A directory of a store.

    Fields:
        name: kind/key.
        whole: whether it was published; otherwise its making was broken off, or is under way.
        size: bytes of its files.
        made: when it was published, or last written to.
        what: what it was made from, in words; of one that cannot be read, why.
        users: runs that need it.
    """

    name: str
    path: Path
    whole: bool
    size: int
    made: datetime
    what: str
    users: tuple[Path, ...]


@dataclass(frozen=True)
class Inventory:
    """What is in a store, and which runs use it.

    Fields:
        entries: the directories in the store, ordered by name.
        silent: runs that do not say what they need.
        gone: directories of runs that used the store and do not exist any more.
    """

    entries: tuple[Entry, ...]
    silent: tuple[Path, ...]
    gone: tuple[Path, ...]

    @property
    def removable(self) -> tuple[Entry, ...]:
        """The entries that no run needs; none where a run does not say what it needs."""
        return () if self.silent else tuple(entry for entry in self.entries if not entry.users)


def take(store: Path, roots: Iterable[Path] = ()) -> Inventory:
    """Look at a store and at the runs that may need it: those it knows, and those below `roots`.

    Raises FileNotFoundError where there is no store.
    """
    if not store.is_dir():
        raise FileNotFoundError(f"no store at {store}: it is what store= of a run names, as runs/store")
    known = needs.enrolled(store)
    runs = {run.resolve(): needs.read(run) for run in (*filter(_is_run, known), *_runs(roots, store))}
    users: dict[str, list[Path]] = {}
    for run, wanted in sorted(runs.items()):
        for name in wanted or ():
            users.setdefault(name, []).append(run)
    entries = [_entry(path, users) for path in sorted(store.glob("*/*")) if path.is_dir()]
    silent = tuple(sorted(run for run, wanted in runs.items() if wanted is None))
    return Inventory(tuple(entries), silent, tuple(run for run in known if not _is_run(run)))


def remove(store: Path, entry: Entry, roots: Iterable[Path] = ()) -> bool:
    """Remove an entry, under its lock; False where a process is at it, or a run has come to need it."""
    lock = FileLock(store / f"{entry.name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    try:
        if entry.path not in [each.path for each in take(store, roots).removable]:
            return False
        doomed = entry.path.with_name(entry.path.name + _REMOVED)
        os.replace(entry.path, doomed)  # at once, so that nobody finds half of it
        shutil.rmtree(doomed)
        return True
    finally:
        lock.release()


def _is_run(path: Path) -> bool:
    return (path / "config.yaml").is_file() or (path / needs.FILE).is_file()


def _runs(roots: Iterable[Path], store: Path) -> Iterator[Path]:
    """The runs below folders, and these themselves where they are runs; not below a run, nor in the store."""
    for root in roots:
        for folder, below, _ in os.walk(root):
            path = Path(folder)
            if path.resolve() == store.resolve():
                below.clear()
            elif _is_run(path):
                below.clear()
                yield path


def _entry(path: Path, users: dict[str, list[Path]]) -> Entry:
    key = path.name.removesuffix(_REMOVED).removesuffix(_PART)
    name, file = f"{path.parent.name}/{key}", path / "artifact.json"
    whole = path.name == key
    sizes = [each.stat().st_size for each in path.rglob("*") if each.is_file()]
    made = datetime.fromtimestamp((file if file.is_file() else path).stat().st_mtime)
    what = _what(path.parent.name, file) if whole else "not finished: its making was broken off, or goes on now"
    return Entry(name, path, whole, sum(sizes), made, what, tuple(users.get(name, ())))


def _what(kind: str, file: Path) -> str:
    try:
        made_from = json.loads(read_text(file))["made_from"]
        return _first(made_from) if kind == "autoencoder" else _of_data(kind, made_from)
    except FileNotFoundError:
        return "cannot be read: it has no artifact.json"
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        return f"cannot be read: {file.name} is damaged ({type(error).__name__}: {error})"


def _first(made_from: dict[str, Any]) -> str:
    settings = made_from["history"][-1]["settings"]
    kind = settings["autoencoder"]["_target_"].rsplit(".", 1)[-1]
    size = " x ".join(str(each) for each in settings["data"]["image_shape"])
    return (
        f"first stage: {kind} of {size} images, {settings['first']['steps']} updates, seed {settings['seed']}; "
        f"weights {made_from['weights'][:12]}"
    )


def _of_data(kind: str, made_from: dict[str, Any]) -> str:
    return f"{kind} of the {made_from['split']} images, by weights {made_from['weights'][:12]}"
