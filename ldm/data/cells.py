"""Images in the cells of a table, as the library `datasets` stores them: bytes, the path of a file, or a record of both."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc


def stored(cell: Any) -> Any:
    """The bytes or the path in a cell, which `ldm.data.image` can decode; None where the cell is empty."""
    if isinstance(cell, Mapping):
        return cell["bytes"] if cell.get("bytes") is not None else cell.get("path")
    return cell


def without_bytes(cell: pa.Scalar) -> Any:
    """A cell without its image, which need not be copied then: the bytes, where there are some, are empty."""
    if not cell.is_valid:
        return None
    if isinstance(cell, pa.StructScalar):
        return {key: b"" if value.is_valid and key == "bytes" else value.as_py() for key, value in cell.items()}
    return b"" if pa.types.is_binary(cell.type) or pa.types.is_large_binary(cell.type) else cell.as_py()


def _parts_of(images: pa.ChunkedArray) -> tuple[pa.ChunkedArray | None, pa.ChunkedArray | None]:
    """The bytes and the paths in a column of images; None for the one that it does not have."""
    if pa.types.is_struct(images.type):
        there = {field.name for field in images.type}
        return tuple(pc.struct_field(images, name) if name in there else None for name in ("bytes", "path"))
    string = pa.types.is_string(images.type) or pa.types.is_large_string(images.type)
    return (None, images) if string else (images, None)


def sizes(images: pa.ChunkedArray) -> list[int | None]:
    """The size of each image in bytes, in the cell or in its file; None where there is no image."""
    bytes_, paths = _parts_of(images)
    lengths = [None] * len(images) if bytes_ is None else pc.binary_length(bytes_).to_pylist()
    if paths is None or None not in lengths:
        return lengths
    files = (path and Path(path) for path in paths.to_pylist())
    return [
        file.stat().st_size if size is None and file and file.is_file() else size
        for size, file in zip(lengths, files, strict=True)
    ]


def names(images: pa.ChunkedArray) -> list[str | None]:
    """The file name of each image, where images are in files; empty where they are not."""
    bytes_, paths = _parts_of(images)
    if paths is None or (bytes_ is not None and bytes_.null_count == 0):
        return []
    return [path and Path(path).name for path in paths.to_pylist()]


def content(image: Any) -> bytes:
    """The bytes of an image that is given as bytes or as a path; b"" where there is none."""
    if isinstance(image, str):
        return Path(image).read_bytes() if Path(image).is_file() else b""
    return image or b""
