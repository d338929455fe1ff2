"""`ldm report RUNS`: run directories against each other, as a page, tables and a verdict.

ldm report runs/a runs/b                        two runs
ldm report 'runs/sweep/*' by=prior              those of a sweep, averaged over all but the prior
ldm report runs/sweep compare=vae,ddpm out=DIR  two settings of it, written to DIR
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from ldm.command.grammar import undashed
from ldm.files import folder
from ldm.nearest import nearest
from ldm.report.collection import collect
from ldm.report.several import Several, several
from ldm.report.written import FILES, write

_WORDS = {
    "by": "settings are what differs in these keys, as by=prior,second.optimizer.lr; left out, all that differs but seeds",
    "compare": "two settings, or a run of each, to compare with an interval: compare=A,B",
    "out": "folder of the files (report)",
    "logger": "logger=wandb sends tables and page there, too",
}


def main(words: Sequence[str]) -> int:
    """Do what the words say; the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    told = "\n".join(f"  {name + '=':10}{text}" for name, text in _WORDS.items())
    parser = argparse.ArgumentParser(
        "ldm report",
        description=__doc__,
        epilog=f"words:\n{told}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("words", nargs="+", metavar="RUN|WORD=VALUE", help="run directories, folders of them, patterns")
    try:
        return _report(parser.parse_args([*map(undashed, words)]).words)
    except (OSError, ValueError) as error:
        print(f"ldm: {error}", file=sys.stderr)
        return 1


def _report(words: Sequence[str]) -> int:
    given = {key: value for key, is_, value in (word.partition("=") for word in words if _is_word(word)) if is_}
    for key in given.keys() - _WORDS.keys():
        raise ValueError(f"{key}=: no such word{nearest(key, _WORDS)}")
    by, pair = (given.get(key, "").split(",") if given.get(key) else [] for key in ("by", "compare"))
    if pair and len(pair) != 2:
        raise ValueError(f"compare={given['compare']}: two are compared, as compare=A,B; {len(pair)} came")
    if given.get("logger", "wandb") not in ("wandb", "none"):
        raise ValueError(f"logger={given['logger']}: a report goes to wandb or to none")
    if given.get("out") == "":
        raise ValueError("out=: a folder is wanted, and nothing came")
    place = folder(Path(given.get("out", "report")))
    collection = collect(word for word in words if not _is_word(word))
    if not collection.runs:
        said = "; ".join(f"{name}: {why}" for name, why in collection.left_out)
        raise ValueError(f"no run was found, so there is nothing to report ({said or 'give a run directory'})")
    found = several(collection, by, pair)
    page = write(found, place)
    if given.get("logger") == "wandb":
        from ldm.logger.comparison import send

        send(found, place)
    say(found)
    print(f"written to {page} and {', '.join(FILES[1:])} beside it")
    return 0


def _is_word(word: str) -> bool:
    """Whether an argument is a word and not a path, which may have an equals sign in it."""
    key, is_, _ = word.partition("=")
    return bool(is_) and key.isidentifier() and not Path(word).exists()


def say(found: Several) -> None:
    """The verdict and what was left out, on the terminal."""
    print(found.title)
    for line in (found.pair_verdicts or found.verdicts)[:6]:
        print(f"  {line}")
    for name, why in found.collection.left_out:
        print(f"  left out: {name}: {why}")
