"""What a rank does in `test_distance`; alone in a file, so that a process that runs it imports little."""

import torch

from ldm.metric.feature_set import FeatureCollector
from ldm.metric.features import RandomConv


def images():
    return torch.rand(23, 3, 16, 16, generator=torch.Generator().manual_seed(5)) * 2 - 1


def gather(rank, folder):
    """One of two ranks, with 17 and 6 of the images."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    collector = FeatureCollector(RandomConv())
    collector.add(images()[:17] if rank == 0 else images()[17:])
    collector.gather().save(f"{folder}/{rank}.safetensors")
    torch.distributed.destroy_process_group()
