"""What the words prompt=, prompts= and label= of a command line ask for."""

from __future__ import annotations

from pathlib import Path

from ldm.files import read_text
from ldm.model import LatentModel
from ldm.task.tools.conditions import Conditions, conditions


def asked_for(
    model: LatentModel,
    prompt: str | None,
    prompts: str | None,
    label: str | int | None,
    n: int = 1,
    negative: str | None = None,
) -> Conditions:
    """`n` rows of each caption or of the label; ValueError where the model knows no such condition.

    Arguments:
        prompts: a file with a caption a line.
    """
    given = [name for name, value in (("prompt", prompt), ("prompts", prompts), ("label", label)) if value is not None]
    if len(given) > 1:
        raise ValueError(f"one kind of condition at a time; got {' and '.join(given)}")
    captions = None if prompt is None else [prompt]
    if prompts is not None:
        captions = _lines(prompts) if "caption" in model.condition.needs else []
    labels = None if label is None else [label]
    return conditions(model, captions, labels, n, negative, ("prompt" if prompts is None else "prompts", "label"))


def _lines(prompts: str) -> list[str]:
    """The captions of a file."""
    if not Path(prompts).exists():
        raise FileNotFoundError(f"prompts={prompts}: no such file; wanted one with a caption a line")
    lines = [line.strip() for line in read_text(Path(prompts)).splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"{prompts} holds no caption; wanted one a line")
    return lines
