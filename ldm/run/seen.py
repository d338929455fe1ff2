"""Which feature networks the losses of a model saw, by what its training says of itself.

A distance in the features of a network by which a loss has compared images can become small without better images: trained on
the Fréchet distance itself, a generator goes below the FID of real images and not below other distances (Yang et al. 2026). So a
record names these networks, and a distance in their features is no headline.

Sources:
    Yang et al., Representation Fréchet Loss for Visual Generation (2026), arXiv 2604.28190
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ldm.alignment.maps import Sees
from ldm.build import ConfigError, is_node, resolve

GIVEN = "unknown, of a given first stage"
_LEARNS_BY = ("loss", "alignment")


def networks_seen(made_from: Mapping[str, Any]) -> list[str]:
    """The names of the networks, in order; `GIVEN` among them where a first stage was taken from elsewhere, whose losses
    nobody knows here.

    Arguments:
        made_from: of a model (`LatentModel.made_from`).
    """
    found = set[str]()
    for stage in ("first", "second"):
        for entry in made_from.get(stage) or ():
            settings = entry["settings"]
            for part in _LEARNS_BY:
                found |= set(_named(settings.get(part)))
            if stage == "first" and "checkpoint" in (settings.get("autoencoder") or {}):
                found.add(GIVEN)
    return sorted(found)


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
