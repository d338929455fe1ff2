"""Faults put into copies of the tree, one at a time, and the tests run on each: noticed or not.

Importing torch and its like takes longer than most tests, so one process imports them, never `ldm` itself, and forks a child
for each fault. A child works in a copy of the tree, so that processes which a test starts have the fault too.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.mutants.fault import Fault

HEAVY = ("torch", "torch._dynamo", "lightning", "datasets", "torchvision", "torchmetrics", "transformers", "diffusers")
HEAVY += (
    "hydra",
    "scipy.linalg",
    "tokenizers",
    "rich.progress",
    "pydantic",
    "jaxtyping",
    "beartype",
    "pytest",
    "PIL.Image",
)
HEAVY += ("torchmetrics.image.fid", "torchmetrics.functional.image")
_COPIED = ("ldm", "conf", "tests", "pyproject.toml", "train.py", "sample.py", "evaluate.py", "README.md", "docs")
_OWN = ("ldm", "tests")  # packages that a child imports from its copy

Verdict = Literal["noticed", "survived", "timeout", "broken"]
"""`broken`: the tests could not be collected, so nothing was asked; a bad fault. `timeout`: it ran into the limit, which CI
would notice."""


@dataclass(frozen=True)
class Outcome:
    """What came of one fault: the verdict, the test that noticed it (or why it broke), and seconds."""

    verdict: Verdict
    by: str
    seconds: float


@dataclass
class _Child:
    fault: Fault | None
    place: Path
    tests: tuple[str, ...]
    pid: int
    start: float


class Bench:
    """
    Arguments:
        root: the tree, which is only read.
        folder: for copies and what tests leave.
        workers: children at a time, one thread each.
        limit: seconds for the tests of one fault.
        imports: what is imported before the first fork.
    """

    def __init__(self, root: Path, folder: Path, workers: int = 2, limit: float = 180, imports: Sequence[str] = HEAVY):
        self.root, self.folder, self.limit = root, folder, limit
        # Compiled once a copy and not once a child, whatever the environment says of it.
        sys.dont_write_bytecode = False
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline"}
        os.environ.setdefault("LDM_SHARED", str(root.parent / "shared"))
        for name in imports:
            with contextlib.suppress(ImportError):  # what is not installed, no test asks for
                importlib.import_module(name)
        if "torch" in imports:
            sys.modules["torch"].set_num_threads(1)
        gc.collect()
        gc.freeze()  # or the first collection of each child would copy every page
        atexit.register(gc.unfreeze)
        self._free = [folder / f"worker-{i}" for i in range(workers)]
        for place in self._free:
            for name in _COPIED:
                if (root / name).is_dir():
                    shutil.copytree(root / name, place / "tree" / name, ignore=shutil.ignore_patterns("__pycache__"))
                elif (root / name).is_file():
                    place.joinpath("tree").mkdir(parents=True, exist_ok=True)
                    shutil.copy2(root / name, place / "tree" / name)

    def run(self, faults: Sequence[Fault], told: Callable[[Fault, Outcome], None]) -> None:
        """Calls `told` for each fault as soon as it is known what came of it."""
        self._run([(fault, fault.tests) for fault in faults], lambda child, outcome: told(child.fault, outcome))

    def unsound(self, tests: Sequence[str]) -> set[str]:
        """Of tests that noticed something, those that fail without any fault: nothing follows from them."""
        found: set[str] = set()

        def note(child: _Child, outcome: Outcome) -> None:
            if outcome.verdict != "survived":
                found.update(child.tests)

        files: dict[str, list[str]] = {}
        for test in dict.fromkeys(tests):
            files.setdefault(test.partition("::")[0], []).append(test)
        self._run([(None, tuple(group)) for group in files.values()], note)
        doubtful = sorted(found)
        found.clear()
        if doubtful:
            self._run([(None, (test,)) for test in doubtful], note)
        return found

    def _run(
        self, jobs: Sequence[tuple[Fault | None, tuple[str, ...]]], told: Callable[[_Child, Outcome], None]
    ) -> None:
        waiting, running = list(reversed(jobs)), []
        try:
            while waiting or running:
                while waiting and self._free:
                    running.append(self._start(*waiting.pop(), self._free.pop()))
                time.sleep(0.02)
                for child in list(running):
                    outcome = self._ended(child)
                    if outcome is not None:
                        running.remove(child)
                        self._free.append(child.place)
                        told(child, outcome)
        finally:
            for child in running:
                _kill(child.pid)

    def _start(self, fault: Fault | None, tests: tuple[str, ...], place: Path) -> _Child:
        for name in ("left", "said", "verdict"):
            shutil.rmtree(place / name) if (place / name).is_dir() else (place / name).unlink(missing_ok=True)
        if fault is not None:
            _write(place / "tree" / fault.file, fault.applied(self.root))
        pid = os.fork()
        if pid == 0:
            _live(place, self.root, tests)
        return _Child(fault, place, tests, pid, time.monotonic())

    def _ended(self, child: _Child) -> Outcome | None:
        """What came of a child, its copy mended; None while it runs."""
        seconds = time.monotonic() - child.start
        late = seconds > self.limit
        if late:
            _kill(child.pid)
        pid, _ = os.waitpid(child.pid, 0 if late else os.WNOHANG)
        if not pid:
            return None
        _kill(child.pid)  # what it started and left
        if child.fault is not None:
            file = child.fault.file
            _write(child.place / "tree" / file, (self.root / file).read_text(encoding="utf-8"))
        if late:
            return Outcome("timeout", f"after {self.limit:.0f} s", seconds)
        file = child.place / "verdict"
        if not file.exists():  # the process itself died of it
            return Outcome("noticed", "the process died", seconds)
        verdict, by = json.loads(file.read_text(encoding="utf-8"))
        return Outcome(verdict, by, seconds)


_times = iter(range(1_000_000_000, 2_000_000_000, 10))


def _write(file: Path, text: str) -> None:
    """With a time of its own, since compiled files are known by time in seconds and size."""
    file.write_text(text, encoding="utf-8")
    moment = next(_times)
    os.utime(file, (moment, moment))


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


class _Watch:
    """A plugin of pytest that notes the first test that fails and the first file that cannot be collected."""

    def __init__(self) -> None:
        self.failed = self.uncollected = ""

    def pytest_collectreport(self, report) -> None:
        if report.failed and not self.uncollected:
            self.uncollected = f"{report.nodeid}: {str(report.longrepr).strip().splitlines()[-1]}"

    def pytest_runtest_logreport(self, report) -> None:
        if report.failed and not self.failed:
            self.failed = report.nodeid


def _live(place: Path, root: Path, tests: tuple[str, ...]) -> None:
    """What a child does; never returns."""
    os.setsid()
    said = os.open(place / "said", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(said, 1)
    os.dup2(said, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    try:
        for name in [each for each in sys.modules if each.split(".")[0] in _OWN]:
            del sys.modules[name]
        tree = place / "tree"
        os.chdir(tree)
        sys.path[:] = [str(tree), *(path for path in sys.path if path and Path(path).resolve() != root.resolve())]
        import pytest

        watch = _Watch()
        options = ["-x", "-q", "-p", "no:cacheprovider", f"--basetemp={place / 'left'}", f"--rootdir={tree}"]
        code = pytest.main([*options, *tests], plugins=[watch])
        if watch.uncollected or code not in (0, 1):
            found = ("broken", watch.uncollected or f"pytest ended with {int(code)}")
        else:
            found = ("noticed", watch.failed) if code else ("survived", "")
        place.joinpath("verdict").write_text(json.dumps(found), encoding="utf-8")
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
