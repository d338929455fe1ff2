"""The tab that draws the same by two runs, from one seed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from ldm.demo.frame import Frame
from ldm.demo.offer import alike, noise_shared
from ldm.demo.page import bench
from ldm.demo.page.controls import Controls
from ldm.demo.studio import Studio, beside
from ldm.demo.view import cannot


def pair(first: Studio, second: Studio) -> None:
    """Build the tab where it stands."""
    own, why = Controls(), alike(first.offer, second.offer)
    if why:
        gr.HTML(cannot(why))
        return
    with gr.Row(elem_classes="bench"):
        with bench.ask():
            own.ask(second.offer if first.offer.asks == "nothing" else first.offer)
            own.count(4, 1, first.limits, "Images")
            begin, end = bench.buttons("Draw both")
        shown = bench.view(
            f"The same of {first.offer.name} and {second.offer.name}. {noise_shared(first.offer, second.offer)}"
        )
        with bench.dials():
            own.seed()

    def frames(*values: Any) -> Iterator[Frame]:
        yield from beside(first, second, own.request(values))

    bench.joined(begin, end, frames, own.inputs, shown, own.parts.get("given"))
