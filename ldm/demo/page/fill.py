"""The tab that fills in what is painted over."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import gradio as gr
import PIL.Image

from ldm.demo.frame import Frame
from ldm.demo.page import bench
from ldm.demo.page.controls import Controls
from ldm.demo.picture import enlarged
from ldm.demo.studio import Studio
from ldm.demo.view import cannot

_SIDE = 320  # pixels of the picture that is painted on, for a finger or a mouse


def fill(studio: Studio, examples: Sequence[PIL.Image.Image]) -> None:
    """Build the tab where it stands."""
    offer, own = studio.offer, Controls()
    if offer.no_fill:
        gr.HTML(cannot(offer.no_fill))
        return
    with gr.Row(elem_classes="bench"):
        with bench.ask():
            editor = _editor()
            if examples:
                turn = gr.State(0)
                take = gr.Button("Take a held-out image", size="sm")
                take.click(_taking(examples), turn, [editor, turn], queue=False, api_visibility="private")
            own.ask(offer, nothing=True)  # a class that the picture is not of would spoil it
            own.count(4, 1, studio.limits, "Images")
            begin, end = bench.buttons("Fill in")
        shown = bench.view("Upload a picture or take one, paint over a part of it, and see what the model puts there.")
        with bench.dials():
            own.seed()
            own.dials(offer, sampler=False)

    def frames(painted: dict[str, Any] | None, *values: Any) -> Iterator[Frame]:
        painted = painted or {}
        layers = [layer for layer in painted.get("layers") or () if layer is not None]
        yield from studio.fill(own.request(values), painted.get("background"), layers)

    bench.joined(begin, end, frames, [editor, *own.inputs], shown)


def _editor() -> gr.ImageEditor:
    return gr.ImageEditor(
        type="pil",
        image_mode="RGBA",
        format="png",
        sources=("upload", "clipboard"),
        transforms=(),
        layers=False,
        canvas_size=(_SIDE, _SIDE),
        brush=gr.Brush(default_size=28, colors=["#e0457b"], color_mode="fixed"),
        eraser=gr.Eraser(default_size=28),
        show_label=False,
        buttons=[],
        elem_classes="editor",
    )


def _taking(examples: Sequence[PIL.Image.Image]) -> Any:
    """Puts the next of the examples into the editor."""

    def take(turn: int) -> tuple[dict[str, Any], int]:
        picture = enlarged(examples[turn % len(examples)], _SIDE)
        return {"background": picture, "layers": [], "composite": picture}, turn + 1

    return take
