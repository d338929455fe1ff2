"""Sinusoidal embeddings of the noise level.

A number s becomes (cos(s f_0), ..., cos(s f_k), sin(s f_0), ..., sin(s f_k)) with f_i = 10000^(-i / (k + 1)) (Vaswani
et al. 2017, section 3.5; cosines come first as in the published checkpoints of latent diffusion). `LogSnrEmbedding`
computes s from log SNR, so that one network can be used with every schedule. `StepEmbedding` finds the step of the table of
noise levels that a published checkpoint was trained on, and takes it as s. `IntervalEmbedding` changes slowly, for networks
that are differentiated in time or solved for, and knows the two ends of an interval.

Sources:
    Vaswani et al., Attention Is All You Need (2017), arXiv 1706.03762
    Lu and Song, Simplifying, Stabilizing and Scaling Continuous-Time Consistency Models (2024), arXiv 2410.11081
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
"""Makes an embedding of log SNR, (b,) -> (b, width), given the width: `LogSnrEmbedding` or a partial of `StepEmbedding`."""


def sinusoidal(s: Float[Tensor, " b"], width: int) -> Float[Tensor, "b width"]:
    """Cosines and sines of s (b,) at width / 2 frequencies from 1 down to 1e-4, (b, width), in float32."""
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
    """The embedding of s = 500 (1 - log_snr / limit), with log SNR clamped to [-limit, limit]; so s lies between 0 and 1000.

    The clamp is for clean data, where log SNR is inf, and for schedules that end in pure noise, where it is -inf.

    Arguments:
        width: of the embedding; even.
        limit: the greatest |log SNR| that is distinguished.
    """

    def __init__(self, width: PositiveInt, limit: PositiveFloat = 20.0):
        super().__init__()
        self.width, self.limit = _even(width), limit

    def forward(self, log_snr: Float[Tensor, " b"]) -> Float[Tensor, "b width"]:
        """(b, width) of log SNR (b,)."""
        s = 500 * (1 - log_snr.float().clamp(-self.limit, self.limit) / self.limit)
        return sinusoidal(s, self.width)


class StepEmbedding(nn.Module):
    """The embedding of the step at which a table of noise levels has a given log SNR, interpolated between its entries.

    Arguments:
        width: of the embedding; even.
        log_snr_table: log SNR of the steps 0, 1, ..., strictly decreasing.
    """

    def __init__(self, width: PositiveInt, log_snr_table: tuple[float, ...]):
        super().__init__()
        self.width = _even(width)
        table = torch.tensor(log_snr_table, dtype=torch.float64)
        if len(table) < 2 or not (table.diff() < 0).all():
            raise ValueError("log_snr_table must hold at least two strictly decreasing numbers, the first for step 0")
        # Not persistent, because the table is an argument and is not learnt. In ascending order, to be searched.
        self.register_buffer("ascending", table.flip(0), persistent=False)

    def step(self, log_snr: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """The step of each log SNR, (b,) of (b,), between 0 and the last step of the table."""
        table = self.ascending
        value = log_snr.to(table.dtype).clamp(table[0], table[-1])
        # torch.searchsorted, in operations that ONNX has, too.
        high = (table < value[..., None]).sum(-1).clamp(1, len(table) - 1)
        low_value, high_value = table[high - 1], table[high]
        position = high - 1 + (value - low_value) / (high_value - low_value)
        step = len(table) - 1 - position
        # A log SNR that was rounded to float32 still has to give its integer exactly.
        nearest = step.round()
        return torch.where((step - nearest).abs() < 1e-3, nearest, step)

    def forward(self, log_snr: Float[Tensor, " b"]) -> Float[Tensor, "b width"]:
        """(b, width) of log SNR (b,)."""
        return sinusoidal(self.step(log_snr), self.width)


class IntervalEmbedding(nn.Module):
    """The embedding of an interval of noise levels from r to t, with t = sigma / (alpha + sigma) in [0, 1]: cosines and sines of
    t and of the interval's length t - r at width / 4 frequencies from 1 to `fastest`.

    Its derivative in t is bounded by `fastest`, where that of `LogSnrEmbedding` is hundreds in the middle and infinite at the
    ends. A derivative of the network in time, as mean flow takes it, would be the noise of the fast frequencies (Lu and Song
    2024, section 4.1), and a solver with a tolerance would follow them.

    Arguments:
        width: of the embedding; a multiple of 4.
        fastest: the greatest frequency, in radians over the whole of time.
    """

    def __init__(self, width: PositiveInt, fastest: PositiveFloat = 16.0):
        super().__init__()
        if width % 4:
            raise ValueError(
                f"the width of an embedding of intervals is a multiple of 4; got {width}; use {-(-width // 4) * 4}"
            )
        self.width, self.fastest = width, fastest

    def forward(self, log_snr: Float[Tensor, " b *times"]) -> Float[Tensor, "b width"]:
        """(b, width) of the log SNRs at t and r, (b, 2), or at t = r alone, (b,)."""
        t = torch.sigmoid(-log_snr.float() / 2)
        t, r = (t, t) if t.ndim == 1 else t.unbind(1)
        count = self.width // 4
        powers = torch.arange(count, device=t.device) / max(1, count - 1)
        angles = torch.stack([t, t - r], 1)[:, :, None] * self.fastest**powers
        return torch.cat([angles.cos(), angles.sin()], 2).flatten(1)
