"""What the entry points share: a command line is heard, composed by Hydra and checked before anything heavy is imported.

In this order, each telling what is wrong and what to type: names of groups, of their words and of top-level settings, by the
names of files in conf/ (`ldm.command.words`); what Hydra's grammar refuses; what is left to be given; the arguments of
every class and the kinds of plain values, by the classes' sources (`ldm.signature`). What needs the classes themselves
comes after the imports (`ldm.experiment.check`): whether a part fits in its place, ranges that only a constructor knows,
what goes with what.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from ldm.command.words import HELP, at_home, heard, left_open

OPEN = "to be given"


def begin(conf: Path, entry: str = "config") -> None:
    """Hear the words of this process; ends it where one is wrong, and after help where that is asked for."""
    sys.argv[1:] = heard(sys.argv[1:], conf, entry)
    if HELP & set(sys.argv):
        from ldm.command.help import told

        try:
            print(told(sys.argv[1:], conf, entry, lambda words: composed(conf, entry, words)))
        except KeyError as error:
            sys.exit(error.args[0])
        sys.exit(0)


def composed(conf: Path, entry: str, words: Sequence[str]) -> dict[str, Any]:
    """The plain config that words make; what it leaves to be given says so."""
    with hydra.initialize_config_dir(str(conf.resolve()), version_base="1.3"):
        config = hydra.compose(entry, list(words))
    for key in left_open(OmegaConf.to_container(config, resolve=False)):
        OmegaConf.update(config, key, OPEN)
    return at_home(OmegaConf.to_container(config, resolve=True))


def checked(config: DictConfig, aside: Sequence[str] = ()) -> dict[str, Any]:
    """The plain config; ends the process where it cannot be right.

    Arguments:
        aside: parts that are not looked at by themselves.
    """
    from ldm.build import ConfigError
    from ldm.signature import check

    missing = left_open(OmegaConf.to_container(config, resolve=False))
    if missing:
        sys.exit(f"to be given: {' '.join(f'{key}=...' for key in missing)}")
    plain = at_home(OmegaConf.to_container(config, resolve=True))
    try:
        check({key: value for key, value in plain.items() if key not in aside})
    except ConfigError as error:
        sys.exit(str(error))
    return plain
