"""Every family's word in training and in sampling, at one size.

    python benchmarks/families.py [--rounds 5] [--batch 32] [--threads 1] [--clock cpu|wall] [--words glow naf]

Prints, of each word of conf/prior on latents of 4 x side x side (8) under a label: updates a second (losses of every side,
gradients, Adam), images a second in training and in sampling. Words that have a network of their own have it in the size of
conf/prior, the others that of experiment=fashion_mnist.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from turns import CLOCKS, race

from ldm.build import build
from ldm.command.compose import CONF, composed
from ldm.prior.base import Latents, Prior
from ldm.random import Random
from ldm.run.machine import device_name
from ldm.types import Context, ContextShape

TOKEN, CLASSES, CODES = 128, 10, 512

Work = Callable[[], Any]


def made(word: str, side: int) -> Prior:
    """The prior of a word, as a run of experiment=fashion_mnist has it."""
    node = composed(CONF, "config", ["experiment=fashion_mnist", f"prior={word}"])["prior"]
    latents = Latents((4, side, side), codes=CODES if word == "categorical" else None)
    return build(node, latents=latents, context=ContextShape(tokens=TOKEN))


def contexts(batch: int) -> Context:
    tokens = torch.randn(CLASSES, 1, TOKEN)
    return Context(tokens[torch.arange(batch) % CLASSES], empty=Context(torch.randn(1, 1, TOKEN)))


def update(prior: Prior, z: Tensor, c: Context) -> Work:
    """One update: each side's loss and gradient, then all move."""
    sides = [
        (side, [p for module in side.modules for p in module.parameters() if p.requires_grad]) for side in prior.sides()
    ]
    optimizers = [torch.optim.Adam(own, 1e-4, fused=True) for _, own in sides if own]
    count = itertools.count()

    def run() -> None:
        done, shared = next(count), {}
        random = Random(0, done, torch.arange(len(z)))
        for side, own in sides:
            terms, _ = side.loss(z, c, random, done, shared)
            if own:
                for p, gradient in zip(own, torch.autograd.grad(sum(terms.values()), own), strict=True):
                    p.grad = gradient
        prior.conclude()
        for optimizer in optimizers:
            optimizer.step()

    return run


def header(arguments: argparse.Namespace) -> str:
    where = device_name(torch.device("cpu"))
    return f"{where}, batch {arguments.batch}, {arguments.rounds} rounds, {arguments.clock} time"


def parsed(about: str, words: str, side: int) -> argparse.Namespace:
    """What the command line says: `words` and `side` are what is said of these two and by default."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--words", nargs="+", help=words)
    parser.add_argument("--side", type=int, default=side, help="of latents")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=CLOCKS, default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    return arguments


def main() -> None:
    arguments = parsed(__doc__, "of conf/prior", side=8)
    side, batch = arguments.side, arguments.batch
    words = arguments.words or sorted(file.stem for file in (CONF / "prior").glob("*.yaml"))
    print(f"\n{header(arguments)}, latents of 4 x {side} x {side}, one label each\n")
    print("| prior | parameters | updates/s | images/s in training | images/s in sampling |")
    print("| --- | --- | --- | --- | --- |", flush=True)
    for word in words:
        torch.manual_seed(0)
        prior, c = made(word, side), contexts(batch)
        shape = prior.latents.batch(batch)
        z = torch.randint(CODES, shape) if prior.latents.codes else torch.randn(shape)
        prior.begin([(z, c)])
        sample = torch.no_grad()(partial(prior.sample, shape, c, Random(1, 0, torch.arange(batch))))
        seconds = race([update(prior, z, c), sample], arguments.rounds, CLOCKS[arguments.clock], warm=1)
        training, sampling = map(statistics.median, seconds)
        parameters = sum(p.numel() for p in prior.parameters()) / 1e6
        print(
            f"| {word} | {parameters:.2f} M | {1 / training:.3g} | {batch / training:.3g} | {batch / sampling:.3g} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
