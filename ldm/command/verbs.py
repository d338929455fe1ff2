"""The verbs whose words Hydra composes, from a command line to an exit code. Nothing heavy is imported before the words are
known to be right.

    ldm train experiment=shapes              what a config describes, or with -m a sweep
    ldm sample run=DIR prompt="a star"       images of a finished run
    ldm evaluate run=DIR samples=2048        a finished run measured again
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from ldm.command.compose import CONF, begin, by_hydra, checked, composed, trainable
from ldm.command.words import SWEEP
from ldm.stage.handover import handed_down


def train(words: Sequence[str]) -> int:
    """Train what a config describes."""
    begin(words)
    config = handed_down()
    if config is not None:
        return _trained(config)
    if SWEEP & set(sys.argv):
        return _swept([word for word in sys.argv[1:] if word not in SWEEP])
    by_hydra("config", lambda config: _trained(trainable(config, sys.argv[1:])))
    return 0


def _trained(config: dict[str, Any]) -> int:
    from ldm.command.terminal import guarded
    from ldm.experiment.experiment import Experiment

    return guarded(lambda: Experiment(config).run())


def _swept(words: list[str]) -> int:
    """A sweep: every combination of the words that hold several values."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    from ldm.command.sweep import sweep
    from ldm.command.terminal import guarded

    def run() -> int:
        jobs = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(words), None)[0]
        return sweep(jobs, Path(composed(CONF, "config", jobs[0])["runs"]), program())

    return guarded(run)


def program() -> list[str]:
    """The command of this process without its words: a script, `ldm train`, or `python -m ldm train`."""
    return [sys.executable, *sys.orig_argv[1 : len(sys.orig_argv) - len(sys.argv[1:])]]


def sample(words: Sequence[str]) -> int:
    """Images of a finished run."""
    begin(words, "sample")

    def work(config: DictConfig) -> int:
        given = checked(config)
        from ldm.command.sample import sample

        return _called(sample, given)

    by_hydra("sample", work)
    return 0


def evaluate(words: Sequence[str]) -> int:
    """Measure a finished run again."""
    begin(words, "evaluate")

    def work(config: DictConfig) -> int:
        given = checked(config)
        from ldm.command.evaluate import measure_again

        return _called(measure_again, given)

    by_hydra("evaluate", work)
    return 0


def _called(function: Callable[..., None], words: dict[str, Any]) -> int:
    """Call a function with its words, each of the kind that its annotation says."""
    from ldm.build import typed
    from ldm.command.terminal import guarded

    return guarded(lambda: function(**typed(function, words)))
