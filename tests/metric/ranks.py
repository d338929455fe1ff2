"""What a rank does in `test_gather`; alone in a file, so that a process that runs it imports little."""

import torch
from safetensors.torch import save_file

from ldm.metric.gather import gather_rows

COUNTS = ((17, 6), (1, 0), (0, 9), (0, 0))  # rows that the two ranks bring


def rows(start, stop):
    """Rows of each kind that metrics gather: features, hashes, numbers."""
    index = torch.arange(start, stop)
    return {"features": index[:, None] * torch.tensor([1.0, 0.5]), "hashes": index * 2**40, "numbers": index / 3.0}


def gather(rank, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    for counts in COUNTS:
        start = sum(counts[:rank])
        found = {name: gather_rows(part) for name, part in rows(start, start + counts[rank]).items()}
        save_file(found, f"{folder}/{rank}-{counts}.safetensors")
    torch.distributed.destroy_process_group()
