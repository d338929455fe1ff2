"""One training step (forward, backward, AdamW, running average) of our networks beside diffusers' of the same shape.

    python benchmarks/train_step.py [--rounds 9] [--threads 2] [--clock wall|cpu] [--compile] [--only unet|autoencoder]

All contestants live in one process and take turns, so that a noisy machine disturbs all alike: read the ratios, which
are medians over rounds of (time / time of diffusers' eager default in the same round). `--clock cpu --threads 1` counts
this process's own time: what the wall's is on a quiet machine, and steadier on a shared one. The two networks of a pair
have the same weights. FLOPs are counted by torch, activations are the distinct bytes that autograd keeps, parameters
left out. diffusers is an extra for tests and benchmarks: pip install -e ".[test]".
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ldm.diffusion.schedule import ScaledLinear
from ldm.interop.diffusers import autoencoder_from_diffusers, unet_from_diffusers
from ldm.types import Context

BATCH = 32
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclass
class Contestant:
    """A network and what one forward pass of it computes a loss from."""

    name: str
    network: nn.Module
    loss: Callable[[], Tensor]

    def step(self) -> Callable[[], None]:
        """A whole training step, with its own optimiser and average."""
        parameters = [p for p in self.network.parameters() if p.requires_grad]
        averages = [p.detach().clone() for p in parameters]
        optimizer = torch.optim.AdamW(parameters, lr=1e-6, fused=True)

        def run() -> None:
            self.loss().backward()
            optimizer.step()
            optimizer.zero_grad()
            with torch.no_grad():
                torch._foreach_lerp_(averages, parameters, 1e-3)

        return run


def unets(device: torch.device) -> dict[str, Callable[[torch.memory_format, bool], Contestant]]:
    """Latents of 4x16x16, 64 and 128 channels, one block a level, cross-attention of width 128 at both."""
    theirs = UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(64, 128),
        layers_per_block=1,
        cross_attention_dim=128,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
    )
    folder = Path(tempfile.mkdtemp())
    theirs.save_pretrained(folder)
    z, tokens = torch.randn(BATCH, 4, 16, 16, device=device), torch.randn(BATCH, 16, 128, device=device)
    steps, mask = torch.randint(1000, (BATCH,), device=device), torch.ones(BATCH, 16, dtype=torch.bool, device=device)
    log_snr = ScaledLinear().to(device).log_snr((steps + 1) / 1000)

    def peer(memory_format: torch.memory_format, compiled: bool) -> Contestant:
        network = UNet2DConditionModel.from_pretrained(folder).to(device, memory_format=memory_format).train()
        call, x = torch.compile(network) if compiled else network, z.contiguous(memory_format=memory_format)
        return Contestant(
            "diffusers UNet2DConditionModel", network, lambda: F.mse_loss(call(x, steps, tokens).sample, z)
        )

    def ours(memory_format: torch.memory_format, compiled: bool) -> Contestant:
        network = unet_from_diffusers(folder).to(device, memory_format=memory_format).train()
        call, x = torch.compile(network) if compiled else network, z.contiguous(memory_format=memory_format)
        return Contestant("ldm UNet", network, lambda: F.mse_loss(call(x, log_snr, Context(tokens, mask)), z))

    return {"diffusers": peer, "ldm": ours}


def autoencoders(device: torch.device) -> dict[str, Callable[[torch.memory_format, bool], Contestant]]:
    """Images of 3x32x32 to latents of 4x8x8, 32, 64 and 128 channels, one block a level."""
    theirs = AutoencoderKL(
        block_out_channels=(32, 64, 128),
        layers_per_block=1,
        latent_channels=4,
        sample_size=32,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
    )
    folder = Path(tempfile.mkdtemp())
    theirs.save_pretrained(folder)
    x, noise = torch.rand(BATCH, 3, 32, 32, device=device) * 2 - 1, torch.randn(BATCH, 4, 8, 8, device=device)

    def peer(memory_format: torch.memory_format, compiled: bool) -> Contestant:
        network = AutoencoderKL.from_pretrained(folder).to(device, memory_format=memory_format).train()
        image = x.contiguous(memory_format=memory_format)

        def pass_through(image: Tensor) -> Tensor:
            posterior = network.encode(image).latent_dist
            again = network.decode(posterior.mean + posterior.std * noise).sample
            return F.mse_loss(again, image) + 1e-6 * posterior.kl().mean()

        call = torch.compile(pass_through) if compiled else pass_through
        return Contestant("diffusers AutoencoderKL", network, lambda: call(image))

    def ours(memory_format: torch.memory_format, compiled: bool) -> Contestant:
        network = autoencoder_from_diffusers(folder).to(device, memory_format=memory_format).train()
        image = x.contiguous(memory_format=memory_format)

        def pass_through(image: Tensor) -> Tensor:
            made = network(image, noise)
            return F.mse_loss(made.image, image) + 1e-6 * made.terms["kl"]

        call = torch.compile(pass_through) if compiled else pass_through
        return Contestant("ldm Autoencoder", network, lambda: call(image))

    return {"diffusers": peer, "ldm": ours}


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


def race(
    steps: Sequence[Callable[[], None]], rounds: int, clock: Callable[[], float], synchronize: Callable[[], None]
) -> list[list[float]]:
    """Seconds of every step in every round; contestants take turns, in turned order in every second round."""
    times: list[list[float]] = [[] for _ in steps]
    for step in steps:
        step(), step()
    for round_ in range(rounds):
        order = range(len(steps)) if round_ % 2 == 0 else reversed(range(len(steps)))
        for i in order:
            synchronize()
            start = clock()
            steps[i]()
            synchronize()
            times[i].append(clock() - start)
    return times


def compare(title: str, kinds: dict, arguments: argparse.Namespace) -> None:
    device, rounds = torch.device(arguments.device), arguments.rounds
    formats = {"": torch.contiguous_format, ", channels_last": torch.channels_last}
    modes = [
        (f"{mode}{layout}", memory_format, mode == "compile")
        for mode in (["eager", "compile"] if arguments.compile else ["eager"])
        for layout, memory_format in formats.items()
    ]
    contestants, rows = [], []
    for kind in kinds.values():
        for mode, memory_format, with_compile in modes:
            contestant = kind(memory_format, with_compile)
            contestant.name += f", {mode}"
            contestants.append(contestant)
            eager = kind(memory_format, False)
            with FlopCounterMode(display=False) as counter:
                eager.loss().backward()
            rows.append(
                (counter.get_total_flops(), sum(p.numel() for p in eager.network.parameters()), saved_bytes(eager))
            )
    synchronize = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    times = race([contestant.step() for contestant in contestants], rounds, CLOCKS[arguments.clock], synchronize)
    where = f"{device.type}, {torch.get_num_threads()} threads"
    print(f"\n{title}, batch {BATCH}, {where}, {rounds} rounds, {arguments.clock} time")
    print("| train step | time / diffusers eager | seconds | GFLOP | GFLOP/s | parameters | activations kept |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for contestant, seconds, (flops, parameters, kept) in zip(contestants, times, rows, strict=True):
        ratio = statistics.median(a / b for a, b in zip(seconds, times[0], strict=True))
        median = statistics.median(seconds)
        print(
            f"| {contestant.name} | {ratio:.3f} | {median:.4f} | {flops / 1e9:.1f} | {flops / median / 1e9:.0f} "
            f"| {parameters / 1e6:.2f} M | {kept / 2**20:.0f} MiB |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--compile", action="store_true", help="also compiled; takes minutes to compile on a CPU")
    parser.add_argument("--only", choices=("unet", "autoencoder"))
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    device = torch.device(arguments.device)
    if arguments.only != "autoencoder":
        compare("U-Net on latents of 4x16x16", unets(device), arguments)
    if arguments.only != "unet":
        compare("Autoencoder on images of 3x32x32", autoencoders(device), arguments)


if __name__ == "__main__":
    main()
