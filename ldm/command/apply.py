"""A task done with a finished run's model: pictures and numbers of each image, a grid, and a JSON of what was done.

    task.json       what was asked for: the task with its words, images, seed, weights
    parts/          what was found so far, exactly, so that a job that was interrupted goes on: numbers and arrays of rows
    0000-NAME.png   the pictures of row 0
    grid.png        the first rows (of samples by class some of each), a column each: given, result, ...; of many pictures a line
    result.json     what was asked for, means and errors of the numbers, and the numbers of each row

A row depends on its image, the words and (seed, row) alone, whatever the batch.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
import torch
from PIL import Image
from torch import Tensor

from ldm.build import build, is_node
from ldm.callback.image_grid import ImageGrid, beside
from ldm.command.asked import asked_for
from ldm.data.inputs import Inputs
from ldm.eight_bits import eight_bits
from ldm.files import folder, remove_leftovers, whole_file, write_json
from ldm.model import LatentModel, Weights
from ldm.plugins import name as name_plugins
from ldm.random import seed_of
from ldm.run.load import Drawing, check_trained, named, weights_hash
from ldm.run.machine import device_of
from ldm.task.base import Answer, Found, Task
from ldm.task.tools.rows import Rows, summary
from ldm.tensors import read_tensors, write_tensors

log = logging.getLogger(__name__)

_SHOWN = 24  # rows in the grid
_STRIP = 5  # of more pictures a row is a line of the grid


def apply(
    run: str,
    task: dict[str, Any],
    images: str | None,
    prompt: str | None,
    prompts: str | None,
    label: str | int | None,
    guidance: float | int | None,
    steps: int | None,
    seed: int,
    weights: Weights,
    ema: float | None,
    batch: int,
    device: str,
    out: str | None,
    diffusion: dict[str, Any] | None = None,
    prior: dict[str, Any] | None = None,
    guide: str | None = None,
    guide_ema: float | None = None,
    plugins: Sequence[str] = (),
) -> None:
    """Do a task with images and write what comes of it."""
    name_plugins(plugins)
    if batch < 1:
        raise ValueError(f"batch={batch}: wanted 1 at least")
    _check_posterior(task.get("posterior"))
    done: Task = build(task, "task")
    pieces = dict(diffusion or {})
    if pieces.pop("posterior", None) is not None and "posterior" not in task:
        raise ValueError(
            f"diffusion/posterior= is of tasks that solve an inverse problem, and task={done.word} is none"
        )
    drawing = Drawing(pieces, guidance, steps, prior, guide, guide_ema)
    model = drawing.load(run, weights, ema, device_of(device))
    if done.asks_prior:
        check_trained(model, run)
    done.check(model)  # before images are read
    given, others = _inputs(images, model, "images"), _inputs(done.others, model, "task.others")
    asked = asked_for(model, prompt, prompts, label)
    rows = Rows(done, model, given, others, asked, seed)
    facts: dict[str, Any] = {"run": str(run), "task": task, "prompt": prompt, "label": label, "seed": seed}
    facts |= {} if prompts is None else {"captions": asked.captions}
    if (way := done.way(model)) is not None:
        log.info("task=%s is done by %s", done.word, way)
        facts["way"] = way
    for name, inputs, where in (("images", given, images), ("others", others, done.others)):
        facts |= {} if inputs is None else {name: {"from": str(where), "n": len(inputs), "hash": inputs.fingerprint}}
    facts |= (
        done.facts() | drawing.facts() | {"weights": named(weights, ema, model), "weights_hash": weights_hash(model)}
    )
    name = f"{done.word}-seed{seed}-{seed_of(json.dumps(facts)) % 16**6:06x}"
    job = Job(folder(Path(out)) if out else Path(run) / "tasks" / name, rows, facts)
    job.go_on(batch)
    job.finish()


def _check_posterior(node: Any) -> None:
    """ValueError where arguments of a method are given and no method."""
    if isinstance(node, dict) and not is_node(node):
        raise ValueError(
            f"diffusion.posterior.{next(iter(node), '')}= is an argument of a method, which is not named; say which, as "
            "diffusion/posterior=mmps"
        )


def _inputs(where: str | Path | None, model: LatentModel, word: str) -> Inputs | None:
    return None if where is None else Inputs(str(where), model.autoencoder.image_shape, word)


class Job:
    """A task on its way, in a folder of its own.

    Arguments:
        folder: what it writes; one that holds another job's is refused by ValueError.
        rows: of the task.
        facts: what was asked for, as plain data.
    """

    def __init__(self, folder: Path, rows: Rows, facts: dict[str, Any]):
        self.folder, self.rows, self.facts, self._parts = folder, rows, facts, folder / "parts"
        file = folder / "task.json"
        if file.exists() and json.loads(file.read_text(encoding="utf-8")) != json.loads(json.dumps(facts)):
            raise ValueError(
                f"{folder} holds a task of other words, images or weights ({file.name}); take another out="
            )
        self._parts.mkdir(parents=True, exist_ok=True)
        for each in (folder, self._parts):
            remove_leftovers(each)
        write_json(file, facts)

    def go_on(self, batch: int) -> None:
        """Do what is not there yet, so many rows at once."""
        total = len(self.rows)
        missing = sorted(set(range(total)) - self._there())
        if len(missing) < total:
            log.info("%d of %d rows are there already", total - len(missing), total)
        left = len(missing)
        for rows, answer in self.rows.answers(missing, batch):
            self._keep(rows, answer)
            left -= len(rows)
            log.info("%d of %d rows", total - left, total)

    def _there(self) -> set[int]:
        """The rows that are in a part and have all of their pictures."""
        found = set()
        for part in self._parts.glob("*.safetensors"):
            tensors = read_tensors(part)
            pictures = _names(tensors["pictures"])
            found |= {
                row for row in tensors["rows"].tolist() if all(self._picture(row, name).is_file() for name in pictures)
            }
        return found

    def _picture(self, row: int, name: str) -> Path:
        safe = re.sub(r"[^\w.]+", "-", name)
        return self.folder / f"{row:04d}-{safe}.png"

    def _keep(self, rows: Sequence[int], answer: Answer) -> None:
        """Write what was found of a batch: first its pictures, then the part that says that it is there."""
        for name, pictures in answer.pictures.items():
            for row, picture in zip(rows, eight_bits(pictures).cpu(), strict=True):
                with whole_file(self._picture(row, name)) as temporary:
                    Image.fromarray(picture.permute(1, 2, 0).numpy()).save(temporary, "PNG")
        tensors = {f"number {name}": value.double().cpu() for name, value in answer.numbers.items()}
        tensors |= {f"array {name}": value.cpu() for name, value in answer.arrays.items()}
        tensors |= {"rows": torch.tensor(rows), "pictures": _text(list(answer.pictures))}
        with whole_file(self._parts / f"{rows[0]}-{rows[-1]}-{len(rows)}.safetensors") as temporary:
            write_tensors(temporary, tensors)

    def finish(self) -> None:
        """Write the grid, what is said of all rows, and the task's own files, once all rows are there."""
        found, pictures = self._found()
        if pictures and len(found.names):
            with whole_file(self.folder / "grid.png") as temporary:
                lines = self.rows.task.shown(len(found.names), _SHOWN)
                _grid(found, pictures, lines).picture.save(temporary, format="PNG")
        means, more = summary(found.numbers, found.first), self.rows.task.conclude(found)
        numbers = {name: values.tolist() for name, values in found.numbers.items()}
        each = [
            {"row": row, "name": name, **{key: _plain(values[row]) for key, values in numbers.items()}}
            for row, name in enumerate(found.names)
        ]
        write_json(self.folder / "result.json", self.facts | {"means": means, "found": more, "rows": each})
        files = self.rows.task.write(self.rows.model, found, self.folder)
        for line in (*_said(means), *(f"{name}: {_shown(value)}" for name, value in more.items())):
            log.info("%s", line)
        names = [*(["grid.png"] if pictures else []), *(file.name for file in files[:4]), "result.json"]
        log.info("%d rows; %s are in %s", len(found.names), ", ".join(names), self.folder)

    def _found(self) -> tuple[Found, list[str]]:
        """What the parts hold, in the order of the rows, and the names of the pictures of a row."""
        parts = [read_tensors(part) for part in sorted(self._parts.glob("*.safetensors"))]
        place: dict[int, tuple[int, int]] = {}
        for i, part in enumerate(parts):
            place |= {row: (i, k) for k, row in enumerate(part["rows"].tolist())}
        order = [place[row] for row in range(len(self.rows))]
        names = list(parts[0]) if parts else []
        columns = {name: torch.stack([parts[i][name][k] for i, k in order]) for name in names if name.count(" ")}
        pictures = _names(parts[0]["pictures"]) if parts else []

        def shown(row: int) -> Mapping[str, Tensor]:
            files = {name: numpy.array(Image.open(self._picture(row, name)).convert("RGB")) for name in pictures}
            return {name: torch.from_numpy(pixels).permute(2, 0, 1) for name, pixels in files.items()}

        def kind(word: str) -> dict[str, Tensor]:
            return {name.removeprefix(word): each for name, each in columns.items() if name.startswith(word)}

        own = [self.rows.name(row) for row in range(len(self.rows))]
        return Found(own, self.rows.first, kind("number "), kind("array "), shown), pictures


def _grid(found: Found, pictures: Sequence[str], lines: Sequence[int]) -> ImageGrid:
    """Rows to look at: of a few pictures each a column, of a strip of many, as a walk, a line."""
    names = [found.names[row] for row in lines]
    shown = torch.stack([torch.stack([found.pictures(row)[name] for name in pictures]) for row in lines]) / 127.5 - 1
    if len(pictures) > _STRIP:
        return beside(list(zip(names, shown, strict=True)), pictures, len(pictures))
    return beside(list(zip(pictures, shown.transpose(0, 1), strict=True)), names)


def _text(names: list[str]) -> Tensor:
    return torch.tensor(list(json.dumps(names).encode()), dtype=torch.uint8)


def _names(text: Tensor) -> list[str]:
    return json.loads(bytes(text.tolist()))


def _plain(value: float) -> float | None:
    """A number as JSON has it, which knows no NaN."""
    return value if value == value and abs(value) != float("inf") else None


def _said(means: Mapping[str, Any]) -> list[str]:
    """A line for each number."""
    return [
        f"{name}: {_mean(mean)}" + (f"; others {_mean(mean['others'])}" if "others" in mean else "")
        for name, mean in means.items()
    ]


def _mean(mean: Mapping[str, Any]) -> str:
    if "mean" not in mean:
        return "of no row"
    error = f" ± {mean['standard_error']:.2g}" if "standard_error" in mean else ""
    return f"{mean['mean']:.4g}{error} (n = {mean['n']})"


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value)
