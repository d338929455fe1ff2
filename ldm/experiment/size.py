"""How much disk a run will have taken when both of its stages have been trained."""

from __future__ import annotations

from collections.abc import Callable

from ldm.alignment.alignment import Alignment
from ldm.build import build
from ldm.experiment.planning import Planning
from ldm.run.footprint import Footprint
from ldm.run.store import key_of
from ldm.stage.file_sizes import of_stage
from ldm.stage.first import First
from ldm.stage.latents import cache_size, weights_key
from ldm.stage.provenance import Plan
from ldm.tensors import size_of


def footprint(
    planning: Planning, first: Plan, second: Plan, alignment: Alignment | None, new_first: Callable[[], First]
) -> Footprint:
    """Of the run that is planned.

    Arguments:
        first, second: how the stages come to be.
        alignment: that is trained along with the second, if any.
        new_first: makes the first stage, where that is to be trained.
    """
    model, store = planning.model, planning.store
    stages, shared = [], {"first stage": 0, "latents": 0}
    weights = None
    if not planning.trains["first"]:
        weights = weights_key(model.autoencoder)
    else:
        found = store.find("autoencoder", key_of(first.history))
        if found is None:
            shared["first stage"] = size_of(model.autoencoder.state_dict())
        else:
            weights = store.description(found)["weights"]
        if found is None or first.updates:
            stage = new_first()
            trained = {"autoencoder": stage.autoencoder, "loss": stage.loss}
            stages.append(of_stage(trained, {"autoencoder": stage.autoencoder}, stage.recipe, first.history))
    if planning.trains["second"]:
        networks = {"condition": model.condition, "prior": model.prior}
        along = {"alignment": alignment, "beside": model.prior.beside()}
        trained = networks | {name: module for name, module in along.items() if module is not None}
        stages.append(of_stage(trained, networks, build(planning.config["second"], "second"), second.history))
        if planning.caches():
            shared["latents"] = cache_size(
                *(model.autoencoder, planning.data, store, weights, alignment, model.prior.reads)
            )
    own = {
        "checkpoints": sum(each.checkpoints for each in stages),
        "snapshots": sum(each.snapshots for each in stages),
        "model": size_of(model.state_dict()) * _copies(planning),
    }
    return Footprint(own, shared, max(each.checkpoint for each in stages) if stages else 0)


def _copies(planning: Planning) -> int:
    """How often a model's weights are saved: averaged and, of a second stage that is trained, raw, and perhaps the best."""
    if not planning.trains["second"]:
        return 1
    return 2 if planning.config["second"].get("keep_best") is None else 3
