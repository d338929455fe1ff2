"""What a task has made of all rows, in memory, for Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import PIL.Image
import torch
from jaxtyping import Float
from torch import Tensor

from ldm.eight_bits import eight_bits
from ldm.task.base import Found
from ldm.task.tools.rows import Rows, summary
from ldm.types import Image

Pictures = list[PIL.Image.Image]


@dataclass(frozen=True)
class Done:
    """What a task has made of images.

    Fields:
        names: of the rows.
        pictures: name -> a PIL image for each row.
        numbers: name -> (n,), float64.
        arrays: name -> (n, ...), as latents.
        means: name -> `mean`, `standard_error` and `n`, and of further images under `others`.
        found: what the task says of all rows together.
    """

    names: list[str]
    pictures: dict[str, Pictures]
    numbers: dict[str, Float[Tensor, " n"]]
    arrays: dict[str, Tensor]
    means: dict[str, Any]
    found: dict[str, Any]


def pictures(x: Image) -> Pictures:
    """Images (b, c, h, w) in [-1, 1] as PIL images, RGB."""
    return [PIL.Image.fromarray(each.permute(1, 2, 0).cpu().numpy()) for each in eight_bits(x)]


def in_memory(rows: Rows, batch: int) -> Done:
    """All rows of a task, so many at once."""
    answers = [answer for _, answer in rows.answers(range(len(rows)), batch)]

    def all_of(kind: Callable[[Any], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        return {name: torch.cat([kind(answer)[name].cpu() for answer in answers]) for name in kind(answers[0])}

    shown = {name: eight_bits(x) for name, x in all_of(lambda answer: answer.pictures).items()}
    numbers = {name: value.double() for name, value in all_of(lambda answer: answer.numbers).items()}
    found = Found(
        [rows.name(row) for row in range(len(rows))],
        rows.first,
        numbers,
        all_of(lambda answer: answer.arrays),
        lambda row: {name: x[row] for name, x in shown.items()},
    )
    as_pil = {name: pictures(x.float() / 127.5 - 1) for name, x in shown.items()}
    means, said = summary(numbers, rows.first), rows.task.conclude(found)
    return Done(list(found.names), as_pil, numbers, dict(found.arrays), means, said)
