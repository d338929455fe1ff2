"""`ldm demo run=DIR`: a page to try a finished run's model on, in a browser.

ldm demo run=runs/quickstart                    a page for this machine alone
ldm demo run=runs/first against=runs/second     with a tab that compares them
ldm demo run=runs/first host=0.0.0.0 port=8000  for others in the network, too
"""

from __future__ import annotations

import argparse
import logging
import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import yaml
from pydantic import Field, PositiveFloat, PositiveInt

from ldm.build import Config, typed
from ldm.command.grammar import undashed
from ldm.files import read_text
from ldm.nearest import nearest

_WORDS = {
    "run": "a finished run's directory, or its model/; or a name on the Hugging Face hub",
    "against": "another run, to draw the same by both",
    "images": "a file or a folder of images to fill in; without it the run's held-out ones, where its data are there",
    "host": "who sees the page: 127.0.0.1, this machine alone, unless another address of it is named",
    "port": "of the page; by default the first free one from 7860 on",
    "most": "images at once (16)",
    "steps": "most steps of a sampler (200)",
    "seconds": "most seconds of one drawing (60)",
    "waiting": "visitors that may wait in the queue (16)",
    "weights": "average, raw or best (average)",
    "device": "auto, cpu, cuda:1 (auto)",
    "plugins": "packages whose code the run needs and you trust, as plugins=mynets,others",
}


def main(words: Sequence[str]) -> int:
    """Do what the words say; the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for name in ("httpx", "httpcore", "asyncio"):  # which tell of each request
        logging.getLogger(name).setLevel(logging.WARNING)
    told = "\n".join(_told(name, text) for name, text in _WORDS.items())
    parser = argparse.ArgumentParser(
        "ldm demo",
        description=__doc__,
        epilog=f"words:\n{told}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("words", nargs="+", metavar="WORD=VALUE")
    try:
        return demo(**typed(demo, given(parser.parse_args([*map(undashed, words)]).words)))
    except (OSError, ValueError, ImportError) as error:
        print(f"ldm: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0


def given(words: Sequence[str]) -> dict[str, str]:
    """The words by their names; ValueError for one that is not there, is told twice or has no value."""
    found: dict[str, str] = {}
    for word in words:
        name, is_, value = word.partition("=")
        if not is_:
            raise ValueError(f"{word}: a word is NAME=VALUE, as run={word}")
        if name not in _WORDS:
            raise ValueError(f"{name}=: no such word{nearest(name, _WORDS)}")
        if name in found or not value:
            raise ValueError(
                f"{name}= {'is told twice' if name in found else 'has no value: leave it out or give one'}"
            )
        found[name] = value
    if "run" not in found:
        raise ValueError("no run is named: give run=DIR, a finished run's directory")
    return found


def demo(
    run: str,
    against: str | None = None,
    images: str | None = None,
    host: str = "127.0.0.1",
    port: Annotated[int, Field(ge=1, le=65535)] | None = None,
    most: PositiveInt = 16,
    steps: PositiveInt = 200,
    seconds: PositiveFloat = 60.0,
    waiting: PositiveInt = 16,
    weights: Literal["average", "raw", "best"] = "average",
    device: str = "auto",
    plugins: str = "",
) -> int:
    """Show a page of a run until it is ended; the exit code."""
    _check_gradio()
    from ldm.demo.held_out import examples
    from ldm.demo.limits import Limits
    from ldm.demo.offer import offered
    from ldm.demo.page.window import quiet, serve, window
    from ldm.demo.studio import Studio

    limits = Limits(most, steps, seconds, waiting)
    trusted = tuple(filter(None, plugins.split(",")))
    runs = [run] if against is None else [run, against]
    first, *others = (Studio(offered(each, weights, device, trusted, samplers(), limits), limits) for each in runs)
    shown = examples(run, images, first.offer.model.image_shape)
    quiet()
    page = window(first, others[0] if others else None, shown)
    print(f"the page of {first.offer.name} is at {serve(page, limits, host, port)} (Ctrl-C ends it)", flush=True)
    page.block_thread()
    return 0


def _check_gradio() -> None:
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise ImportError("ldm demo needs gradio: pip install 'ldm[demo]'") from error


def samplers() -> Mapping[str, Config]:
    """The nodes of the samplers, by their words."""
    from ldm.command.compose import CONF

    files = sorted((CONF / "diffusion" / "sampler").glob("*.yaml"))
    return {file.stem: yaml.safe_load(read_text(file)) for file in files}


def _told(name: str, text: str) -> str:
    """A word's line of the help, or lines, within 80 columns."""
    first = f"  {name + '=':10}"
    return textwrap.fill(text, 79, initial_indent=first, subsequent_indent=" " * len(first), break_on_hyphens=False)
