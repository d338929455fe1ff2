"""A set of images over several ranks: its rows brought together, and a name for it that order does not change."""

from __future__ import annotations

import hashlib

import torch
from jaxtyping import Int, UInt8
from torch import Tensor
from torchmetrics.utilities.distributed import gather_all_tensors


def gather_rows(rows: Tensor) -> Tensor:
    """The rows (n, ...) of all ranks, on the CPU; each rank may bring another number, none included."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return rows.cpu()
    nccl = torch.distributed.get_backend() == "nccl"
    device = torch.device("cuda", torch.cuda.current_device()) if nccl else torch.device("cpu")
    return torch.cat(gather_all_tensors(rows.contiguous().to(device))).cpu()


def image_hashes(images: UInt8[Tensor, "b 3 h w"]) -> Int[Tensor, " b"]:
    """64 bits of BLAKE2 over each image's size and pixels."""
    numbers = []
    for image in images.cpu().contiguous():
        digest = hashlib.blake2b(str(tuple(image.shape)).encode(), digest_size=8)
        digest.update(image.numpy())
        numbers.append(int.from_bytes(digest.digest(), "little", signed=True))
    return torch.tensor(numbers, dtype=torch.int64)


def set_hash(hashes: Int[Tensor, " n"]) -> str:
    """16 hexadecimal digits that name a set of images, repetitions counted, in whatever order."""
    return hashlib.blake2b(hashes.sort().values.numpy().tobytes(), digest_size=8).hexdigest()
