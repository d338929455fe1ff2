"""`ldm VERB ...`, or `python -m ldm VERB ...`. Nothing heavy is imported before a verb asks for it."""

from __future__ import annotations

import shutil
import signal
import sys
import textwrap
from collections.abc import Callable, Sequence

from ldm.nearest import nearest


def _train(words: Sequence[str]) -> int:
    """Train what a config describes: first stage, prior, numbers, report."""
    from ldm.command.verbs import train

    return train(words)


def _sample(words: Sequence[str]) -> int:
    """Images from a finished run."""
    from ldm.command.verbs import sample

    return sample(words)


def _apply(words: Sequence[str]) -> int:
    """Do something with images and a finished run's model: fill in, interpolate, edit, score, embed."""
    from ldm.command.verbs import apply

    return apply(words)


def _evaluate(words: Sequence[str]) -> int:
    """Measure a finished run again, with other samples, guidance, steps, weights or metrics."""
    from ldm.command.verbs import evaluate

    return evaluate(words)


def _export(words: Sequence[str]) -> int:
    """A finished run's model for other programs: a pipeline of diffusers, or programs of torch."""
    from ldm.command.verbs import export

    return export(words)


def _import(words: Sequence[str]) -> int:
    """A model of diffusers or CompVis as a run, to sample, measure and train on."""
    from ldm.command.verbs import import_model

    return import_model(words)


def _store(words: Sequence[str]) -> int:
    """First stages and latents that runs share: what is there, and what no run needs."""
    from ldm.command.store import main

    return main(words)


def _report(words: Sequence[str]) -> int:
    """Runs against each other, averaged over seeds: a page, tables and what follows from them."""
    from ldm.command.report import main

    return main(words)


def _demo(words: Sequence[str]) -> int:
    """A page to try a finished run's model on, in a browser."""
    from ldm.command.demo import main

    return main(words)


VERBS: dict[str, Callable[[Sequence[str]], int]] = {
    "train": _train,
    "sample": _sample,
    "apply": _apply,
    "evaluate": _evaluate,
    "export": _export,
    "import": _import,
    "store": _store,
    "report": _report,
    "demo": _demo,
}


def main(words: Sequence[str] | None = None) -> int:
    """Do what the words say; the exit code."""
    verb, *rest = (sys.argv[1:] if words is None else list(words)) or ["--help"]
    if words is None and verb not in VERBS.keys() - {
        "store"
    }:  # an answer ends where its reader does, as `head` of a pipe
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    if verb == "help" and rest:  # `ldm help train`
        verb, *rest = *rest, "--help"
    if verb in ("--help", "-h", "help"):
        print("usage: ldm VERB ...\n")
        print("\n".join(_line(name, does.__doc__ or "") for name, does in VERBS.items()))
        print("\n`ldm VERB --help` tells the words of a verb.")
        return 0
    if verb not in VERBS:
        print(f"ldm: {verb}: no such verb{nearest(verb, VERBS)}", file=sys.stderr)
        return 2
    return VERBS[verb](rest)


def _line(name: str, said: str) -> str:
    """A verb and what it does, in lines as wide as the terminal."""
    width = shutil.get_terminal_size((80, 24)).columns
    return textwrap.fill(said, width, initial_indent=f"  {name:10}", subsequent_indent=" " * 12)


if __name__ == "__main__":
    sys.exit(main())
