"""Records: measured numbers with everything needed to judge whether two of them may be compared.

A run appends one line of JSON a number to `records.jsonl`. The lines of one measuring are written by one system call on
a file opened for appending and then fsynced, so that they are there or they are not; a line torn by a crash or a full
disk is stepped over with a warning, and the next record begins a new line.

Numbers stand in one column only where `MUST_AGREE` holds between them; runs that differ in nothing but seed, place and
time are one row, with the mean over seeds and its standard error s / sqrt(k). A record says by hashes which weights it
measured and which configuration made them, so that a number of before is never taken for one of now, nor two
configurations for one.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from ldm.metric.measurement import Measurement

log = logging.getLogger(__name__)


class TornLineWarning(UserWarning):
    """A line of `records.jsonl` that cannot be read, most often the last one before a crash."""


class Incomparable(ValueError):
    """Numbers that must not stand in one column."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """One number. What does not apply is None.

    Attributes:
        metric, value, standard_error, n, features, features_hash, reference_hash, paired, rounded, kind, reference, labels,
            feature_batch, error: see `Measurement`.
        run: name of the run directory.
        experiment: what the numbers of several seeds are grouped under.
        data, split: the data set's fingerprint or name, and which part of it was measured on.
        seed: of the run.
        model: hash of the weights that were measured.
        config: hash of all that made them, history included, but for seeds (ldm.stage.provenance).
        begun_from: the weights that training began from, by their hashes, where they were not drawn.
        returned: how often training diverged, went back to a checkpoint and on with other noise.
        asked: hash of what was asked for: metrics, samples and their seed, how samples are drawn, held-out images.
        weights: `raw`, or `averaged` with its profile, as `averaged:0.05`, or `best` with the metric that chose them, as
            `best:fd_classifier`.
        drawn: how samples were drawn: `prior`, its class, and all that the prior says of it (`Prior.drawn`), as `sampler`:
            `dpmpp(sde=true)`, class and what is not the default; `guide`: of autoguidance, the run and its weights.
        seen: feature networks that a loss of either stage saw, or that chose these weights; distances in their features are no
            headline.
        evaluations: network evaluations per sample.
        seconds: how long measuring took, sampling included.
        device: as `NVIDIA H200 x 8` or `CPU, 2 threads`.
        parameters: of the model that is measured.
        images_seen, updates: during training; updates only of weights that are not those of its end.
        budget: what ended the training of each stage, as `{"first": "500 updates", "second": "120 s"}`.
        code_version: commit, `+` behind it where the tree was changed.
        date: ISO 8601, UTC.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    metric: str
    value: float
    standard_error: float | None = None
    n: int | None = None
    features: str | None = None
    features_hash: str | None = None
    reference_hash: str | None = None
    paired: bool | None = None
    rounded: bool | None = None
    kind: str | None = None
    reference: str | None = None
    labels: str | None = None
    feature_batch: int | None = None
    error: str | None = None
    run: str | None = None
    experiment: str | None = None
    data: str | None = None
    split: str | None = None
    seed: int | None = None
    model: str | None = None
    config: str | None = None
    begun_from: str | None = None
    returned: int | None = None
    asked: str | None = None
    weights: str | None = None
    drawn: dict[str, Any] | None = None
    seen: list[str] | None = None
    evaluations: int | None = None
    seconds: float | None = None
    device: str | None = None
    parameters: int | None = None
    images_seen: int | None = None
    updates: int | None = None
    budget: dict[str, str] | None = None
    code_version: str | None = None
    date: str | None = None

    @classmethod
    def of(cls, measurement: Measurement, context: Mapping[str, Any]) -> Record:
        """A measurement with what the run knows; `context` holds fields of Record by name."""
        return cls(**dataclasses.asdict(measurement), **context)

    def flat(self) -> dict[str, Any]:
        """Its fields, those of `drawn` as `drawn.NAME` in its place, of `budget` so too; without those that do not apply."""
        found: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            found |= (
                {f"{field.name}.{name}": each for name, each in value.items()}
                if isinstance(value, dict)
                else {field.name: value}
            )
        return {name: value for name, value in found.items() if value is not None}


MUST_AGREE = (
    "metric",
    "n",
    "features",
    "features_hash",
    "reference_hash",
    "paired",
    "rounded",
    "kind",
    "reference",
    "labels",
    "data",
    "split",
)
"""Fields that must be equal for two numbers to be compared at all."""

_VARIES = (
    "value",
    "standard_error",
    "error",
    "seed",
    "run",
    "model",
    "asked",
    "returned",
    "images_seen",
    "updates",
    "seconds",
    "device",
    "code_version",
    "date",
)
"""Fields in which the seeds of one row may differ."""

_ROW = tuple(f.name for f in dataclasses.fields(Record) if f.name not in (*MUST_AGREE, *_VARIES))
_READER = TypeAdapter(Record)


def write(path: Path, *records: Record) -> None:
    """Append records to the file `path`, durably, all of them in one system call; numbers that are not finite are kept
    as words."""
    line = b"".join(map(_line, records))
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            line = b"\n" + line
        written = os.write(descriptor, line)
        if written != len(line):
            raise OSError(
                f"only {written} of {len(line)} bytes of records could be written to {path}; is the disk full?"
            )
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _line(record: Record) -> bytes:
    fields = {key: value for key, value in dataclasses.asdict(record).items() if value is not None}
    plain = {k: str(v) if isinstance(v, float) and not math.isfinite(v) else v for k, v in fields.items()}
    return json.dumps(plain, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def read(path: Path) -> list[Record]:
    """The records of a file, in order; none where there is no file.

    A line that is not JSON is left out with a TornLineWarning; one that is no record is a ValueError.
    """
    if not path.is_file():
        return []
    records = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except ValueError:  # undecodable bytes among them
            warnings.warn(f"{path}:{number} is torn and left out: {line[:60]!r}", TornLineWarning, stacklevel=2)
            continue
        try:
            records.append(_READER.validate_python(fields))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise ValueError(f"{path}:{number} is not a record of this version: {where}: {first['msg']}") from None
    return records


def current(records: Sequence[Record]) -> list[Record]:
    """Those of the training that the last one is of: a run that was trained on or made anew has left the others behind."""
    return [record for record in records if record.config == records[-1].config]


def comparable(a: Record, b: Record) -> list[str]:
    """The fields in which two records differ that must agree; empty when they may be compared."""
    return [name for name in MUST_AGREE if getattr(a, name) != getattr(b, name)]


@dataclass(frozen=True)
class Row:
    """One number of a table: a setting, averaged over its seeds.

    Attributes:
        setting: the fields that say which model and sampler it is, those that are None left out.
        metric, n: what was measured, on how many.
        mean: over seeds.
        standard_error: over seeds where there are several; a single run's own otherwise.
        seeds: how many runs are averaged.
    """

    setting: Mapping[str, Any]
    metric: str
    n: int | None
    mean: float
    standard_error: float | None
    seeds: int


def table(records: Iterable[Record]) -> list[Row]:
    """Rows in order of first appearance, seeds averaged; measuring a run again replaces its number.

    Raises:
        Incomparable: numbers of one metric differ in what must agree, so that a column would lie.
    """
    latest: dict[tuple, Record] = {}
    first: dict[str, Record] = {}
    for record in records:
        differing = comparable(first.setdefault(record.metric, record), record)
        if differing:
            pairs = [f"{k}: {getattr(first[record.metric], k)!r} and {getattr(record, k)!r}" for k in differing]
            raise Incomparable(
                f"{record.metric} of {first[record.metric].run} and of {record.run} may not stand in one column; "
                f"they differ in {'; '.join(pairs)}. Measure them alike, or make a table of each"
            )
        latest[(record.metric, _setting(record), record.seed, record.run)] = record
    groups: dict[tuple, list[Record]] = {}
    for (metric, setting, _, _), record in latest.items():
        groups.setdefault((setting, metric), []).append(record)
    return [_row({name: getattr(group[0], name) for name in _ROW}, group) for group in groups.values()]


def _setting(record: Record) -> str:
    """Names which model it is and how its samples were drawn."""
    return json.dumps([getattr(record, name) for name in _ROW], sort_keys=True)


def _row(setting: dict[str, Any], group: list[Record]) -> Row:
    values, k = [record.value for record in group], len(group)
    mean = sum(values) / k
    error = group[0].standard_error
    if k > 1:
        error = math.sqrt(sum((value - mean) ** 2 for value in values) / (k - 1) / k)
    shown = {name: value for name, value in setting.items() if value is not None}
    return Row(shown, group[0].metric, group[0].n, mean, error, k)


def say(records: Sequence[Record]) -> None:
    """The newest number of each metric, a line each; of whatever sample size, which stands beside it."""
    newest = {each.metric: each for each in records}
    width = max(map(len, newest), default=0)
    for each in newest.values():
        error = "" if each.standard_error is None else f" ± {each.standard_error:.2g}"
        count = "" if each.n == 1 else f"  (n = {each.n})"
        log.info("%-*s %10.4g%s%s", width, each.metric, each.value, error, count)
