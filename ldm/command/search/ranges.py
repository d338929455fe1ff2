"""What a search chooses from: the ranges of Hydra's grammar as distributions of Optuna, and chosen values as words.

    second.optimizer.lr=interval(1e-4,1e-2)              any number between
    second.optimizer.lr=tag(log,interval(1e-4,1e-2))     so too, every order of magnitude as often
    backbone.width=int(interval(32,128))                 integers
    backbone.depth=range(2,9,2)                          2, 4, 6, 8, as a sweep that tries all of them has it
    diffusion=ddpm,v,flow      or choice(ddpm,v,flow)    one of them, without an order

Seeds are not searched over: `seed=0,1,2` trains every choice under each of them, which is judged by the mean. A number is written
with six digits, more where the range is narrow beside its ends, so that a run's name can be read and its words typed again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from ldm.report.setting import is_seed

_DIGITS = 6
_TAGS = {"log"}


class WrongRange(ValueError):
    """A range that cannot be searched; the message is for who typed it."""


@dataclass(frozen=True)
class Space:
    """The words of a search.

    Fields:
        ranges: what is chosen from, by key as it was typed (`++second.optimizer.lr`).
        seeds: words, each for every choice.
        fixed: the words of all jobs.
    """

    ranges: dict[str, BaseDistribution]
    seeds: Sequence[Sequence[str]]
    fixed: Sequence[str]

    def jobs(self, values: dict[str, object]) -> list[list[str]]:
        """The words of each job of a choice: of each seed one."""
        chosen = [f"{key}={said(values[key], each)}" for key, each in self.ranges.items()]
        found = [[*chosen]]
        for seeds in self.seeds:
            found = [[*words, seed] for words in found for seed in seeds]
        return [[*words, *self.fixed] for words in found]


def space(words: Sequence[Override]) -> Space:
    """The words of a search as ranges, seeds and others. Raises WrongRange."""
    ranges, seeds, fixed = {}, [], []
    for word in words:
        key = word.get_key_element()
        if not word.is_sweep_override():
            fixed.append(word.input_line)
        elif is_seed(word.key_or_group) and word.is_discrete_sweep():
            seeds.append([f"{key}={value}" for value in word.sweep_string_iterator()])
        else:
            ranges[key] = distribution(word)
    if not ranges:
        raise WrongRange(
            "hydra/sweeper=optuna searches, and no word has a range: say one, as "
            "'second.optimizer.lr=tag(log,interval(1e-4,1e-2))'; without hydra/sweeper=optuna every combination of values is run"
        )
    return Space(ranges, seeds, fixed)


def distribution(word: Override) -> BaseDistribution:
    """What Optuna calls the range of a word. Raises WrongRange."""
    value = word.value()
    if word.is_choice_sweep():
        return CategoricalDistribution(list(dict.fromkeys(word.sweep_string_iterator())))
    assert isinstance(value, IntervalSweep | RangeSweep)
    unknown = set(value.tags) - _TAGS
    if unknown:
        raise WrongRange(f"{word.input_line}: no such tag as {', '.join(sorted(unknown))}; there is log")
    try:
        return _between(value, "log" in value.tags)
    except ValueError as error:
        raise WrongRange(f"{word.input_line}: {error}") from None


def _between(value: IntervalSweep | RangeSweep, log: bool) -> BaseDistribution:
    """Raises ValueError for an empty range, or a logarithm where there is none."""
    if isinstance(value, IntervalSweep):
        kind = IntDistribution if isinstance(value.start, int) and isinstance(value.end, int) else FloatDistribution
        _rising(value.start, value.end, log)
        return kind(value.start, value.end, log=log)
    every = list(value.range())
    if not every:
        raise ValueError("the range is empty; its second number does not belong to it")
    low, high = min(every), max(every)
    _rising(low, high, log)
    if all(isinstance(each, int) for each in every):
        if log and abs(value.step) != 1:
            raise ValueError("a logarithmic range takes steps of 1")
        return IntDistribution(low, high, log=log, step=abs(value.step))
    if log:
        raise ValueError("a logarithmic range has no steps; say tag(log,interval(...))")
    return FloatDistribution(low, high, step=abs(float(value.step)))


def _rising(low: float | int, high: float | int, log: bool) -> None:
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ValueError(f"from {low:g} to {high:g} there is nothing; the smaller number comes first")
    if log and low <= 0:
        raise ValueError(f"a logarithmic range has to begin above 0, and begins at {low:g}")


def said(value: object, range_: BaseDistribution) -> str:
    """A chosen value in Hydra's grammar."""
    if not isinstance(range_, FloatDistribution):
        return str(value)
    largest, width = max(abs(range_.low), abs(range_.high)), range_.high - range_.low
    digits = _DIGITS + (math.floor(math.log10(largest / width)) if 0 < width < largest else 0)
    return f"{value:.{digits}g}"
