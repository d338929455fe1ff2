"""Files that are complete or absent: they are written under a temporary name, flushed to the disk, and then renamed. Also,
reading text files in their usual encodings.

A rename within one directory is atomic on POSIX. Therefore the temporary name lies in the same directory, and never in
$TMPDIR, which may be on another file system: a rename to there would be a copy, which can be interrupted.
"""

from __future__ import annotations

import codecs
import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import xxhash


def folder(path: Path, word: str = "out") -> Path:
    """The path, where a folder is there or can be made; ValueError where it, or what it is to lie in, is a file."""
    there = next((each for each in (path, *path.parents) if each.exists()), path)
    if there.exists() and not there.is_dir():
        raise ValueError(f"{word}={path}: a folder is wanted, and {there} is a file; take another {word}=")
    return path


def sync(path: Path) -> None:
    """Flush the content of a file or a directory to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def named(path: Path) -> Iterator[None]:
    """Add the name of the file to an OSError inside the block. Python leaves it out where a write fails, as on a full disk."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        raise OSError(error.errno, os.strerror(error.errno or 0), str(path)) from error


# Byte order marks and their encodings. Those of UTF-32 come first, because they begin with those of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def decoded(data: bytes) -> str:
    """Decode a text in UTF-8 with or without a byte order mark, or in UTF-16 or UTF-32 with one; UnicodeError for others."""
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
    text = data.decode(encoding)
    if encoding == "utf-8" and "\0" in text:
        raise UnicodeError("it has zero bytes, as UTF-16 without a byte order mark has")
    return text


def read_text(path: Path) -> str:
    """The text of a file, decoded by `decoded`.

    Raises:
        ValueError: it has another encoding; the message names the file.
    """
    try:
        return decoded(Path(path).read_bytes())
    except UnicodeError as error:
        raise ValueError(
            f"{path}: no text in UTF-8, or in UTF-16 with a byte order mark ({error}); save it as UTF-8, for example "
            "with `iconv -f latin1 -t utf-8`"
        ) from error


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """The block writes the file whose path it is given; then that appears at `path`, flushed to the disk. Where the block or the
    machine fails, what was at `path` before is still there. An OSError names `path`."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with named(path):
            yield temporary
            sync(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def remove_leftovers(folder: Path) -> None:
    """Remove what processes that were killed while they wrote files into a folder have left there. None may be writing there."""
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a file in UTF-8, whole or not at all; an OSError names it."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any, indent: int | None = 1) -> None:
    """Write a value as JSON in UTF-8, completely or not at all; on one line with `indent=None`."""
    write_text(path, json.dumps(value, indent=indent, ensure_ascii=False) + "\n")


@contextlib.contextmanager
def whole_directory(path: Path) -> Iterator[Path]:
    """A temporary directory to fill, which is renamed to `path` at the end of the block, or removed if there is an error."""
    temporary = path.with_name(f"{path.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    for file in temporary.rglob("*"):
        if file.is_file():
            sync(file)
    sync(temporary)
    if path.exists():  # an older directory of that name, perhaps damaged
        old = path.with_name(f"{path.name}.old.tmp")
        shutil.rmtree(old, ignore_errors=True)
        os.replace(path, old)
        os.replace(temporary, path)
        shutil.rmtree(old)
    else:
        os.replace(temporary, path)
    sync(path.parent)


def in_units(count: int) -> str:
    """A number of bytes in a readable unit: 1,234,567 is 1.2 MB."""
    for unit, factor in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} bytes"


def checksum(path: Path) -> str:
    """The xxh3-128 of a file, at about 10 GB/s. It detects damage, but not deliberate changes."""
    digest = xxhash.xxh3_128()
    with open(path, "rb") as file:
        while block := file.read(1 << 24):
            digest.update(block)
    return digest.hexdigest()
