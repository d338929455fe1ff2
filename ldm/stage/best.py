"""The best weights so far: the averaged ones of the evaluation in training at which a metric was best.

They are part of the stage's state. So a run that goes on from a checkpoint has the best of the updates before it and of no other,
also where it was killed just after a better one, and they are checked as all of a checkpoint is. In the end they are a file of
their own, `model/best.safetensors`, which stays when checkpoints go.

The best of k noisy numbers is better than the truth about it by about the noise; whoever compares runs measures the weights that
were kept again, on more samples.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ldm.model import LatentModel, write_weights
from ldm.ranks import agree, rank
from ldm.report.quantity import lower_is_better
from ldm.resolve import ConfigError
from ldm.stage.sharding import gathered

log = logging.getLogger(__name__)


class Best:
    """The weights with the best value of one metric.

    Arguments:
        metric: by which it is judged; ValueError where it is not known which way that is better.

    Attributes:
        facts: `metric`, `value`, `updates`, `images` of the best evaluation; empty before the first.
        weights: its averaged weights, by their names.
    """

    def __init__(self, metric: str):
        self.metric, self._sign = metric, 1 if lower_is_better(metric) else -1
        self.facts: dict[str, Any] = {}
        self.weights: dict[str, Any] = {}

    def check(self, values: Mapping[str, float]) -> None:
        """ConfigError where the metric is not among those that were measured."""
        if self.metric not in values:
            raise ConfigError(
                f"second.keep_best={self.metric} is not measured in training: there are {', '.join(sorted(values)) or 'none'}"
            )

    def offer(self, module: nn.Module, values: Mapping[str, float], updates: int, images: int) -> None:
        """Keep the weights of `module`, which are averaged now, where they are the best so far."""
        value = values.get(self.metric, math.nan)
        if math.isnan(value) or (self.facts and self._sign * value >= self._sign * self.facts["value"]):
            return  # left out, not a number, or no better
        self.facts = {"metric": self.metric, "value": value, "updates": updates, "images": images}
        self.weights = {name: _copy(value) for name, value in module.state_dict().items()}
        log.info("update %d is the best so far: %s %.4g", updates, self.metric, value)

    def state_dict(self) -> dict[str, Any]:
        """The state for a checkpoint."""
        return {"facts": self.facts, "weights": self.weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state; that of another metric is left behind, with a warning."""
        facts = state.get("facts", {})
        if facts and facts["metric"] != self.metric:
            log.warning("the best so far was kept by %s, and from here on by %s alone", facts["metric"], self.metric)
            return
        self.facts, self.weights = dict(facts), {name: _copy(value) for name, value in state.get("weights", {}).items()}


def save_best(best: Best | None, model: LatentModel, folder: Path) -> None:
    """Write the best weights of a model whose training has ended into its folder, and their facts into what the model was made
    from; where there are none, none stay there of a training before. A collective call."""
    file = folder / "best.safetensors"
    if best is None or not best.facts:
        agree(lambda: file.unlink(missing_ok=True))
        return
    model.made_from["best"] = best.facts
    weights = gathered(dict(model.state_dict()) | best.weights, keep=rank() == 0)
    agree(lambda: write_weights(weights, file))


def _copy(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value
