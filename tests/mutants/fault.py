"""A fault: one text of one file put in the place of another, and the tests that are to notice it."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Fault:
    """
    Fields:
        file: below the root, with slashes.
        old: what is replaced; it stands there exactly once.
        new: what takes its place. The file still imports: a fault is in what code does, not in whether it is code.
        tests: files, or files and tests (`file::test`, `file::test[case]`), one of which is to fail.
    """

    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.file}: {_line(self.old)} -> {_line(self.new)}"

    def applied(self, root: Path) -> str:
        """The file's text with the fault; ValueError where it does not apply any more."""
        file = root / self.file
        if not file.is_file():
            raise ValueError(f"{self}: there is no such file")
        text = file.read_text(encoding="utf-8")
        count = text.count(self.old)
        if count != 1:
            raise ValueError(f"{self}: the old text stands there {count} times, wanted once")
        mutated = text.replace(self.old, self.new)
        try:
            ast.parse(mutated)
        except SyntaxError as error:
            raise ValueError(f"{self}: with it the file is no Python ({error})") from error
        absent = [test for test in self.tests if not _is_there(root, test)]
        if absent or not self.tests:
            raise ValueError(f"{self}: there is no test {', '.join(absent)}")
        return mutated


def _is_there(root: Path, test: str) -> bool:
    file, _, name = test.partition("::")
    place = root / file
    return place.is_file() and (not name or f"def {name.partition('[')[0]}(" in place.read_text(encoding="utf-8"))


def _line(text: str) -> str:
    return " ".join(text.split()) or "nothing"


def of(file: str, tests: str | Sequence[str], *pairs: tuple[str, str]) -> list[Fault]:
    """Faults (old text, new text) of one file that the same tests are to notice."""
    chosen = (tests,) if isinstance(tests, str) else tuple(tests)
    return [Fault(file, old, new, chosen) for old, new in pairs]


def stale(faults: Sequence[Fault], root: Path) -> list[str]:
    """What is wrong with the faults that do not apply to the tree at `root`, a line each."""
    found = []
    for fault in faults:
        try:
            fault.applied(root)
        except ValueError as error:
            found.append(str(error))
    return found
