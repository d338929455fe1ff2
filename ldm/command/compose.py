"""What the verbs share: a command line is heard, composed by Hydra and checked before anything heavy is imported.

In this order, each telling what is wrong and what to type: names of groups, of their words and of top-level settings, by the
names of files in conf/ (`ldm.command.words`); what Hydra's grammar refuses; what is left to be given; the arguments of
every class and the kinds of plain values, by the classes' sources (`ldm.signature`). What needs the classes themselves
comes after the imports (`ldm.experiment.check`): whether a part fits in its place, ranges that only a constructor knows,
what goes with what.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import hydra
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError

from ldm import plugins
from ldm.command.grammar import ASIDE, HELP, at_home, given_folders, left_open
from ldm.command.words import heard

OPEN = "to be given"

_ROOT = Path(__file__).parents[1]
CONF = next(folder for folder in (_ROOT / "conf", _ROOT.parent / "conf") if folder.is_dir())
"""The words: in the package where it was built as a wheel, beside it in a checkout."""


class Words(SearchPathPlugin):
    """Hydra finds the words of plugins, and in help those of `--config-dir`, after our own."""

    given: ClassVar[Sequence[str]] = ()

    @classmethod
    def register(cls, given: Sequence[str] = ()) -> None:
        """From here on Hydra finds them, and those in the folders given."""
        cls.given = given
        Plugins.instance().register(cls)

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for owner, folder in {**plugins.confs(), **{folder: Path(folder) for folder in self.given}}.items():
            search_path.append(owner, f"file://{folder.absolute()}")


def begin(words: Sequence[str], entry: str = "config") -> None:
    """Hear the words that `sys.argv` then has; ends the process where one is wrong, and after help where that is asked for."""
    if ASIDE & set(words):  # nothing is run, and an answer ends where its reader does, as `head` of a pipe
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.argv[1:] = heard(words, CONF, entry)
    Words.register()
    if HELP & set(sys.argv):
        from ldm.command.help import help_text

        Words.register(given_folders(sys.argv))
        try:
            print(help_text(sys.argv[1:], CONF, entry, lambda words: composed(CONF, entry, words)))
        except KeyError as error:
            sys.exit(error.args[0])
        sys.exit(0)


def by_hydra(entry: str, work: Callable[[DictConfig], Any]) -> None:
    """Do what the words of `sys.argv` describe; in a sweep of Hydra's, what `work` returns is the job's value."""

    @hydra.main(config_path=str(CONF), config_name=entry, version_base="1.3")
    def main(config: DictConfig) -> Any:
        try:
            return work(config)
        except InterpolationResolutionError as error:  # of a value without the part that another word is taken from
            said = str(error).partition("\n")[0].removeprefix("ConfigTypeError raised while resolving interpolation: ")
            where = f"{error.full_key}: " if error.full_key else ""
            sys.exit(f"{where}a word refers to another, in which there is no such thing: {said}")

    main()


def composed(conf: Path, entry: str, words: Sequence[str]) -> dict[str, Any]:
    """The plain config that words make; what it leaves to be given says so."""
    with hydra.initialize_config_dir(str(conf.resolve()), version_base="1.3"):
        config = hydra.compose(entry, list(words))
    for key in left_open(OmegaConf.to_container(config, resolve=False)):
        OmegaConf.update(config, key, OPEN)
    return at_home(OmegaConf.to_container(config, resolve=True))


def trainable(config: DictConfig, words: Sequence[str]) -> dict[str, Any]:
    """The plain config of a run, as `checked`, of which every part has its use (`ldm.command.follow`).

    Arguments:
        words: that were typed.
    """
    from ldm.command.follow import follow, idle, limited_twice
    from ldm.signature import PIECES

    follow(config, words)
    wrong = idle(config, words) or limited_twice(config, words)
    if wrong:
        sys.exit(wrong)
    return checked(config, PIECES)


def checked(config: DictConfig, leave: Sequence[str] = ()) -> dict[str, Any]:
    """The plain config; ends the process where it cannot be right. The plugins of its classes are named from here on: users
    who say a plugin's word want it to run.

    Arguments:
        leave: parts that are there for others to refer to, and left out once they have.
    """
    from ldm.signature import check

    missing = left_open(OmegaConf.to_container(config, resolve=False))
    if missing:
        sys.exit(f"to be given: {' '.join(f'{key}=...' for key in missing)}")
    plain = at_home(OmegaConf.to_container(config, resolve=True))
    try:
        plain = {key: value for key, value in plain.items() if key not in leave}
        plugins.name(plugins.needed(plain))
        check(plain)
    except ValueError as error:
        sys.exit(str(error))
    return plain
