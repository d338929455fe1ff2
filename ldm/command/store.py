"""`ldm store list`: what is in a store, how large, and which runs need it. `ldm store clean`: remove what none needs."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from ldm.files import in_units
from ldm.run import inventory
from ldm.run.inventory import Entry, Inventory

_WIDTH = 80


def main(words: Sequence[str]) -> int:
    """Do what the words say; the exit code."""
    about = "First stages and latents that runs share: what is there, and what no run needs."
    parser = argparse.ArgumentParser("ldm store", description=about)
    own = parser.add_subparsers(metavar="WHAT", required=True)
    listing = own.add_parser("list", help="what is there, how large, made when and of what, needed by which runs")
    cleaning = own.add_parser("clean", help="say what no run needs; with --yes, remove it")
    for each, act in ((listing, show), (cleaning, clean)):
        each.add_argument("--store", type=Path, default=Path("runs/store"), help="its folder (runs/store)")
        each.add_argument(
            "--runs",
            type=Path,
            nargs="+",
            default=[],
            help="folders with runs that were moved, or are not below its own",
        )
        each.set_defaults(act=act)
    cleaning.add_argument("--yes", action="store_true", help="remove, and do not only say")
    chosen = parser.parse_args(list(words))
    try:
        return chosen.act(chosen)
    except (OSError, ValueError) as error:
        print(f"ldm: {error}", file=sys.stderr)
        return 1


def show(chosen: argparse.Namespace) -> int:
    """Print what is in the store."""
    found = inventory.take(chosen.store, _roots(chosen))
    for entry in found.entries:
        _print_entry(entry)
    _say(f"{chosen.store}: {_number(found.entries)}, {in_units(sum(entry.size for entry in found.entries))}")
    _print_runs(found)
    return 0


def clean(chosen: argparse.Namespace) -> int:
    """Print what no run needs and, where it was confirmed, remove it."""
    found = inventory.take(chosen.store, _roots(chosen))
    _print_runs(found)
    if found.silent:
        _say("Nothing is removed.")
        return 1
    freed = 0
    for entry in found.removable:
        if not chosen.yes:
            _print_entry(entry)
            freed += entry.size
        elif inventory.remove(chosen.store, entry, _roots(chosen)):
            _say(f"removed {entry.name}, {in_units(entry.size)}")
            freed += entry.size
        else:
            _say(f"kept {entry.name}: a process is using it")
    if not found.removable:
        _say(f"{chosen.store}: every artifact is needed by a run; nothing to remove")
    else:
        done = "removed" if chosen.yes else f"no run needs these: {_number(found.removable)}"
        _say(f"{done}, {in_units(freed)}" + ("" if chosen.yes else "; --yes removes them"))
    return 0


def _roots(chosen: argparse.Namespace) -> list[Path]:
    """Where runs are looked for: beside the store, as runs/store lies, and where the user says."""
    for root in chosen.runs:
        if not root.is_dir():
            raise FileNotFoundError(f"--runs {root}: no such folder")
    return [chosen.store.resolve().parent, *chosen.runs]


def _print_entry(entry: Entry) -> None:
    print(f"{entry.name}{'' if entry.whole else ' (not whole)'}")
    _say(f"{in_units(entry.size)}, {entry.made:%Y-%m-%d %H:%M}, {entry.what}", "  ")
    _say(f"needed by {', '.join(map(str, entry.users))}" if entry.users else "needed by no run", "  ")


def _print_runs(found: Inventory) -> None:
    for run in found.gone:
        _say(
            f"{run}: no run is there any more. If it was deleted, it needs nothing; if it was moved, name the folder where "
            "it is now by --runs"
        )
    for run in found.silent:
        _say(
            f"{run}: does not say what it needs of the store (a run of an older ldm, or its needs.json is damaged), so all "
            "of it may be needed. Its command, given once more, makes it say so; or remove the run"
        )


def _number(entries: tuple[Entry, ...]) -> str:
    return f"{len(entries)} artifact{'' if len(entries) == 1 else 's'}"


def _say(text: str, indent: str = "") -> None:
    print(textwrap.fill(text, _WIDTH, initial_indent=indent, subsequent_indent=indent + "  ", break_on_hyphens=False))
