"""Which feature networks a model was made by: those that its losses saw, and the one that chose its weights among others.

A distance in the features of a network by which a loss has compared images can become small without better images: trained on
the Fréchet distance itself, a generator goes below the FID of real images and not below other distances (Yang et al. 2026). So a
record names these networks, and a distance in their features is no headline. The least of many noisy distances is too small,
too (`weights=best` of `second.keep_best=fd_NETWORK`), so a network that chose is named with them.

Sources:
    Yang et al., Representation Fréchet Loss for Visual Generation (2026), arXiv 2604.28190
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ldm.alignment.maps import Sees
from ldm.build import is_node
from ldm.resolve import ConfigError, resolve

GIVEN = "unknown, of a given first stage"
_LEARNS_BY = ("loss", "alignment")
_MEASURED_BY = re.compile(r"(?:fd|kd|fdr|precision|recall|density|coverage)_(.+)")
_OF_ONE_NETWORK = {
    **dict.fromkeys(("fid", "kid", "inception_score"), "inception_2015"),
    **dict.fromkeys(("label_accuracy", "classifier_score"), "classifier"),
}


def networks_seen(made_from: Mapping[str, Any]) -> list[str]:
    """The names of the networks, in order; `GIVEN` among them where a first stage was taken from elsewhere, whose losses
    nobody knows here.

    Arguments:
        made_from: of a model (`LatentModel.made_from`).
    """
    found = {_network_of(made_from["chosen_by"])} if made_from.get("chosen_by") else set[str]()
    for stage in ("first", "second"):
        for entry in made_from.get(stage) or ():
            settings = entry["settings"]
            for part in _LEARNS_BY:
                found |= set(_named(settings.get(part)))
            if stage == "first" and "checkpoint" in (settings.get("autoencoder") or {}):
                found.add(GIVEN)
    return sorted(found)


def _network_of(metric: str) -> str:
    """The network by whose features a metric goes; of another one its own name."""
    match = _MEASURED_BY.fullmatch(metric)
    return match[1] if match else _OF_ONE_NETWORK.get(metric, metric)


def _named(value: Any) -> Iterator[str]:
    """The networks that the nodes below a value name."""
    if is_node(value):
        try:
            family = resolve(value["_target_"], "loss")
        except ConfigError:  # of another version, or of a plugin that nobody has named
            yield str(value["_target_"])
        else:
            yield from family.sees(value) if issubclass(family, Sees) else ()
    below = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    for each in below:
        yield from _named(each)
