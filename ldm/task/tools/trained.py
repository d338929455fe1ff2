"""Tasks on a part of each image, by a model that was trained for them: a sample of p(x | c), with c what is given.

Which of two ways a task goes follows from what the run is: with the condition that the task is about, the model draws by that, by
any prior that takes such a condition; without it, or where a method is named (`diffusion/posterior=`), the denoiser of any
diffusion is bent to what is given (ldm.task.tools.inverse).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from ldm.condition.spatial import Spatial
from ldm.model import LatentModel
from ldm.task.base import Task
from ldm.task.tools.inverse import Method

Condition = TypeVar("Condition", bound=Spatial)


def trained(model: LatentModel, kind: type[Condition], posterior: Method | None) -> Condition | None:
    """The model's condition of this kind, by which a task is done; None where it is done by a method."""
    return None if posterior is not None else model.condition.find(kind)


def named(condition: Spatial | None, posterior: Method) -> str:
    """The way as records name it: `condition=masked`, or `diffusion/posterior=mmps`."""
    if condition is not None:
        return f"condition={type(condition).__module__.rpartition('.')[2]}, which the run was trained with"
    return f"diffusion/posterior={_kind(posterior).__name__.lower()}, without training for it"


def check_free(task: Task, condition: Spatial, words: Mapping[str, Any]) -> None:
    """ValueError where words of a method are given, by name, and the task is done by a trained condition."""
    for name, value in words.items():
        if value is not None:
            raise ValueError(
                f"task.{name}= is of a method without training, and this run was trained for task={task.word} "
                f"({type(condition).__name__}); leave it out, or name the method: diffusion/posterior=mmps"
            )


def _kind(posterior: Method) -> type:
    return posterior if isinstance(posterior, type) else posterior.func
