"""Tensors in files: read without unpickling, and written as a stream, of which one tensor at a time is on the host.

The library's own writer holds every tensor once more as bytes; a training state is then in memory twice and the file is read
again for its checksum. The format of safetensors is a length (8 bytes, little endian), a JSON header with type, shape and
place of every tensor, and their bytes (https://github.com/huggingface/safetensors, "Format"). The space for the whole file is
reserved first, so that a full disk is noticed before anything is written. The checksum is computed while writing.
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
                flat = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
                _write(descriptor, memoryview(flat.numpy()), digest)
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


def hash_of(tensors: Mapping[str, Tensor]) -> str:
    """A hash of the names and bytes of tensors, in their order; 32 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in tensors.items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
