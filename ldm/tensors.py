"""Tensors in files: read without unpickling, and written as a stream.

The files are safetensors' (https://github.com/huggingface/safetensors, "Format"): a length (8 bytes, little endian), a JSON
header with type, shape and place of every tensor, and their bytes. The library reads them. Its own writer holds no
second copy of what is on the host (measured with 0.8; older ones did). Ours is here for what a checkpoint needs beside that:

    room          for the whole file is reserved first, so that a full disk is found out before anything is written
    page cache    each 128 MiB is flushed and dropped, so that a checkpoint does not push the training data out of memory and
                  its end does not wait for the disk to take all of it at once (1 GiB: 1.1 to 1.6 s against 3.2 to 4.8 s)
    checksum      taken on the way; otherwise the file would be read once more
    host memory   one tensor of a device at a time; the library's copies all of them to the host before it writes
    any tensor    transposed or sharing its memory with another; the library refuses both
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch
import xxhash
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}

_FLUSH = 1 << 27  # bytes


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> tuple[int, str]:
    """Write and flush a safetensors file. Returns its size in bytes and its checksum (xxh3-128).

    No process may be reading a file of that name, because readers map the file into memory.

    Raises:
        OSError: there is no space for it, or it cannot be written; the message has the file's name and size.
        TypeError: the format does not have the type of a tensor.
    """
    ordered = _ordered(tensors)
    header, size = _header(ordered), size_of(tensors)
    digest = xxhash.xxh3_128()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        _reserve(descriptor, size)
        _write(descriptor, memoryview(header), digest)
        waiting = 0
        for _, tensor in ordered:
            if tensor.numel():
                _write(descriptor, _bytes(tensor), digest)
                waiting += tensor.nbytes
            if waiting > _FLUSH:
                _flush(descriptor)
                waiting = 0
        _flush(descriptor)
    except OSError as error:
        raise OSError(
            error.errno, f"{os.strerror(error.errno)}: {size / 2**20:,.1f} MiB do not go into it", str(path)
        ) from error
    finally:
        os.close(descriptor)
    return size, digest.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    return memoryview(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())


def size_of(tensors: Mapping[str, Tensor]) -> int:
    """The size in bytes of the file that `write_tensors` would write. Only shapes and types are used; tensors may be on the
    device `meta`."""
    return len(_header(_ordered(tensors))) + sum(tensor.nbytes for tensor in tensors.values())


def _ordered(tensors: Mapping[str, Tensor]) -> list[tuple[str, Tensor]]:
    """The tensors ordered by the size of their elements, the largest first, so that each begins at a multiple of it."""
    return sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))


def _header(tensors: list[tuple[str, Tensor]]) -> bytes:
    entries, at = {}, 0
    for name, tensor in tensors:
        if tensor.dtype not in _NAMES:
            raise TypeError(f"{name} is of type {tensor.dtype}; a safetensors file holds {', '.join(map(str, _NAMES))}")
        entries[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [at, at + tensor.nbytes],
        }
        at += tensor.nbytes
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _reserve(descriptor: int, size: int) -> None:
    if sys.platform != "linux":
        return
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):  # the file system cannot reserve space
            raise


def _flush(descriptor: int) -> None:
    """Write what is cached to the disk and drop it from the page cache, where it would displace the training data."""
    os.fsync(descriptor)
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def _write(descriptor: int, data: memoryview, digest: xxhash.xxh3_128) -> None:
    digest.update(data)
    while data:
        data = data[os.write(descriptor, data) :]


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors in a safetensors file, or in a `.pth` file, of which nothing but tensors is unpickled.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is another kind of file, damaged, or a pickle with something else than tensors.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}; wanted a .safetensors or .pth file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, UnpicklingError, RuntimeError, EOFError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} holds no tensors that can be read, or is damaged: {reason}") from error


class _Nothing:
    """What stands in the place of every object of a foreign checkpoint that is no tensor; it does nothing,
    whatever it is given."""

    def __new__(cls, *_: object, **__: object) -> _Nothing:
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object):
        pass

    def __setstate__(self, state: object) -> None:
        pass


def read_foreign(path: Path) -> dict[str, Tensor]:
    """The tensors in a safetensors file, or in a checkpoint that another program has saved by `torch.save`, which
    may hold anything
    beside them: a training's settings, its callbacks.

    Torch's reader of weights builds tensors, numbers, texts and containers alone. Every class that such a file
    names beside them is
    nothing here (`_Nothing`): it is neither imported nor called. What names a module of the system is refused whole.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is another kind of file, damaged, or holds no tensors.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}; wanted a .safetensors or .ckpt file")
    if path.suffix == ".safetensors":
        return read_tensors(path)
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        with torch.serialization.safe_globals([(_Nothing, name) for name in names]):
            found = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError, ValueError, TypeError, AttributeError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"{path} holds no tensors that can be read without running what it says, or is damaged: {reason}"
        ) from error
    state = found.get("state_dict", found) if isinstance(found, dict) else {}
    tensors = {name: value for name, value in state.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if not tensors:
        raise ValueError(f"{path} holds no tensors by name; wanted a checkpoint with a state_dict")
    return tensors


def hash_of(tensors: Mapping[str, Tensor], *settings: object) -> str:
    """32 hexadecimal digits over names, shapes, types and bytes of tensors, whatever their order, and over `settings`: all else
    that what is computed with them depends on, so that an equal hash means equal results."""
    digest = hashlib.blake2b(repr(settings).encode() if settings else b"", digest_size=16)
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()
