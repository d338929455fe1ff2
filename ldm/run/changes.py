"""What has changed in a config since its run began, and whether the run may go on with it.

The same command goes on where it stopped. More steps, other devices, workers, loggers or metrics change nothing of what
was computed; another learning rate does, but is what one wants after a divergence, and is told. Another model, loss, data
set or seed would make a run that is neither, under a name that says it is one: refused.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ldm.build import Config, ConfigError

log = logging.getLogger(__name__)

_ANYWHERE = (
    "trainer",
    "logger",
    "metric",
    "evaluation",
    "runs",
    "store",
    "name",
    "rank_timeout",
    "backbone",
    "diffusion",
)
_SAMPLING = tuple(f"prior.{name}" for name in ("sampler", "grid", "guidance", "steps"))
_FREE = (*_ANYWHERE, *_SAMPLING, "first.steps", "second.steps")
_FREE_ENDINGS = ("root", "workers", "cache", "max_bad", "val_batch_size")
_FREE_ENDINGS += ("log_every", "validate_every", "picture_every", "save_every", "patience")
_TOLD = ("first", "second", "cache_latents")  # changes what is computed from here on, as the user will know
_SHOWN = 5


def check(old: Config, new: Config, run: Path) -> None:
    """ConfigError where the run `run` cannot go on with `new`; a warning where it computes something else from here."""
    refused, told = [], []
    for key, before, after in differences(old, new):
        if _below(key, _FREE) or key.split(".")[-1] in _FREE_ENDINGS:
            continue
        (told if _below(key, _TOLD) else refused).append(f"{key}={after} (was {before})")
    if refused:
        more = f" and {len(refused) - _SHOWN} more" if len(refused) > _SHOWN else ""
        raise ConfigError(
            f"{run} was begun with another config: {'; '.join(refused[:_SHOWN])}{more}. Take another name=, or the "
            "words that it was begun with"
        )
    if told:
        log.warning("goes on with other settings than it was begun with: %s", "; ".join(told))


def differences(old: Any, new: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(dotted key, old value, new value) of every leaf that differs; None where there is none, and so is an empty node, as
    of a group that a run was begun without."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted(old.keys() | new.keys()):
            yield from differences(old.get(name), new.get(name), f"{key}.{name}" if key else str(name))
    elif old != new and not (old in (None, {}) and new in (None, {})):
        yield key, old, new


def _below(key: str, places: tuple[str, ...]) -> bool:
    return any(key == place or key.startswith(f"{place}.") for place in places)
