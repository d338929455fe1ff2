"""What a run's page offers: how its model is asked, which controls move it, and what it cannot do, in a sentence each.

All of it is read off the model and its config: what guidance means are the words of the run's own guidance, and why a thing
cannot be done is what the task says that would do it.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from ldm.api import Model, load
from ldm.build import Config, described, is_node
from ldm.demo.limits import Limits
from ldm.demo.walk import check_walk
from ldm.model import Weights
from ldm.prior.base import Gradual
from ldm.run.load import check_trained, scaled
from ldm.run.machine import device_of
from ldm.signature import declared
from ldm.task.inpaint import Inpaint
from ldm.task.tools.hole import Drawn

Asks = Literal["caption", "label", "nothing"]

MOST_GUIDANCE = 20.0


@dataclass(frozen=True)
class Dial:
    """A number that a visitor may set.

    Fields:
        value: the run's own.
        low, high: its limits.
        meaning: what it does, in a sentence.
    """

    value: float | int
    low: float | int
    high: float | int
    meaning: str


class Offer:
    """What a page offers of a model.

    Arguments:
        model: a trained one.
        name: what the page calls it.
        samplers: nodes of samplers by their words, of which a diffusion may take one.
        limits: of a visitor.

    Attributes:
        asks: what an image is drawn for.
        classes: the names of its labels, or their numbers; empty where it asks for none.
        steps, guidance: dials; None where the prior has none of the kind.
        samplers: by word; empty where the prior has no sampler. `own` is the run's, in a word.
        gradual: whether a sample can be watched while it forms.
        no_fill, no_walk: why it cannot do these; None where it can.
    """

    def __init__(self, model: Model, name: str, samplers: Mapping[str, Config], limits: Limits):
        own = model.model
        self.model, self.name, self.limits = model, name, limits
        self.asks: Asks = "caption" if "caption" in own.condition.needs else _label(own.condition.needs)
        self.classes = _classes(model) if self.asks == "label" else ()
        node, kinds = own.config["prior"], own.prior.DRAWING
        self.steps = _steps(node, own.prior.steps, limits.steps) if "steps" in kinds else None
        self.guidance = _guidance(node, own.condition.drop) if "guidance" in kinds and self.asks != "nothing" else None
        self.samplers = dict(samplers) if "sampler" in kinds else {}
        self.own = described(node["sampler"]) if "sampler" in kinds and is_node(node.get("sampler")) else ""
        self.gradual = isinstance(own.prior, Gradual)
        self.no_fill, self.no_walk = _cannot_fill(model), check_walk(own)

    @property
    def about(self) -> str:
        """The model in a line."""
        channels, height, width = self.model.image_shape
        given = {"caption": "of a text", "label": f"of {len(self.classes)} classes", "nothing": "of no condition"}
        colours = {1: "grey ", 3: "", 4: "transparent "}[channels]
        return (
            f"{type(self.model.model.prior).__name__}: {colours}images of {width} × {height} pixels, {given[self.asks]}"
        )


def offered(
    run: str, weights: Weights, device: str, plugins: Sequence[str], samplers: Mapping[str, Config], limits: Limits
) -> Offer:
    """What a page offers of a run by its directory, or a name on the hub; ValueError where its prior was not trained."""
    model = load(run, weights, device=device_of(device), plugins=plugins)
    check_trained(model.model, run)
    return Offer(model, Path(run).resolve().name if Path(run).exists() else run, samplers, limits)


def _label(needs: tuple[str, ...]) -> Asks:
    return "label" if "label" in needs else "nothing"


def _classes(model: Model) -> tuple[str, ...]:
    return model.classes or tuple(str(number) for number in range(model.model.condition.classes))


def _meaning(node: Config, argument: str) -> str:
    """What the class of a node says about one of its arguments, as a sentence."""
    found = declared(node["_target_"])
    said = found.arguments[argument].doc if found is not None and argument in found.arguments else ""
    return f"{said[:1].upper()}{said[1:].rstrip('.')}." if said else ""


def _steps(node: Config, value: int, most: int) -> Dial:
    """The dial of steps, of those that the prior takes."""
    kind = declared(node["_target_"]).arguments["steps"].kind()
    chosen = [each for each in typing.get_args(kind) if isinstance(each, int)]
    return Dial(value, 1, max(chosen, default=max(most, value)), _meaning(node, "steps"))


def _guidance(node: Config, drop: float) -> Dial | None:
    """The dial of the innermost guidance that has a scale; none of a model that never learnt what it is without a condition,
    or whose guidance has no scale."""
    own = node.get("guidance", 1.0)
    if drop == 0:
        return None
    if not is_node(own):
        return Dial(float(own), 0, MOST_GUIDANCE, _meaning(node, "guidance"))
    try:
        inner = scaled(own)
    except ValueError:
        return None
    return Dial(float(inner.get("scale", 1.0)), 0, MOST_GUIDANCE, _meaning(inner, "scale"))


def _cannot_fill(model: Model) -> str | None:
    """Why no hole can be filled in, as the task says it."""
    _, height, width = model.image_shape
    hole = torch.zeros(height, width)
    hole[0, 0] = 1
    try:
        Inpaint(Drawn(hole, "a mask")).check(model.model)
    except ValueError as error:
        return str(error)
    return None


def alike(first: Offer, second: Offer) -> str | None:
    """Why two models cannot be asked for the same; None where they can."""
    if {first.asks, second.asks} == {"caption", "label"}:
        return f"{first.name} is asked by a {first.asks} and {second.name} by a {second.asks}: the same cannot be asked of both."
    if first.asks == second.asks == "label" and first.classes != second.classes:
        return f"The classes of {first.name} are not those of {second.name}, so the same cannot be asked of both."
    return None


def noise_shared(first: Offer, second: Offer) -> str:
    """What the same seed means for two models, in a sentence."""
    a, b = first.model.model.prior, second.model.model.prior
    if a.latents.shape == b.latents.shape and first.gradual and second.gradual:
        return "Both begin from the same noise."
    return "They share the seed, but not the noise that they begin from: their priors or their latents are of different kinds."
