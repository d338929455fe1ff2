"""The controls of a tab: those that the run's model has, and the request that their values make."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from ldm.demo.limits import SEEDS, Limits
from ldm.demo.offer import Dial, Offer
from ldm.demo.studio import Request

NO_CLASS = "no class"


@dataclass
class Controls:
    """Components by the fields of a request that they set; what a model has no control for stays as in the run."""

    parts: dict[str, gr.components.Component] = field(default_factory=dict)

    @property
    def inputs(self) -> list[gr.components.Component]:
        return list(self.parts.values())

    def request(self, values: Sequence[Any]) -> Request:
        """The request of these values, in the order of `inputs`."""
        found = dict(zip(self.parts, values, strict=True))
        if found.get("given") == NO_CLASS:
            found["given"] = ""
        return Request(**found)

    def ask(self, offer: Offer, nothing: bool = False) -> None:
        """For what an image is drawn; at first for nothing, or for the first class."""
        part = given(offer, "Class" if offer.asks == "label" else "Prompt", nothing)
        if part is not None:
            self.parts["given"] = part

    def count(self, value: int, low: int, limits: Limits, label: str) -> None:
        """How many images or frames."""
        high = max(limits.images, low + 1)
        self.parts["n"] = gr.Slider(low, high, min(value, high), step=1, label=label, buttons=[])

    def dials(self, offer: Offer, sampler: bool = True) -> None:
        """How an image is drawn."""
        if sampler and offer.samplers:
            choices = [(f"as in the run: {offer.own}", ""), *((word, word) for word in offer.samplers)]
            self.parts["sampler"] = gr.Dropdown(choices, value="", label="Sampler")
        if offer.steps is not None and offer.steps.high > 1:
            self.parts["steps"] = _slider(offer.steps, 1, "Steps")
        if offer.guidance is not None:
            self.parts["guidance"] = _slider(offer.guidance, 0.1, "Guidance")

    def seed(self, label: str = "Seed") -> None:
        """Where an image begins."""
        self.parts["seed"] = seed(label)


def given(offer: Offer, label: str, nothing: bool = False) -> gr.components.Component | None:
    """A control for the condition, at first of no class with `nothing`; None where images are of none."""
    if offer.asks == "caption":
        return gr.Textbox(label=label, placeholder="a text, or nothing", lines=2, max_lines=4)
    if offer.asks == "label":
        return gr.Dropdown([*offer.classes, NO_CLASS], value=NO_CLASS if nothing else offer.classes[0], label=label)
    return None


def seed(label: str, value: int = 0) -> gr.Number:
    """A number, with a button that takes another."""
    with gr.Row(elem_classes="seed"):
        number = gr.Number(value, precision=0, minimum=0, maximum=SEEDS, label=label, min_width=120)
        another = gr.Button("Another", size="sm", scale=0, min_width=90)
    another.click(lambda: random.randrange(10_000), None, number, queue=False, api_visibility="private")
    return number


def _slider(dial: Dial, step: float | int, label: str) -> gr.Slider:
    return gr.Slider(dial.low, dial.high, dial.value, step=step, label=label, info=dial.meaning or None, buttons=[])
