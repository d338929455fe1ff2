"""Sets of images over several ranks: gathering their rows, and hashes that do not depend on the order."""

from __future__ import annotations

import hashlib

import torch
import torch.distributed as dist
from jaxtyping import Int, UInt8
from torch import Tensor


def gather_rows(rows: Tensor) -> Tensor:
    """The rows (n, ...) of all ranks together, on the CPU; n may differ between ranks, and may be 0."""
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
    """A hash of the size and the pixels of each 8-bit image, (b,): 64 bits of BLAKE2."""
    numbers = []
    for image in images.cpu().contiguous():
        digest = hashlib.blake2b(str(tuple(image.shape)).encode(), digest_size=8)
        digest.update(image.numpy())
        numbers.append(int.from_bytes(digest.digest(), "little", signed=True))
    return torch.tensor(numbers, dtype=torch.int64)


def set_hash(hashes: Int[Tensor, " n"]) -> str:
    """A hash of a set of images, given those of the images, in any order; 16 hexadecimal digits. Repetitions count."""
    return hashlib.blake2b(hashes.sort().values.numpy().tobytes(), digest_size=8).hexdigest()
