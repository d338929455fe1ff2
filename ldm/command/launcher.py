"""Sweeps are Hydra's: its sweeper says which jobs there are, its launcher how they are run.

    python train.py -m name=s seed=0,1                             every combination of values, a process a job, one by one
    python train.py -m name=s seed=0,1 hydra.launcher.n_jobs=2     two processes at once
    python train.py -m name=s seed=0,1 hydra/launcher=joblib       any other launcher: basic, joblib, submitit_slurm, ...
    python train.py -m name=s hydra/sweeper=optuna objective=fd_random_conv 'second.optimizer.lr=interval(1e-4,1e-2)'

The launcher `ldm` (`ldm.command.sweep`) is the default. A sweep's jobs have the same names, what is finished is left alone and a
sweeper that searches is told the same values under any launcher (`ldm.command.job`). The sweeper `optuna` is ours
(`ldm.command.search.study`): the plugin of that name for Hydra wants Optuna 2, knows no pruner and begins anew each time.
"""

from __future__ import annotations

import importlib
import importlib.util
import secrets
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import OverrideParseException

from ldm.command.grammar import parted, quoted, unquoted
from ldm.command.job import COMMON

_NAMESPACE = Path(__file__).parent / "for_hydra"  # of hydra_plugins, the package in which Hydra looks for launchers


def prepared(arguments: Sequence[str], command: Sequence[str]) -> list[str]:
    """The arguments of a sweep with what all of its jobs are to know, and our launcher made known to Hydra; ends the process
    where they cannot be a sweep.

    Arguments:
        arguments: as Hydra is given them.
        command: that each process of our launcher runs with its words.
    """
    _register(command)
    flags, given = parted(arguments)
    given = [_from_home(word) for word in given]
    try:
        words = OverridesParser.create().parse_overrides(given)
    except OverrideParseException as error:
        sys.exit(str(error))
    wrong = _unsearched(words)
    if wrong:
        sys.exit(wrong)
    names = [word for word in words if word.key_or_group == "name"]
    if any(word.is_sweep_override() for word in names):
        sys.exit(f"{names[0].input_line}: name= is of the whole sweep, whose jobs are told apart by their words")
    named = [] if names else [f"name=sweep-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"]
    keys = [word.get_key_element().lstrip("+~") for word in words if not word.is_sweep_override()]
    common = sorted({"name", *(key for key in keys if not key.startswith("hydra"))})
    return [*flags, *given, *named, f"{COMMON}=[{','.join(map(quoted, common))}]"]


def _unsearched(words: Sequence[Override]) -> str | None:
    """What to say of words that only a search takes, where there is none; and of a search that cannot be."""
    sweepers = {word.get_value_element_as_str() for word in words if word.key_or_group == "hydra/sweeper"}
    if "optuna" in sweepers and importlib.util.find_spec("optuna") is None:
        return "hydra/sweeper=optuna needs the package optuna: pip install -e '.[optuna]' in the checkout"
    ranges = [word for word in words if word.is_interval_sweep()]
    if ranges and not sweepers:
        return f"{ranges[0].input_line}: a range without steps is for a search: say hydra/sweeper=optuna and objective=NAME"
    return None


def _register(command: Sequence[str]) -> None:
    if str(_NAMESPACE) not in sys.path:
        sys.path.append(str(_NAMESPACE))
    plugins = Plugins.instance()  # which executes what it finds: before the import, so that there is one class
    for module, name in (("ldm", "Launcher"), ("ldm_search", "Search")):
        plugin = getattr(importlib.import_module(f"hydra_plugins.{module}"), name)
        plugin.command = tuple(command)
        plugins.register(plugin)


def _from_home(word: str) -> str:
    """`runs=~/x` with the user's directory: Hydra itself goes there, and knows no `~`."""
    key, _, given = word.partition("=")
    there = key == "runs" and unquoted(given).startswith("~")
    return f"runs={quoted(str(Path(unquoted(given)).expanduser()))}" if there else word
