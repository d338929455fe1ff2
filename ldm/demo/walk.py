"""From one seed to another, and from one condition to another, by degrees.

The noise of a frame lies on the arc between the noise of two seeds (`ldm.metric.path_length.Between`), all of it: what a sampler
adds on its way, too. So the ends are what the seeds draw, and what is between changes by degrees. The condition of a frame is
(1 - t) c_0 + t c_1 of the tokens that a network is given; a token counts that counts at one of the ends, and at an end those of
that end.

What makes it fail: priors that draw integers, which do not change by degrees; captions whose tokens mean something else at each
place, of which the mean says nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from ldm.metric.path_length import Between
from ldm.model import LatentModel
from ldm.random import Random
from ldm.task.tools.conditions import conditions
from ldm.types import Context, Image


def check_walk(model: LatentModel) -> str | None:
    """Why there is no way by degrees from one seed to another; None where there is. A sample is drawn to know it."""
    noise = _noise(model, (0, 1), torch.tensor([0.5]))
    with torch.no_grad():
        model.prior.sample(model.prior.latents.batch(1), _condition(model, None, None)[:1], noise)
    if noise.others or not noise.streams:
        why = (
            "draws numbers that do not change by degrees" if noise.others else "draws its samples from no normal noise"
        )
        return (
            f"A walk needs a prior whose samples are made of normal noise alone, as those of diffusions, flows and GANs are; "
            f"this model's, {type(model.prior).__name__}, {why}."
        )
    return None


@torch.no_grad()
def walk(
    model: LatentModel,
    seeds: tuple[int, int],
    captions: Sequence[str] | None,
    labels: Sequence[str | int] | None,
    frames: int,
) -> Image:
    """The frames (frames, c, h, w) in [-1, 1] from what the first seed draws as image 0 to what the second does.

    Arguments:
        captions, labels: of the two ends; None where there is no such condition.
    """
    t = torch.linspace(0, 1, frames, device=model.device)
    c = mixed(_condition(model, captions, labels), t)
    z = model.prior.sample(model.prior.latents.batch(frames), c, _noise(model, seeds, t))
    return model.decode(z)


def _noise(model: LatentModel, seeds: tuple[int, int], t: Float[Tensor, " n"]) -> Between:
    rows = torch.zeros(len(t), dtype=torch.long, device=model.device)
    first, second = (Random(seed, 0, rows) for seed in seeds)
    return Between(first, second, t.to(model.device))


def _condition(model: LatentModel, captions: Sequence[str] | None, labels: Sequence[str | int] | None) -> Context:
    """The context of the two ends."""
    asked = conditions(model, captions, labels, 1)
    rows = [0, 1] if asked.count == 2 else [0, 0]
    return model.condition(asked.batch(rows, model.device))


def mixed(ends: Context, t: Float[Tensor, " n"]) -> Context:
    """The contexts at t (n,) between two, (n, ...)."""

    def between(part: Tensor | None) -> Tensor | None:
        return None if part is None else torch.lerp(part[:1], part[1:], t.view(-1, *[1] * (part.ndim - 1)))

    mask = None
    if ends.mask is not None:
        first, second, place = ends.mask[:1], ends.mask[1:], t[:, None]
        mask = (first & (place < 1)) | (second & (place > 0))
    return replace(ends, tokens=between(ends.tokens), mask=mask, spatial=between(ends.spatial))
