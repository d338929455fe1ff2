"""The verbs whose words Hydra composes, from a command line to an exit code. Nothing heavy is imported before the words are
known to be right.

    ldm train experiment=shapes              what a config describes, or with -m a sweep
    ldm sample run=DIR prompt="a star"       images of a finished run
    ldm apply run=DIR task=embed images=DIR  what is done with images and a finished run's model
    ldm evaluate run=DIR samples=2048        a finished run measured again
    ldm export run=DIR to=diffusers out=DIR  a finished run's model for other programs
    ldm import source=DIR run=DIR            a model of another library as a run
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

from omegaconf import DictConfig

from ldm.command.compose import begin, by_hydra, checked, trainable
from ldm.command.grammar import SWEEP


def train(words: Sequence[str]) -> int:
    """Train what a config describes."""
    begin(words)
    swept = bool(SWEEP & set(sys.argv))
    if swept:
        from ldm.command.launcher import prepared

        sys.argv[1:] = prepared(sys.argv[1:], program())
    from ldm.command.conclusion import concluded
    from ldm.command.job import job

    with concluded() if swept else nullcontext():
        by_hydra("config", lambda config: job(lambda typed: trainable(config, typed), _trained))
    return 0


def _trained(config: dict[str, Any]) -> int:
    from ldm.command.start import start

    return start(config)


def program() -> list[str]:
    """The command of this process without its words: a script, `ldm train`, or `python -m ldm train`."""
    return [sys.executable, *sys.orig_argv[1 : len(sys.orig_argv) - len(sys.argv[1:])]]


def sample(words: Sequence[str]) -> int:
    """Images of a finished run."""

    def function() -> Callable[..., None]:
        from ldm.command.sample import sample

        return sample

    return _of_a_run("sample", words, function)


def apply(words: Sequence[str]) -> int:
    """Do something with images and a finished run's model."""

    def function() -> Callable[..., None]:
        from ldm.command.apply import apply

        return apply

    return _of_a_run("apply", words, function)


def evaluate(words: Sequence[str]) -> int:
    """Measure a finished run again."""

    def function() -> Callable[..., None]:
        from ldm.command.evaluate import measure_again

        return measure_again

    return _of_a_run("evaluate", words, function)


def export(words: Sequence[str]) -> int:
    """Write a finished run's model for other programs."""

    def function() -> Callable[..., None]:
        from ldm.command.export import export

        return export

    return _of_a_run("export", words, function)


def import_model(words: Sequence[str]) -> int:
    """Make a run of a model of another library."""

    def function() -> Callable[..., None]:
        from ldm.command.import_model import import_model

        return import_model

    return _of_a_run("import", words, function)


def _of_a_run(entry: str, words: Sequence[str], function: Callable[[], Callable[..., None]]) -> int:
    """Call a function with the words of an entry point, each of the kind that its annotation says; ends the process where it
    fails. The function is imported once the words are known to be right."""
    begin(words, entry)

    def work(config: DictConfig) -> None:
        given, act = checked(config), function()
        from ldm.build import typed
        from ldm.command.terminal import guarded
        from ldm.run.machine import flush_denormals

        flush_denormals()
        code = guarded(lambda: act(**typed(act, given)))
        if code:
            sys.exit(code)

    by_hydra(entry, work)
    return 0
