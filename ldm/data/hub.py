"""Any data set that the library `datasets` can read: a name on the hub, local files of parquet, csv or json, a folder of
images, or tars in the format of webdataset.

With `streaming` nothing is downloaded beforehand, and rows are read in order. In Python, an object of the library becomes a
source by `ldm.data.table.Table(data, caption=...)`.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import datasets
from datasets import DatasetBuilder, Features
from datasets.data_files import DataFilesDict, get_data_patterns
from datasets.exceptions import DatasetNotFoundError
from datasets.load import infer_module_for_data_files
from datasets.packaged_modules.csv.csv import Csv
from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder
from datasets.packaged_modules.json.json import Json
from datasets.packaged_modules.webdataset.webdataset import WebDataset
from pydantic import PositiveInt

from ldm.data import slices
from ldm.data.columns import Name
from ldm.data.reading import Data, check_text, matching, naming, read_files, rows, tar_features
from ldm.data.table import Table

_OURS = {Csv: "csv", Json: "json", WebDataset: "webdataset"}  # builders in place of which `read_files` reads the files
_END = 2**16  # bytes at the beginning and the end of a file that identify it
_KNOWN = 1024  # number of files of a stream of which these are read


class Hub(Table):
    """A split of any data set that `datasets` can read.

    Arguments:
        path: a name on the hub.
        split: the split, or a part of it: "train", "train[:90%]", "train[1000:2000]".
        name: the configuration of the data set, where it has several.
        root: a folder that is read instead of `path`.
        files: patterns of files below the root, as "train*.parquet"; without root and path, below the working directory.
            Together they are the split, whatever its name. With a path the data set's own files are read.
        builder: what reads the files: "parquet", "csv", "json", "webdataset", ...; by default it follows from their endings.
        image, caption, label, group, buffer: as for `Table`.
        streaming: whether to read rows in order instead of by number.

    Raises:
        FileNotFoundError, ConnectionError: the data set is not there, and cannot be downloaded.
        ValueError: there is no such split or column.
    """

    def __init__(
        self,
        path: str | None = None,
        split: str = "train",
        name: str | None = None,
        root: Path | None = None,
        files: str | tuple[str, ...] | None = None,
        builder: str | None = None,
        image: Name | None = None,
        caption: Name | None = None,
        label: Name | None = None,
        group: Name | None = None,
        streaming: bool = False,
        buffer: PositiveInt = 1000,
    ):
        folder = None if root is None else Path(root).expanduser()
        patterns = None if files is None else (files,) if isinstance(files, str) else tuple(files)
        if folder is not None and not folder.is_dir():
            raise FileNotFoundError(
                f"no folder {root}; give the one that holds {files or 'the data'} with data.root=DIR"
            )
        if builder is not None and patterns is None:
            raise ValueError(f"builder={builder} says what reads files, and none are named: name them with files=")
        slices.names_of(split)
        if streaming and slices.is_part(split):
            raise ValueError(
                f"{split} cannot be cut from a stream, which has no length: stream a whole split, or some of its files, or "
                "take streaming=false"
            )
        words = {"caption": caption, "label": label, "group": group}
        asked = image, {kind: column for kind, column in words.items() if column is not None}
        if patterns is not None and (folder is not None or path is None):
            called = f"{folder or '.'}/{' '.join(patterns)}" + (f" {split}" if slices.is_part(split) else "")
            if name is not None:
                raise ValueError(f"{called}: name={name} is a configuration of a named data set; files have none")
            files = matching(folder or Path(), patterns)
            found = slices.part_of(read_files(files, builder, *asked, streaming), split), files
        elif folder is not None:
            called, found = f"{folder}/{split}", _in_folder(folder, name, split, *asked, streaming)
        elif path is not None:
            called, found = f"{path}/{split}", _on_the_hub(path, name, split, *asked, streaming)
        else:
            raise ValueError(
                "a data set needs a name on the hub (path=) or local data (data.root=DIR, files=); neither is given"
            )
        data, read_from = found
        self._read_from = read_from if streaming else ()
        super().__init__(data, image, caption, label, group, buffer, called)

    def _parts(self) -> Iterator[str | bytes]:
        """For a stream, the files that it is read from, too: name, size, beginning and end of local files, and addresses of
        others."""
        files = self._read_from
        step = max(1, len(files) // _KNOWN)
        for number, file in enumerate(map(Path, files)):
            if not file.is_file():
                yield str(files[number])
                continue
            yield from (file.name, str(file.stat().st_size))
            if number % step == 0:
                yield from _ends(file)
        yield from super()._parts()


def _ends(file: Path) -> Iterator[bytes]:
    with file.open("rb") as opened:
        yield opened.read(_END)
        opened.seek(-min(_END, file.stat().st_size), os.SEEK_END)
        yield opened.read()


def _in_folder(
    folder: Path, name: str | None, split: str, image: Name | None, words: Mapping[str, Name], streaming: bool
) -> tuple[Data, list[Path]]:
    """A split that `datasets` finds in a folder, and the files of the split."""
    builder = _builder_in(folder, name)
    files = [Path(file) for file in _files_of(builder, split)]
    for kind, ours in _OURS.items():
        if isinstance(builder, kind):
            return slices.part_of(read_files(files, ours, image, words, streaming), split), files
    for file in files:
        if file.name in ("metadata.csv", "metadata.jsonl"):
            check_text(file)
    with naming(files, "a folder of images" if isinstance(builder, ImageFolder) else "a folder"):
        return rows(builder, split, streaming), files


def _builder_in(folder: Path, name: str | None) -> DatasetBuilder:
    plain = str(folder.resolve())  # absolute, because a relative name could be that of a data set or of a builder
    pattern = glob.escape(plain)
    if pattern == plain:
        return datasets.load_dataset_builder(plain, name)
    found = DataFilesDict.from_patterns(get_data_patterns(pattern), base_path=pattern)
    module, options = infer_module_for_data_files(found)
    files = {str(own): [glob.escape(file) for file in named] for own, named in found.items()}
    return datasets.load_dataset_builder(module, data_files=files, **options)


def _on_the_hub(
    path: str, name: str | None, split: str, image: Name | None, words: Mapping[str, Name], streaming: bool
) -> tuple[Data, list[str]]:
    """A split of a data set on the hub, or of the cache where there is no network, and the addresses of its files."""
    builder = _builder_named(path, name)
    files = _files_of(builder, split)
    if isinstance(builder, WebDataset):
        fields = rows(builder, slices.names_of(split)[0], streaming=True).features
        builder = _builder_named(path, name, tar_features(fields, image, words))
    return rows(builder, split, streaming), files


def _builder_named(path: str, name: str | None, features: Features | None = None) -> DatasetBuilder:
    try:
        return datasets.load_dataset_builder(path, name, features=features)
    except (ConnectionError, DatasetNotFoundError) as error:
        raise _unreachable(path, error) from error
    except ValueError as error:
        if "Couldn't find cache" in str(error) or "offline" in str(error).lower():
            raise _unreachable(path, error) from error
        raise


def _files_of(builder: DatasetBuilder, split: str) -> list[str]:
    """The files of the named splits; empty where the data set does not list files. ValueError for a split that is not
    there."""
    files = {str(own): list(map(str, named)) for own, named in (builder.config.data_files or {}).items()}
    if not files:
        return []
    for name in slices.names_of(split):
        if name not in files:
            raise slices.unknown(name, list(files))
    return [file for name in slices.names_of(split) for file in files[name]]


def _unreachable(path: str, error: Exception) -> ConnectionError:
    cache = datasets.config.HF_DATASETS_CACHE
    set_ = [f"{key}={os.environ[key]}" for key in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE") if key in os.environ]
    forbidden = f" ({', '.join(set_)} forbids asking)" if set_ else ""
    return ConnectionError(
        f"the data set {path!r} is neither in the cache ({cache}; moved with HF_HOME or HF_DATASETS_CACHE) nor to be "
        f"had from the hub{forbidden}: {str(error).splitlines()[0]}. Check the name and the network, or give local "
        f"files with data.root=DIR"
    )
