"""The arrangement that all tabs share: what is asked, pictures, and dials; and a button that begins, and one that ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gradio as gr

from ldm.demo.answers import answers
from ldm.demo.frame import Frame
from ldm.demo.view import invited


def ask() -> gr.Column:
    """Where what is asked stands."""
    return gr.Column(elem_classes="ask")


def dials() -> gr.Column:
    """Where it is said how it is drawn; below the pictures on a phone."""
    return gr.Column(elem_classes="dials")


def buttons(word: str) -> tuple[gr.Button, gr.Button]:
    """One that begins and one that ends."""
    with gr.Row():
        return gr.Button(word, variant="primary", min_width=120), gr.Button("Stop", min_width=70, scale=0)


def view(text: str) -> gr.HTML:
    """Where pictures come; before there are any, what is to be done."""
    with gr.Column(elem_classes="view"):
        return gr.HTML(invited(text))


def joined(
    begin: gr.Button,
    end: gr.Button,
    frames: Callable[..., Iterator[Frame]],
    inputs: Sequence[gr.components.Component],
    shown: gr.HTML,
    enter: gr.components.Component | None = None,
) -> None:
    """Let a button, or the key Enter in a text, show what comes of the inputs; one drawing at a time, over all tabs and
    visitors."""

    words: dict[str, Any] = {"show_progress": "minimal", "api_visibility": "private", "trigger_mode": "once"}
    words |= {"concurrency_id": "model", "concurrency_limit": 1}
    begins = [begin.click] + ([enter.submit] if isinstance(enter, gr.Textbox) else [])
    # Gradio streams what is a generator function and no other; a lambda stays one where tests wrap functions to check types.
    events = [
        event(lambda *values: (yield from answers(lambda: frames(*values))), list(inputs), shown, **words)
        for event in begins
    ]
    end.click(None, None, None, cancels=events, api_visibility="private")
