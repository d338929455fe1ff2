"""Measuring a finished run again, with other samples, guidance, steps, weights, metrics or a moved data set: more records, a
new report.

What is given of data, metrics and evaluation takes the place of the run's own, by the words of training; a record names by
its fingerprint the data that was measured on.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import PositiveInt

from ldm.build import Config, build, is_node, merged
from ldm.callback.measured import save_pictures
from ldm.condition.label import Label, listed
from ldm.data.module import DataModule
from ldm.metric.metric import Metric
from ldm.model import LatentModel, Weights
from ldm.plugins import name as name_plugins
from ldm.report import single
from ldm.resolve import PACKAGES, check_named
from ldm.run import record
from ldm.run.directory import RunDirectory, facts_of
from ldm.run.evaluation import Evaluation, record_facts
from ldm.run.load import Drawing, named, settings_of
from ldm.run.machine import device_of
from ldm.run.store import Store

log = logging.getLogger(__name__)


def measure_again(
    run: str,
    samples: PositiveInt | None,
    guidance: float | int | None,
    steps: int | None,
    seed: int | None,
    weights: Weights,
    ema: float | None,
    device: str,
    diffusion: dict[str, Any] | None = None,
    prior: dict[str, Any] | None = None,
    guide: str | None = None,
    guide_ema: float | None = None,
    data: dict[str, Any] | None = None,
    metric: dict[str, Any] | None = None,
    evaluation: dict[str, Any] | None = None,
    store: str | None = None,
    plugins: Sequence[str] = (),
    missing: bool = False,
) -> None:
    """Add records of a finished run, measured with other settings, and write its report anew.

    Arguments:
        samples, seed: of the evaluation; None as in the run, as all that follows.
        data, evaluation: arguments in the place of the run's.
        metric: so too, or nodes by name, which take the place of all of the run's.
        store: where metrics keep what they have learnt.
        plugins: packages whose code the run needs, and may run.
        missing: measure only where the run has no records yet of these weights, measured so.
    """
    name_plugins(plugins)
    own = {key: n for key, n in {"samples": samples, "seed": seed}.items() if n is not None}
    place, config = RunDirectory(Path(run)), _asked(run, (evaluation or {}) | own, metric or {})
    drawing = Drawing(diffusion, guidance, steps, prior, guide, guide_ema)
    measure: Evaluation = build(config["evaluation"], "evaluation", PACKAGES)
    measured: DataModule = build(_moved(config["data"], data or {}), "data", PACKAGES)
    metrics: list[Metric] = list(build(config["metric"], "metric", PACKAGES).values())
    model = drawing.load(run, weights, ema, device_of(device))
    model.cost = facts_of(place.path).get("cost", {})
    _check_classes(model, measured)
    _tell_of_other_data(place, measured)
    facts = record_facts(place.path, config | {"prior": model.config["prior"]}, measured, named(weights, ema, model))
    away_from = drawing.guide_named(run)
    facts |= {} if away_from is None else {"drawn": {"guide": away_from}}
    if missing and _is_there(place, facts, model):
        log.info("%s was measured so before; nothing to do", run)
        return
    records = measure(
        model, measured, metrics, facts, bool(config.get("second")), store=Store(Path(store or config["store"]))
    )
    record.write(place.records, *records)
    save_pictures(metrics, place.samples, model.made_from.get("images_seen") or 0, config["data"]["batch_size"])
    single.write(place.path)
    record.say(records)


def _own(run: str) -> Config:
    """The config of a run's directory, whose nodes may be built; FileNotFoundError where it is none."""
    if not (Path(run) / "config.yaml").exists():
        raise FileNotFoundError(f"{run} has no config.yaml: give a run's directory")
    config = settings_of(run)
    check_named(config, run, PACKAGES)
    return config


def _asked(run: str, evaluation: Config, metric: Config) -> Config:
    """The run's config with what is given in the place of its own; ValueError where nothing would be measured."""
    config = _own(run)
    config["evaluation"] = merged(config["evaluation"], evaluation)
    config["metric"] = _metrics(config["metric"] or {}, metric)
    if not config["metric"]:
        raise ValueError(
            f"{run} was trained with metric=none, so nothing would be measured: name what is, as metric=offline"
        )
    return config


def _is_there(place: RunDirectory, facts: dict[str, Any], model: LatentModel) -> bool:
    """Whether the run has records of this model, of what is asked for now."""
    wanted = (model.weights_hash, facts["asked"], facts["weights"], facts.get("drawn", {}).get("guide"))
    return any(
        (each.model, each.asked, each.weights, (each.drawn or {}).get("guide")) == wanted
        for each in record.read(place.records)
    )


def _tell_of_other_data(place: RunDirectory, data: DataModule) -> None:
    """Warn where a run was measured on other data before."""
    before = {each.data for each in record.read(place.records)} - {None}
    if before and data.fingerprint not in before:
        log.warning(
            "this is not the data that %s was measured on (fingerprint %s, before %s): its numbers are not compared with those "
            "of before",
            *(place.path, data.fingerprint[:8], ", ".join(sorted(each[:8] for each in before))),
        )


def _moved(own: Config, given: Config) -> Config:
    """The run's data node with the arguments given; where the root is another, below it all that was there."""
    old, new = own.get("root"), given.get("root")
    return merged(own if new is None else _below(own, old, new), given)


def _below(value: Any, old: str | None, new: str, key: str = "") -> Any:
    """`value` with every path in `old` in `new`; where there was no root, every `root` is the new one."""
    if isinstance(value, dict):
        return {name: _below(each, old, new, name) for name, each in value.items()}
    if isinstance(value, list):
        return [_below(each, old, new, key) for each in value]
    if value == old and (old is not None or key == "root"):
        return new
    inside = isinstance(value, str) and old is not None and value.startswith(f"{old.rstrip('/')}/")
    return new.rstrip("/") + value[len(old.rstrip("/")) :] if inside else value


def _metrics(own: Config, given: Config) -> Config:
    """The run's metrics with the arguments given, or those chosen in their place. ValueError for arguments of one that is not
    among them."""
    if given and all(map(is_node, given.values())):
        return given
    found = {name: node for name, node in merged(own, given).items() if node is not None}
    unknown = [name for name, node in found.items() if not is_node(node)]
    if unknown:
        raise ValueError(
            f"metric.{unknown[0]}: these are words for a metric that this run has not; it has {', '.join(own) or 'none'}. Choose "
            "those that are measured, as metric=offline, and say the words beside it"
        )
    return found


def _check_classes(model: LatentModel, data: DataModule) -> None:
    """ValueError where a label means another class in the data than in the model."""
    own = model.condition.find(Label)
    known = () if own is None else own.names
    if known and data.classes and data.classes != known:
        raise ValueError(
            f"the data's classes are {listed(data.classes)}, the model's {listed(known)}; measure on data with the same "
            "classes in the same order"
        )
