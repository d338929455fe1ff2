"""One training step (forward, backward, AdamW, running average) of our networks beside diffusers' of the same shape.

    python benchmarks/train_step.py [--rounds 9] [--threads 2] [--clock wall|cpu] [--compile] [--only unet|autoencoder]
    python benchmarks/train_step.py --device cuda --size ldm_coco --precision bf16-mixed --layouts channels_last --only unet

All contestants live in one process and take turns, so that a noisy machine disturbs all alike: read the ratios, which
are medians over rounds of (time / time of diffusers' first mode in the same round). `--clock cpu --threads 1` counts
this process's own time: what the wall's is on a quiet machine, and steadier on a shared one. The two networks of a pair
have the same weights (benchmarks/networks.py). FLOPs are counted by torch, activations are the distinct bytes that autograd
keeps, parameters left out; `peak` is a GPU's memory during a step, optimiser and average among it. diffusers is an extra for
tests and benchmarks: pip install -e ".[test]".
"""

from __future__ import annotations

import argparse
import functools
import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from networks import PRECISIONS, SIZES, Autoencoders, Unets, autocast, scaler, synchronize
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from turns import CLOCKS, race

from ldm.diffusion.schedule import ScaledLinear
from ldm.run.machine import device_name
from ldm.types import Context

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


@dataclass
class Contestant:
    """A network and what one forward pass of it computes a loss from."""

    name: str
    network: nn.Module
    loss: Callable[[], Tensor]
    scaler: torch.amp.GradScaler

    def step(self) -> Callable[[], None]:
        """A whole training step, with its own optimiser and average."""
        parameters = [p for p in self.network.parameters() if p.requires_grad]
        averages = [p.detach().clone() for p in parameters]
        optimizer = torch.optim.AdamW(parameters, lr=1e-6, fused=True)

        def run() -> None:
            self.scaler.scale(self.loss()).backward()
            self.scaler.step(optimizer)
            self.scaler.update()
            optimizer.zero_grad()
            with torch.no_grad():
                torch._foreach_lerp_(averages, parameters, 1e-3)

        return run


def unets(arguments: argparse.Namespace) -> dict[str, Callable[[torch.memory_format, bool], Contestant]]:
    size, device = SIZES[arguments.size], torch.device(arguments.device)
    pair, cast = Unets(size), lambda: autocast(device, arguments.precision)
    z = torch.randn(size.batch, 4, size.side, size.side, device=device)
    tokens = torch.randn(size.batch, size.tokens, size.width, device=device)
    mask = torch.ones(size.batch, size.tokens, dtype=torch.bool, device=device)
    steps = torch.randint(1000, (size.batch,), device=device)
    log_snr = ScaledLinear().to(device).log_snr((steps + 1) / 1000)

    def peer(memory_format: torch.memory_format, compiled: bool) -> Contestant:
        network = pair.theirs().to(device, memory_format=memory_format).train()
        call, x = torch.compile(network) if compiled else network, z.contiguous(memory_format=memory_format)

        def loss() -> Tensor:
            with cast():
                return F.mse_loss(call(x, steps, tokens).sample, z)

        return Contestant("diffusers UNet2DConditionModel", network, loss, scaler(device, arguments.precision))

    def ours(memory_format: torch.memory_format, compiled: bool) -> Contestant:
        network = pair.ours().to(device, memory_format=memory_format).train()
        call, x = torch.compile(network) if compiled else network, z.contiguous(memory_format=memory_format)

        def loss() -> Tensor:
            with cast():
                return F.mse_loss(call(x, log_snr, Context(tokens, mask)), z)

        return Contestant("ldm UNet", network, loss, scaler(device, arguments.precision))

    return {"diffusers": peer, "ldm": ours}


def autoencoders(arguments: argparse.Namespace) -> dict[str, Callable[[torch.memory_format, bool], Contestant]]:
    size, device = SIZES[arguments.size], torch.device(arguments.device)
    pair, cast = Autoencoders(size), lambda: autocast(device, arguments.precision)
    side = size.image // 2 ** (len(size.features) - 1)
    x = torch.rand(size.batch, 3, size.image, size.image, device=device) * 2 - 1
    noise = torch.randn(size.batch, 4, side, side, device=device)

    def peer(memory_format: torch.memory_format, compiled: bool) -> Contestant:
        network = pair.theirs().to(device, memory_format=memory_format).train()
        image = x.contiguous(memory_format=memory_format)

        def pass_through(image: Tensor) -> Tensor:
            with cast():
                posterior = network.encode(image).latent_dist
                again = network.decode(posterior.mean + posterior.std * noise).sample
                return F.mse_loss(again, image) + 1e-6 * posterior.kl().mean()

        call = torch.compile(pass_through) if compiled else pass_through
        return Contestant("diffusers AutoencoderKL", network, lambda: call(image), scaler(device, arguments.precision))

    def ours(memory_format: torch.memory_format, compiled: bool) -> Contestant:
        network = pair.ours().to(device, memory_format=memory_format).train()
        image = x.contiguous(memory_format=memory_format)

        def pass_through(image: Tensor) -> Tensor:
            with cast():
                made = network(image, noise)
                return F.mse_loss(made.image, image) + 1e-6 * made.terms["kl"]

        call = torch.compile(pass_through) if compiled else pass_through
        return Contestant("ldm Autoencoder", network, lambda: call(image), scaler(device, arguments.precision))

    return {"diffusers": peer, "ldm": ours}


def memory(contestant: Contestant, device: torch.device) -> int:
    """Bytes on a GPU at the peak of a training step, over what is there without it; 0 on a CPU, which keeps no account."""
    if device.type != "cuda":
        return 0
    before = torch.cuda.memory_allocated(device) - sum(p.nbytes for p in contestant.network.parameters())
    torch.cuda.reset_peak_memory_stats(device)
    contestant.step()()
    return torch.cuda.max_memory_allocated(device) - before


def saved_bytes(contestant: Contestant) -> int:
    """Bytes that autograd keeps between forward and backward: distinct storages, parameters left out."""
    own = {p.untyped_storage().data_ptr() for p in contestant.network.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(x: Tensor) -> Tensor:
        if x.untyped_storage().data_ptr() not in own:
            kept[x.untyped_storage().data_ptr()] = x  # the reference keeps the address from being used again
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        contestant.loss()
    return sum(x.untyped_storage().nbytes() for x in kept.values())


def compare(title: str, kinds: dict, arguments: argparse.Namespace) -> None:
    device, rounds, batch = torch.device(arguments.device), arguments.rounds, SIZES[arguments.size].batch
    layouts = {name: LAYOUTS[name] for name in arguments.layouts}
    modes = [
        (f"{mode}, {layout}", memory_format, mode == "compile")
        for mode in (["eager", "compile"] if arguments.compile else ["eager"])
        for layout, memory_format in layouts.items()
    ]
    contestants, rows = [], []
    for kind in kinds.values():
        for mode, memory_format, with_compile in modes:
            eager = kind(memory_format, False)
            with FlopCounterMode(display=False) as counter:
                eager.loss().backward()
            eager.network.zero_grad()
            parameters = sum(p.numel() for p in eager.network.parameters())
            rows.append((counter.get_total_flops(), parameters, saved_bytes(eager), memory(eager, device)))
            contestant = kind(memory_format, True) if with_compile else eager
            contestant.network.zero_grad()
            contestant.name += f", {mode}"
            contestants.append(contestant)
    wait = functools.partial(synchronize, device)
    times = race([contestant.step() for contestant in contestants], rounds, CLOCKS[arguments.clock], synchronize=wait)
    where = f"{device_name(device)}, {arguments.precision}"
    print(f"\n{title}, batch {batch}, {where}, {rounds} rounds, {arguments.clock} time\n")
    print(
        "| train step | time / diffusers eager | seconds | images/s | TFLOP/s | parameters | activations kept | peak |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for contestant, seconds, (flops, parameters, kept, peak) in zip(contestants, times, rows, strict=True):
        ratio = statistics.median(a / b for a, b in zip(seconds, times[0], strict=True))
        median = statistics.median(seconds)
        print(
            f"| {contestant.name} | {ratio:.3f} | {median:.4f} | {batch / median:.1f} | {flops / median / 1e12:.2f} "
            f"| {parameters / 1e6:.2f} M | {kept / 2**20:.0f} MiB | {f'{peak / 2**30:.2f} GiB' if peak else ''} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--compile", action="store_true", help="also compiled; takes minutes to compile on a CPU")
    parser.add_argument("--only", choices=("unet", "autoencoder"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--precision", choices=PRECISIONS, default="32-true")
    parser.add_argument("--layouts", choices=LAYOUTS, nargs="+", default=list(LAYOUTS))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    size = SIZES[arguments.size]
    if arguments.only != "autoencoder":
        compare(f"U-Net on latents of 4x{size.side}x{size.side}", unets(arguments), arguments)
    if arguments.only != "unet":
        compare(f"Autoencoder on images of 3x{size.image}x{size.image}", autoencoders(arguments), arguments)


if __name__ == "__main__":
    main()
