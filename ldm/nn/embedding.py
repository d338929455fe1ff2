"""Embeddings of a noise level.

A number s becomes (cos(s f_0), ..., cos(s f_k), sin(s f_0), ..., sin(s f_k)) with f_i = 10000^(-i / (k + 1))
(arXiv 1706.03762, section 3.5; cosines first as in published latent diffusion checkpoints). `LogSnrEmbedding` takes s
from the log-SNR itself, so that one network serves every schedule; `StepEmbedding` finds the integer step of the table
that a published checkpoint was trained on.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import torch
from jaxtyping import Float
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

TimeEmbedding: TypeAlias = Callable[[int], nn.Module]
"""What makes an embedding (b,) -> (b, width) for a width: `LogSnrEmbedding` or a partial of `StepEmbedding`."""


def sinusoidal(s: Float[Tensor, " b"], width: int) -> Float[Tensor, "b width"]:
    """Cosines and sines of `s` at width / 2 frequencies from 1 down to 1e-4, in float32."""
    angles = s.float()[:, None] * frequencies(width // 2, 10000.0, s.device)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def frequencies(count: int, base: float, device: torch.device) -> Float[Tensor, " count"]:
    """base^(-i / count) for i = 0 ... count - 1, in float32."""
    exponents = torch.arange(count, dtype=torch.float32, device=device)
    return torch.exp(exponents * (-math.log(base) / count))


def _even(width: int) -> int:
    if width % 2:
        raise ValueError(f"the width of a sinusoidal embedding is even; got {width}; use {width + 1}")
    return width


class LogSnrEmbedding(nn.Module):
    """Embeds log-SNR on the scale of 1000 steps: s = 500 (1 - log_snr / limit), with log-SNR clamped to +-limit.

    The clamp keeps clean data (log-SNR = inf) and zero terminal SNR (-inf) finite.
    """

    def __init__(self, width: PositiveInt, limit: PositiveFloat = 20.0):
        super().__init__()
        self.width, self.limit = _even(width), limit

    def forward(self, log_snr: Float[Tensor, " b"]) -> Float[Tensor, "b width"]:
        s = 500 * (1 - log_snr.float().clamp(-self.limit, self.limit) / self.limit)
        return sinusoidal(s, self.width)


class StepEmbedding(nn.Module):
    """Embeds the step k at which a table has the given log-SNR, interpolated between entries and exact at them.

    Arguments:
        log_snr_table: log-SNR of the steps 0, 1, ..., strictly decreasing.
    """

    def __init__(self, width: PositiveInt, log_snr_table: tuple[float, ...]):
        super().__init__()
        self.width = _even(width)
        table = torch.tensor(log_snr_table, dtype=torch.float64)
        if len(table) < 2 or not (table.diff() < 0).all():
            raise ValueError("log_snr_table must hold at least two strictly decreasing numbers, the first for step 0")
        # Not persistent: the table is an argument, not something learnt. Ascending, as searchsorted wants it.
        self.register_buffer("ascending", table.flip(0), persistent=False)

    def step(self, log_snr: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """The step of a log-SNR, between 0 and the table's last."""
        table = self.ascending
        value = log_snr.to(table.dtype).clamp(table[0], table[-1])
        high = torch.searchsorted(table, value).clamp(1, len(table) - 1)
        low_value, high_value = table[high - 1], table[high]
        position = high - 1 + (value - low_value) / (high_value - low_value)
        step = len(table) - 1 - position
        # A log-SNR that went through float32 must still meet its integer.
        nearest = step.round()
        return torch.where((step - nearest).abs() < 1e-3, nearest, step)

    def forward(self, log_snr: Float[Tensor, " b"]) -> Float[Tensor, "b width"]:
        return sinusoidal(self.step(log_snr), self.width)
