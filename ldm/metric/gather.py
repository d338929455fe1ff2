"""A set of images over several ranks: its rows brought together, and a name for it that order does not change."""

from __future__ import annotations

import hashlib

import torch
import torch.distributed as dist
from jaxtyping import Int, UInt8
from torch import Tensor


def gather_rows(rows: Tensor) -> Tensor:
    """The rows (n, ...) of all ranks, on the CPU; each rank may bring another number, none included."""
    if not (dist.is_available() and dist.is_initialized()):
        return rows.cpu()
    nccl = dist.get_backend() == "nccl"
    rows = rows.to(torch.device("cuda", torch.cuda.current_device()) if nccl else "cpu")
    count = torch.tensor([len(rows)], device=rows.device)
    counts = [torch.zeros_like(count) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, count)
    most = max(int(n) for n in counts)
    filled = torch.cat([rows, rows.new_zeros(most - len(rows), *rows.shape[1:])])
    parts = [torch.empty_like(filled) for _ in counts]
    dist.all_gather(parts, filled)
    return torch.cat([part[: int(n)] for part, n in zip(parts, counts, strict=True)]).cpu()


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
