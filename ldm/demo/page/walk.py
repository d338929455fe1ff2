"""The tab that walks from one image to another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from ldm.demo.frame import Frame
from ldm.demo.page import bench
from ldm.demo.page.controls import NO_CLASS, Controls, given, seed
from ldm.demo.studio import Studio
from ldm.demo.view import cannot


def walk(studio: Studio) -> None:
    """Build the tab where it stands."""
    offer, own = studio.offer, Controls()
    if offer.no_walk:
        gr.HTML(cannot(offer.no_walk))
        return
    with gr.Row(elem_classes="bench"):
        with bench.ask():
            own.ask(offer)
            own.seed("From seed")
            other = given(offer, "To class" if offer.asks == "label" else "To prompt") or gr.State("")
            last = seed("To seed", 1)
            own.count(9, 2, studio.limits, "Frames")
            begin, end = bench.buttons("Walk")
        shown = bench.view("A walk through images comes here, from what one seed draws to what the other does.")
        with bench.dials():
            own.dials(offer)

    def frames(to: Any, to_seed: Any, *values: Any) -> Iterator[Frame]:
        yield from studio.walk(own.request(values), "" if to == NO_CLASS else to, to_seed)

    bench.joined(begin, end, frames, [other, last, *own.inputs], shown)
