"""Sampling position by position with what networks remember, beside computing everything before a position again.

    python benchmarks/autoregressive.py [--side 8] [--batch 8] [--rounds 3] [--threads 1] [--clock wall|cpu]

Of each network of conf/prior at its size there, and of each kind of latent: the time of a sample of side x side positions with
the
cache, and as a multiple of it that of the same sample without: `whole`, from a pass over the whole map for each position, and
    `rows`, from one over the rows that are there. All three give the same sample, which is checked before anything is timed;
    ratios are medians over rounds in turn. Memory of a sample is that of the cache, which is there from the beginning.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
import yaml
from torch import Tensor
from turns import CLOCKS

from ldm.build import build
from ldm.prior.autoregressive import Autoregressive
from ldm.prior.base import Latents
from ldm.prior.head.base import Bent
from ldm.prior.tarflow import TarFlow
from ldm.random import Random
from ldm.run.machine import device_name
from ldm.types import Context, ContextShape

CONF = Path(__file__).parents[1] / "conf" / "prior"
WIDTH = 128  # of the one token of the context


def made(word: str, latents: Latents) -> Autoregressive | TarFlow:
    node = yaml.safe_load((CONF / f"{word}.yaml").read_text(encoding="utf-8"))
    node.pop("defaults", None)
    prior = build(node, latents=latents, context=ContextShape(tokens=WIDTH)).eval()
    with torch.no_grad():
        for p in prior.parameters():
            p.add_(0.01 * torch.randn_like(p))
    return prior


@torch.no_grad()
def recomputed(prior: Autoregressive, shape: tuple[int, ...], c: Context, random: Random, whole: bool) -> Tensor:
    """A sample of which each position is found from all before it."""
    z = torch.zeros(shape, dtype=torch.long if prior.reads == "codes" else torch.float32)
    for i in range(shape[-2] * shape[-1]):
        row, column = divmod(i, shape[-1])
        there = z if whole else z[..., : row + 1, :]
        parameters = prior.network(prior.head.embed(there), c)[:, :, row, column]
        z[..., row, column] = prior.head.draw(parameters, None, Bent(), random, f"position {i}")
    return z


@torch.no_grad()
def recomputed_flow(prior: TarFlow, shape: tuple[int, ...], c: Context, random: Random, whole: bool) -> Tensor:
    """A sample, with its noise, of which each token of each layer is found from all before it."""
    z = random.normal("prior", shape[1:])
    places, y = prior._places(z), prior._tokens(z)
    for layer in reversed(prior.layers):
        y, at = layer._ordered(y), places.reversed() if layer.backwards else places
        x = torch.zeros_like(y)
        for i in range(y.shape[1]):
            stop = y.shape[1] if whole else i + 1
            parameters = layer._shaped(layer.transformer(x[:, :stop], at[:stop], c)[:, i : i + 1])
            x[:, i : i + 1] = layer._to_data(y[:, i : i + 1], parameters)[0]
        y = layer._ordered(x)
    return prior._map(y, z.shape[2:])


def ways(prior: Autoregressive | TarFlow, batch: int) -> list[Callable[[], Tensor]]:
    c = Context(torch.randn(batch, 1, WIDTH), torch.ones(batch, 1, dtype=torch.bool))
    shape, random = prior.latents.batch(batch), Random(0, 0, torch.arange(batch))
    if isinstance(prior, TarFlow):
        prior.denoise, again = False, recomputed_flow
    else:
        again = recomputed
    return [
        lambda: prior.sample(shape, c, random),
        lambda: again(prior, shape, c, random, True),
        lambda: again(prior, shape, c, random, False),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=8)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    side, clock = arguments.side, CLOCKS[arguments.clock]
    cases = {
        "pixelcnn, latents": ("pixelcnn", Latents((4, side, side))),
        "pixelcnn, 8192 codes": ("pixelcnn", Latents((3, side, side), codes=8192)),
        "transformer, latents": ("transformer", Latents((4, side, side))),
        "transformer, 8192 codes": ("transformer", Latents((3, side, side), codes=8192)),
        "tarflow, patches of 2 x 2": ("tarflow", Latents((4, side, side))),
    }
    print(
        f"\n{side} x {side}, batch {arguments.batch}, {device_name(torch.device('cpu'))}, {arguments.rounds} rounds, "
        f"{arguments.clock} time\n"
    )
    print("| | parameters | seconds, cached | images/s | whole / cached | rows / cached |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, (word, latents) in cases.items():
        prior = made(word, latents)
        own = ways(prior, arguments.batch)
        first = [way() for way in own]
        for other in first[1:]:
            torch.testing.assert_close(other, first[0], rtol=1e-3, atol=1e-3)
        seconds: list[list[float]] = [[] for _ in own]
        for _ in range(arguments.rounds):
            for k, way in enumerate(own):
                start = clock()
                way()
                seconds[k].append(clock() - start)
        ratios = [statistics.median(b / a for a, b in zip(seconds[0], each, strict=True)) for each in seconds[1:]]
        cached = statistics.median(seconds[0])
        count = sum(p.numel() for p in prior.parameters()) / 1e6
        print(
            f"| {name} | {count:.2f} M | {cached:.3f} | {arguments.batch / cached:.1f} | {ratios[0]:.1f} | {ratios[1]:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
