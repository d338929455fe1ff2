"""From local files to their rows, which the library `datasets` reads; its errors become messages that name the file.

Files are given by patterns below a folder. A file or folder whose name equals the pattern comes first, whatever characters it
contains. Paths of images are relative to the file that they stand in. For tars `datasets` would infer the types of the fields
from the first rows of the first file; they are given to it instead, because a later file may hold other kinds of images.
"""

from __future__ import annotations

import codecs
import glob
import os
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset, DatasetBuilder, Features, Image, IterableDataset, Json, Value
from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError
from datasets.packaged_modules.webdataset.webdataset import WebDataset

from ldm.data.columns import IMAGES, Name, images, is_string, pick

Data = Dataset | IterableDataset

_BUILDERS = {".parquet": "parquet", ".arrow": "arrow", ".csv": "csv", ".tsv": "csv", ".tar": "webdataset"}
_BUILDERS |= {".tgz": "webdataset", ".json": "json", ".jsonl": "json", ".ndjson": "json"}
_PACKED = (".gz", ".bz2", ".xz", ".zst", ".lz4")
_SAMPLES = 64  # number of files in a tar that its fields are taken from


def matching(root: Path, patterns: Sequence[str]) -> list[Path]:
    """The files below a folder that match the patterns, those of each pattern sorted. A pattern that equals the name of a file
    matches that file alone. FileNotFoundError where no file matches."""
    found: list[Path] = []
    for pattern in map(os.path.expanduser, patterns):
        if (root / pattern).is_file():
            found.append(root / pattern)
            continue
        place, parts = root, Path(pattern).parts
        while len(parts) > 1 and (place / parts[0]).is_dir():
            place, parts = place / parts[0], parts[1:]
        names = glob.glob(os.path.join(*parts), root_dir=place, recursive=True)
        found += sorted(place / name for name in names if (place / name).is_file())
    if not found:
        raise FileNotFoundError(
            f"{root}: no file {' or '.join(patterns)} below it; give the folder that has it with data.root=DIR"
        )
    return [Path(os.path.abspath(file)) for file in dict.fromkeys(found)]


def builder_of(files: Sequence[Path]) -> str:
    """The builder of `datasets` that reads these files, by their ending; ValueError where they are of several kinds, or of an
    unknown one."""
    endings = {_ending(file) for file in files}
    builders = {_BUILDERS.get(ending) for ending in endings}
    builder = builders.pop()
    if builders or builder is None:
        raise ValueError(
            f"{files[0].parent}: files ending in {' and '.join(sorted(endings)) or 'nothing'} cannot be read as one set; "
            f"name files of one kind ({' '.join(_BUILDERS)}), or what reads them with builder="
        )
    return builder


def _ending(file: Path) -> str:
    return Path(file.stem if file.suffix.lower() in _PACKED else file.name).suffix.lower()


def read_files(
    files: Sequence[Path], builder: str | None, image: Name | None, words: Mapping[str, Name], streaming: bool
) -> Data:
    """All rows of local files, with the paths of images made absolute.

    Arguments:
        files: the files.
        builder: what reads them, as "csv"; None decides by their ending.
        image: the column of the image; for tars it decides which fields are read.
        words: the columns of caption, label and group, by these names; the same.
        streaming: whether to read rows in order instead of by number.

    Raises:
        ValueError: a file cannot be read; the message names it.
    """
    builder = builder or builder_of(files)
    for file in files:
        if file.stat().st_size == 0:
            raise ValueError(f"{file} is empty (0 bytes); write it again or leave it out")
        if builder in ("csv", "json"):
            check_text(file)
    options: dict[str, Any] = {}
    if builder == "csv":  # by default its reader takes texts like None, null or NA for empty cells
        mark = "\t" if _ending(files[0]) == ".tsv" else ","
        options = {"encoding": "utf-8-sig", "sep": mark, "keep_default_na": False, "na_values": [""]}
    if builder == "webdataset":
        with naming(files, builder):
            fields = _fields(files[0])
        with naming(files):
            options["features"] = tar_features(fields, image, words)
    with naming(files, builder):
        data = _read(files, builder, streaming, **options)
    with naming(files):
        columns = [column.name for column in images(image, data.features) if is_string(column.feature)]
    if not columns:
        return data
    parts = []
    for folder in dict.fromkeys(file.parent for file in files):
        own = [file for file in files if file.parent == folder]
        part = data if len(own) == len(files) else _read(own, builder, streaming, **options, features=data.features)
        located = partial(_located, str(folder), columns)
        parts.append(part.map(located, batched=True, features=data.features))
    return parts[0] if len(parts) == 1 else datasets.concatenate_datasets(parts)


def _read(files: Sequence[Path], builder: str, streaming: bool, **options: Any) -> Data:
    names = [glob.escape(str(file)) for file in files]
    return rows(datasets.load_dataset_builder(builder, data_files={"train": names}, **options), "train", streaming)


def rows(builder: DatasetBuilder, split: str, streaming: bool) -> Data:
    """A split that a builder reads, with the types of its columns known."""
    if not streaming:
        builder.download_and_prepare()
        return builder.as_dataset(split=split)
    data = builder.as_streaming_dataset(split=split)
    return data if data.features is not None else data._resolve_features()  # inferred from the first rows


def _located(folder: str, columns: list[str], batch: Mapping[str, list[str | None]]) -> dict[str, list[str | None]]:
    return {name: [path and os.path.join(folder, path) for path in batch[name]] for name in columns}


@contextmanager
def naming(files: Sequence[Path], builder: str | None = None) -> Iterator[None]:
    """Turn errors inside the block into ValueError with the name of the files and what was to read them."""
    where = f"{files[0]}" + (f" and {len(files) - 1} more" if len(files) > 1 else "")
    what = f"{where}: " + (f"cannot be read as {builder}: " if builder else "")
    try:
        yield
    except (DatasetNotFoundError, ConnectionError) as error:
        known = ", ".join(sorted(set(_BUILDERS.values())))
        raise ValueError(f"builder={builder}: no such builder; there are {known}") from error
    except DatasetGenerationError as error:
        raise ValueError(f"{what}{error.__cause__ or error}") from error
    except (ValueError, tarfile.TarError) as error:
        raise ValueError(f"{what}{error}") from error


def check_text(file: Path) -> None:
    """Raise ValueError where a text file is not in UTF-8. Packed files are not checked."""
    if file.suffix.lower() in _PACKED:
        return
    decoder = codecs.getincrementaldecoder("utf-8")()
    with file.open("rb") as opened:
        wide = opened.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        opened.seek(0)
        try:
            while block := opened.read(2**20):
                wide = wide or b"\0" in block
                decoder.decode(block)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            wrong = str(error.reason)
        else:
            wrong = "zero bytes" if wide else ""
    if wrong:
        looks = "UTF-16" if wide else "Latin-1 (or Windows-1252)"
        raise ValueError(
            f"{file}: no text in UTF-8 ({wrong}; it looks like {looks}); save it as UTF-8, for example with "
            f"`iconv -f {'utf-16' if wide else 'latin1'} -t utf-8`"
        )


# Tars


def _fields(file: Path) -> list[str]:
    """The fields of the first samples of a tar. A field is what stands behind the first dot of a file's name."""
    with tarfile.open(file) as opened:
        names = [Path(member.name).name for member in islice(opened, _SAMPLES) if member.isfile()]
    return list(
        dict.fromkeys(name.split(".", 1)[1] for name in names if "." in name.lstrip(".")[1:] and name[0] != ".")
    )


def tar_features(fields: Iterable[str], image: Name | None, words: Mapping[str, Name]) -> Features:
    """The types of the wanted fields of a tar's samples. For the image they are the fields of all image formats, since each
    sample may have another one."""
    known = Features({name: feature for name in fields if (feature := _field_type(name)) is not None})
    wanted = [pick(name, known, kind).name for kind, name in words.items()]
    pictures = [column.name for column in images(image, known)]
    if image is None:
        plain = IMAGES[2:]  # without "image" and "img", which are not endings
        pictures += [*plain, *map(str.upper, plain)]
    elif not isinstance(image, str):
        pictures += image
    return Features({name: Image(decode=False) for name in pictures} | {name: known[name] for name in wanted})


def _field_type(name: str) -> Any:
    """The type that `datasets` gives a field; None where it is neither a text nor a number nor an image."""
    ending = name.rsplit(".", 1)[-1].lower()
    if ending in IMAGES:
        return Image(decode=False)
    decoders = WebDataset.DECODERS
    if ending not in decoders:
        return Value("binary")
    if decoders[ending] is int:
        return Value("int64")
    if decoders[ending] is decoders["json"]:
        return Json(decode=False)
    return Value("string") if decoders[ending] is decoders["txt"] else None
