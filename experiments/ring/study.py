"""A prior of each family, trained on eight Gaussians on a circle, whose density is known, and how far from it it comes.

    python -m experiments.ring.study OUT WORD [WORD ...] [--words prior.power=1 ...] [--updates N] [--rate R]

WORD is one of conf/prior; what each is trained by stands in recipes.yaml, and --words, --updates and --rate change it. Every
word prints a row, or one for each number of evaluations of a sample, of one thread, and leaves it and its samples in OUT:

    updates, seconds   of its training, of CPU; a word that tunes another's weights counts those of the other, too
    nats               of 4,000 draws under its density above the entropy of the ring; nothing where it has no density
    away               the kernel distance of 1,000 samples from as many draws, in standard errors (tests.prior.ring)
    modes              how many of the eight have at least half of their share of the samples within three deviations
    near               the share of samples within three deviations of a mode; of draws .989

The law, its distances and the training loop are those of the tests: tests/prior/ring.py and tests/prior/learning.py.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from ldm.build import build
from ldm.command.compose import CONF, composed
from ldm.prior.base import Latents, Likelihood, Prior
from ldm.random import Random
from ldm.tensors import write_tensors
from ldm.types import Context, ContextShape
from tests.prior import ring
from tests.prior.learning import gap, trained

SAMPLES, DRAWS = 1000, 4000
TEACHER = "diffusion"  # whose weights a word that tunes begins from


@dataclass(frozen=True)
class Recipe:
    """How a word learns the ring.

    Fields:
        updates, rate, rows, betas: of Adam at a rate of one cycle; `rows` of a batch.
        words: of the command line, beside prior=WORD.
        steps: evaluations for a sample, each of which has a row; its own where there are none.
    """

    updates: int
    rate: float = 0.0
    rows: int = 256
    betas: tuple[float, float] = (0.9, 0.999)
    words: tuple[str, ...] = ()
    steps: tuple[int, ...] = ()


def recipes() -> dict[str, Recipe]:
    """Of every word that models latents of two numbers."""
    found = yaml.safe_load(Path(__file__).with_name("recipes.yaml").read_text("utf-8"))
    return {word: Recipe(**fields) for word, fields in found.items()}


def made(word: str, recipe: Recipe) -> Prior:
    """The prior of a word, untrained."""
    config = composed(CONF, "config", ["backbone=mlp", f"prior={word}", *recipe.words])
    return build(config["prior"], "prior", latents=Latents((2, 1, 1)), context=ContextShape())


def learnt(word: str, recipe: Recipe) -> Prior:
    """The prior of a word, trained."""
    torch.manual_seed(0)
    prior = made(word, recipe)
    if prior.TUNES:
        prior.load_state_dict(learnt(TEACHER, recipes()[TEACHER]).state_dict())
    if recipe.updates == 0:
        return prior.eval()
    return trained(prior, recipe.updates, recipe.rate, recipe.rows, recipe.betas)


def row(prior: Prior) -> tuple[dict[str, Any], Tensor]:
    """The numbers of a trained prior, and its samples (n, 2)."""
    with torch.no_grad():
        z = prior.sample((SAMPLES, 2, 1, 1), Context(), Random(1, 0, torch.arange(SAMPLES)))
    mode = ring.modes(z)
    near = (z.flatten(1) - ring.centres()[mode]).norm(dim=1) < 3 * ring.DEVIATION
    shares = torch.bincount(mode[near], minlength=ring.MODES) / SAMPLES
    return {
        "nats": round(gap(prior, DRAWS), 3) if isinstance(prior, Likelihood) else None,
        "away": round(ring.errors_away(z), 1),
        "modes": int((shares >= 0.5 / ring.MODES).sum()),
        "near": round(shares.sum().item(), 3),
    }, z.flatten(1)


def rows(word: str, recipe: Recipe) -> Iterator[tuple[dict[str, Any], Tensor]]:
    """The rows of a word, and the samples (n, 2) of each."""
    start = time.process_time()
    prior = learnt(word, recipe)
    spent = {"updates": recipe.updates, "seconds": round(time.process_time() - start)}
    for steps in recipe.steps or (None,):
        if steps is not None:
            prior.steps = steps
        numbers, z = row(prior)
        yield {"word": word if steps is None else f"{word} {steps}", **spent, **numbers}, z


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("priors", nargs="+", metavar="WORD", choices=recipes())
    parser.add_argument("--words", nargs="*", default=[])
    parser.add_argument("--updates", type=int)
    parser.add_argument("--rate", type=float)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for word in arguments.priors:
        recipe = recipes()[word]
        recipe = replace(
            recipe,
            updates=recipe.updates if arguments.updates is None else arguments.updates,
            rate=arguments.rate or recipe.rate,
            words=(*recipe.words, *arguments.words),
        )
        for numbers, z in rows(word, recipe):
            print(json.dumps(numbers), flush=True)
            write_tensors(arguments.out / f"{numbers['word']}.safetensors", {"z": z})
            (arguments.out / f"{numbers['word']}.json").write_text(json.dumps(numbers), encoding="utf-8")


if __name__ == "__main__":
    main()
