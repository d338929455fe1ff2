"""Checkpoints: tensors in safetensors, and everything else in a JSON manifest. They are complete, verified, and never unpickled.

`checkpoints/<stage>/step-N/` has `tensors.safetensors` and `manifest.json`. The manifest has the nested state, with the names
of tensors in place of tensors, and the size and checksum of the tensor file. A checkpoint is written under a temporary name,
flushed and renamed, then the small file `latest` is replaced, and only then the oldest checkpoint is removed. Loading verifies
checksums; of a damaged checkpoint there is a warning, and the one before it is taken.

A finished stage that will not be continued keeps a manifest without tensors, which says what was done (`prune`).
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import xxhash
from torch import Tensor

from ldm.files import checksum, whole_directory, write_json, write_text
from ldm.tensors import read_tensors, size_of, write_tensors

log = logging.getLogger(__name__)

FORMAT = 4  # the version of the files and of the state that a stage puts into them
_TENSOR = "__tensor__"
_TENSORS, _MANIFEST = "tensors.safetensors", "manifest.json"


class DamagedCheckpoint(RuntimeError):
    """A checkpoint that differs from what was written; the message names the file and the reason."""


def _split(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """The state with its tensors replaced by names, which say where they are in it; they are added to `tensors`."""
    if isinstance(value, Tensor):
        if name in tensors:  # {"a": {"b": x}, "a/b": y}, {1: x, "1": y}
            name = f"{name}#{len(tensors)}"
        tensors[name] = value
        return {_TENSOR: name}
    if isinstance(value, dict):
        # JSON's keys are strings; optimisers number their parameters.
        return {"__dict__": [[key, _split(item, f"{name}/{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return [_split(item, f"{name}/{i}", tensors) for i, item in enumerate(value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(
        f"checkpoint: {name} is a {type(value).__name__}; a state holds tensors, numbers, strings, lists, dicts"
    )


def _join(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_join(item, tensors) for item in value]
    if isinstance(value, dict):
        if _TENSOR in value:
            return tensors[value[_TENSOR]]
        return {key: _join(item, tensors) for key, item in value["__dict__"]}
    return value


class _Unread(dict):
    """A mapping from every name to None, in place of tensors, for reading only the rest of a state."""

    def __missing__(self, name: str) -> None:
        return None


def write(path: Path, state: dict[str, Any]) -> None:
    """Write one checkpoint directory, completely or not at all. The state, a nested structure, is not copied."""
    tensors: dict[str, Tensor] = {}
    skeleton = _split(state, "", tensors)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_directory(path) as folder:
        size, digest = write_tensors(folder / _TENSORS, tensors)
        _write_manifest(folder, size, digest, skeleton)


def _write_manifest(folder: Path, size: int, digest: str, skeleton: Any) -> None:
    manifest = {"format": FORMAT, "bytes": size, "xxh3": digest, "state": skeleton}
    manifest["self"] = _digest(manifest)
    # Python's fast JSON encoder cannot indent, and a state names thousands of tensors at every save.
    write_json(folder / _MANIFEST, manifest, indent=None)


def bytes_of(state: Any) -> int:
    """The size in bytes of a nested state on the disk. Only the shapes and types of its tensors are used."""
    tensors: dict[str, Tensor] = {}
    manifest = {"state": _split(state, "", tensors)}
    return size_of(tensors) + len(json.dumps(manifest))


def _digest(manifest: dict[str, Any]) -> str:
    body = {key: value for key, value in manifest.items() if key != "self"}
    return xxhash.xxh3_128_hexdigest(json.dumps(body, sort_keys=True).encode())


def _manifest(path: Path) -> dict[str, Any]:
    """The verified manifest of a checkpoint directory; DamagedCheckpoint where it differs from what was written."""
    manifest = json.loads((path / _MANIFEST).read_text(encoding="utf-8"))
    if manifest["format"] > FORMAT:
        raise DamagedCheckpoint(f"{path}: format {manifest['format']} is newer than this ldm's {FORMAT}; update ldm")
    if manifest["format"] < FORMAT:
        raise DamagedCheckpoint(
            f"{path}: format {manifest['format']} is of an older ldm, this one's is {FORMAT}; go on with that one, or "
            "take another name="
        )
    if manifest["self"] != _digest(manifest):
        raise DamagedCheckpoint(f"{path}/manifest.json: its checksum does not match")
    return manifest


def read(path: Path) -> dict[str, Any]:
    """The verified state in a checkpoint directory; DamagedCheckpoint where it differs from what was written."""
    try:
        manifest = _manifest(path)
        file = path / _TENSORS
        if file.stat().st_size != manifest["bytes"]:
            raise DamagedCheckpoint(f"{file}: {file.stat().st_size} bytes, {manifest['bytes']} were written")
        if checksum(file) != manifest["xxh3"]:
            raise DamagedCheckpoint(f"{file}: its checksum does not match")
        return _join(manifest["state"], read_tensors(file))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedCheckpoint(f"{path}: {type(error).__name__}: {error}") from error


class Checkpoints:
    """The newest checkpoints of one stage of a run.

    Arguments:
        folder: `run/checkpoints/<stage>`.
        keep: how many complete ones are kept, at least two, so that there is another one if one is damaged.
    """

    def __init__(self, folder: Path, keep: int = 2):
        self.folder, self.keep = folder, max(2, keep)

    def steps(self) -> list[int]:
        """The updates of the checkpoints that are there, in increasing order."""
        if not self.folder.exists():
            return []
        names = [entry.name for entry in self.folder.iterdir() if entry.is_dir()]
        return sorted(int(name[5:]) for name in names if name.startswith("step-") and name[5:].isdigit())

    def check_room(self, state: dict[str, Any]) -> None:
        """Raise OSError where the disk has no space for two checkpoints of this state, since a new one is written before an
        old one is removed."""
        place = next(each for each in (self.folder, *self.folder.parents) if each.exists())
        size, free = bytes_of(state), shutil.disk_usage(place).free
        if free < 2 * size + (1 << 20):
            raise OSError(
                f"{self.folder}: {free / 2**20:,.0f} MiB are free and two checkpoints of {size / 2**20:,.0f} MiB are to "
                "fit; make room, or put the run elsewhere with runs="
            )

    def save(self, step: int, state: dict[str, Any]) -> Path:
        """Write the checkpoint of an update, and then remove the oldest ones."""
        path = self.folder / f"step-{step}"
        write(path, state)
        write_text(self.folder / "latest", f"{path.name}\n")
        # A later one is there only if it was damaged and skipped; it does not count, and will be replaced in time.
        for old in [each for each in self.steps() if each < step][: 1 - self.keep]:
            shutil.rmtree(self.folder / f"step-{old}")
        return path

    def peek(self) -> dict[str, Any] | None:
        """The state in the newest checkpoint whose manifest is not damaged, with None for tensors, which are not read; None
        where there is no such checkpoint."""
        for step in reversed(self.steps()):
            try:
                return _join(_manifest(self.folder / f"step-{step}")["state"], _Unread())
            except (DamagedCheckpoint, OSError, ValueError, KeyError, TypeError) as error:
                log.info("passed over: %s", error)
        return None

    def prune(self, updates: int, history: Any, spent: dict[str, Any] | None = None) -> None:
        """Replace the checkpoints of a finished stage by a manifest with its number of updates, what they have cost and its
        history, without tensors."""
        path = self.folder / f"step-{updates}"
        self.folder.mkdir(parents=True, exist_ok=True)
        with whole_directory(path) as folder:
            facts = [["updates", updates], ["history", _split(history, "", {})]]
            facts += [] if spent is None else [["spent", _split(spent, "", {})]]
            _write_manifest(folder, 0, "", {"__dict__": facts})
        write_text(self.folder / "latest", f"{path.name}\n")
        for other in self.steps():
            if other != updates:
                shutil.rmtree(self.folder / f"step-{other}")

    def pruned(self) -> bool:
        """Whether the newest checkpoint is one that `prune` left, without tensors."""
        steps = self.steps()
        try:
            return bool(steps) and _manifest(self.folder / f"step-{steps[-1]}")["bytes"] == 0
        except (DamagedCheckpoint, OSError, ValueError, KeyError, TypeError):
            return False

    def clear(self) -> None:
        """Remove them all."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def load(self) -> tuple[int, dict[str, Any]] | None:
        """(step, state) of the newest checkpoint that is not damaged; None where there are no checkpoints at all.

        Raises DamagedCheckpoint where all checkpoints are damaged, because to begin anew would silently lose the run.
        """
        for leftover in self.folder.glob("*.tmp") if self.folder.exists() else ():
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)  # another rank may be removing it, too
            else:
                leftover.unlink(missing_ok=True)
        reasons = []
        for step in reversed(self.steps()):
            try:
                return step, read(self.folder / f"step-{step}")
            except DamagedCheckpoint as error:
                log.warning("damaged checkpoint passed over: %s", error)
                reasons.append(str(error))
        if reasons:
            raise DamagedCheckpoint(
                f"no whole checkpoint in {self.folder}; remove the directory to start anew. " + "; ".join(reasons)
            )
        return None


def to_device(state: Any, device: torch.device) -> Any:
    """The same nested state with its tensors on `device`."""
    if isinstance(state, Tensor):
        return state.to(device)
    if isinstance(state, dict):
        return {key: to_device(value, device) for key, value in state.items()}
    if isinstance(state, list):
        return [to_device(value, device) for value in state]
    return state
