"""Images a second through the first stage, both ways, beside diffusers' of the same weights.

    python benchmarks/encode.py [--rounds 9] [--device cuda] [--size ldm_coco] [--precision bf16-mixed] [--compile]

Of an image the mean of its posterior, of a latent its image; nothing is kept for a backward pass. Contestants take turns as in
benchmarks/train_step.py, and ratios are medians over rounds.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections.abc import Callable

import torch
from networks import PRECISIONS, SIZES, Autoencoders, autocast, synchronize
from torch import Tensor
from turns import race

from ldm.run.machine import device_name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--precision", choices=PRECISIONS, default="32-true")
    parser.add_argument("--compile", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    size, device = SIZES[arguments.size], torch.device(arguments.device)
    pair = Autoencoders(size)
    theirs, ours = (each.to(device, memory_format=torch.channels_last).eval() for each in (pair.theirs(), pair.ours()))
    side = size.image // 2 ** (len(size.features) - 1)
    x = torch.rand(size.batch, 3, size.image, size.image, device=device) * 2 - 1
    z = torch.randn(size.batch, 4, side, side, device=device)
    x, z = (each.contiguous(memory_format=torch.channels_last) for each in (x, z))
    ways: dict[str, tuple[Tensor, list[Callable[[Tensor], Tensor]]]] = {
        "encode": (x, [lambda x: theirs.encode(x).latent_dist.mean, lambda x: ours.encode(x).mean]),
        "decode": (z, [lambda z: theirs.decode(z).sample, ours.decode]),
    }
    print(
        f"\n{device_name(device)}, {arguments.precision}, batch {size.batch}, images of 3x{size.image}x{size.image}\n"
    )
    print("| | time / diffusers | seconds | images/s |\n| --- | --- | --- | --- |")
    for way, (given, both) in ways.items():
        calls = [torch.compile(call) if arguments.compile else call for call in both]
        with torch.no_grad(), autocast(device, arguments.precision):
            steps = [functools.partial(call, given) for call in calls]
            times = race(steps, arguments.rounds, time.perf_counter, synchronize=functools.partial(synchronize, device))
        for name, seconds in zip(("diffusers", "ldm"), times, strict=True):
            ratio = statistics.median(a / b for a, b in zip(seconds, times[0], strict=True))
            median = statistics.median(seconds)
            print(f"| {way}, {name} | {ratio:.3f} | {median:.4f} | {size.batch / median:.1f} |", flush=True)


if __name__ == "__main__":
    main()
