"""The tab that draws images from noise."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from ldm.demo.frame import Frame
from ldm.demo.page import bench
from ldm.demo.page.controls import Controls
from ldm.demo.studio import Studio


def draw(studio: Studio) -> None:
    """Build the tab where it stands."""
    offer, own = studio.offer, Controls()
    with gr.Row(elem_classes="bench"):
        with bench.ask():
            own.ask(offer)
            own.count(4, 1, studio.limits, "Images")
            begin, end = bench.buttons("Draw")
        shown = bench.view(
            "Images form here, step by step: what the model expects of the noise that is left."
            if offer.gradual
            else "Images come here. This prior draws at once, so there is nothing to see before they are there."
        )
        with bench.dials():
            own.seed()
            own.dials(offer)

    def frames(*values: Any) -> Iterator[Frame]:
        yield from studio.draw(own.request(values))

    bench.joined(begin, end, frames, own.inputs, shown, own.parts.get("given"))
