"""A run whose words change on the way: what comes of every kind of change at every moment.

    python -m tests.faults.matrix --write

Each cell begins with a tiny run that was stopped at a moment, gives it other words, and looks at what is there then:

    fresh      model, raw weights, provenance and measured numbers are those of a new run of the last words, to the bit
    told       it went on, a warning named the key, and its records are of another configuration than a new run's
    refused    the error named the key, and nothing in the directory has changed

The expected outcomes were worked out by hand. `--write` puts the table into experiments/faults/README.md.
"""

from __future__ import annotations

import argparse
import logging
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from ldm.command.grammar import settable
from ldm.experiment.experiment import Experiment
from ldm.model import LatentModel
from ldm.resolve import ConfigError
from ldm.run import record
from ldm.run.signals import FINISHED, PREEMPTED, Stopped
from ldm.stage.stage import Stage
from ldm.tensors import read_tensors
from tests.runs import equal, tiny

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "experiments" / "faults" / "README.md"
BEGIN, END = "<!-- matrix -->", "<!-- end of matrix -->"

MOMENTS = {
    "in the first stage": "after 2 of 4 updates of the first stage",
    "between": "after the first stage, before the second",
    "in the second stage": "after 2 of 4 updates of the second stage",
    "finished": "when all was done",
    "first from the store": "when all was done, its first stage having been found in the store",
}
FRESH, TOLD, REFUSED = "fresh", "told", "refused"

# Learning rates that do not depend on the number of updates, or do.
COURSES = {
    "constant": [f"{stage}.rate._target_=ldm.stage.rate.Constant" for stage in ("first", "second")],
    "cosine": [f"{stage}.rate.warmup=0" for stage in ("first", "second")],
}


@dataclass(frozen=True)
class Change:
    """Words that are given to a run on the way.

    Fields:
        words: `CHECKPOINT` and `PRIOR` among them stand for other runs, the second with a prior that has learnt.
        key: what a refusal or a warning has to name.
        outcomes: by moment, in their order.
        course: of the learning rate of the run.
    """

    words: tuple[str, ...]
    key: str
    outcomes: tuple[str, ...]
    course: str = "constant"

    @property
    def title(self) -> str:
        return " ".join(self.words) + (" (cosine)" if self.course == "cosine" else "")


def _change(words: str, key: str, outcomes: str, course: str = "constant") -> Change:
    names = {"f": FRESH, "t": TOLD, "r": REFUSED}
    return Change(tuple(words.split()), key, tuple(names[letter] for letter in outcomes), course)


CHANGES = [
    _change("second.steps=6", "", "fffff"),
    _change("second.steps=6", r"second\.steps=6 \(was 4\)", "ffttt", "cosine"),
    _change("second.steps=1", r"second\.steps=1", "ffrrr"),
    _change("second.steps=3", r"second\.steps=3", "fffrr"),
    _change("first.steps=6", r"first\.steps=6 \(was 4\)", "ffrrr"),
    _change("first.steps=6", r"first\.steps=6 \(was 4\)", "ttrrr", "cosine"),
    _change("first.steps=1", r"first\.steps=1", "rrrrr"),
    _change("first.optimizer.lr=1e-5", r"first\.optimizer\.lr=1e-05 \(was ", "trrrr"),
    _change("first.clip=0.1", r"first\.clip=0\.1", "trrrr"),
    _change("second.optimizer.lr=1e-5", r"second\.optimizer\.lr=1e-05 \(was ", "fftrr"),
    _change("second.decay=0.5 second.clip=0.1", r"second\.clip=0\.1", "fftrr"),
    _change("trainer.precision=bf16-mixed", r"trainer\.precision=bf16-mixed", "trrrr"),
    _change("cache_latents=false", r"cache_latents=False", "fftrr"),
    _change("loss.kl_weight=1e-3", r"loss\.kl_weight=0\.001 \(was 1e-06\)", "rrrrr"),
    _change("autoencoder.encoder.width=4", r"autoencoder\.encoder\.width=4", "rrrrr"),
    _change("backbone.width=4", r"backbone\.width=4", "ffrrr"),
    _change("condition.width=4", r"condition\.width=4", "ffrrr"),
    _change("diffusion=v", r"prior\.schedule\._target_", "ffrrr"),
    _change("prior=normal", r"prior\._target_=ldm\.prior\.normal", "ffrrr"),
    _change("seed=1", r"seed=1 \(was 0\)", "rrrrr"),
    _change("data.seed=1", r"data\.seed=1", "rrrrr"),
    _change("data.train.count=12", r"data\.train: other images", "rrrrr"),
    _change("data.on_error=replace", r"data\.on_error=replace \(was skip\)", "rrrrr"),
    _change("data.flip=true", r"data\.flip=True", "rrrrr"),
    _change("data.val.count=5", "", "fffff"),
    _change("autoencoder.checkpoint=CHECKPOINT", r"autoencoder\.checkpoint", "rrrrr"),
    _change("autoencoder.checkpoint=CHECKPOINT first.again=true second.again=true", "", "fffff"),
    _change("autoencoder.checkpoint=CHECKPOINT autoencoder.train=true", r"autoencoder\.checkpoint=", "rrrrr"),
    _change("autoencoder.checkpoint=CHECKPOINT autoencoder.train=true first.again=true second.again=true", "", "fffff"),
    _change("prior.checkpoint=PRIOR", r"prior\.checkpoint=", "ffrrr"),
    _change("prior.checkpoint=PRIOR prior.weights=raw second.again=true", "", "fffff"),
    _change("prior=normal second.again=true", "", "fffff"),
    _change("backbone.width=4 second.again=true", "", "fffff"),
    _change("prior.steps=3 diffusion/sampler=ddpm", "", "fffff"),
    _change("evaluation.samples=3", "", "fffff"),
    _change("evaluation.seed=1", "", "fffff"),
    _change("callback=learning_rate", "", "fffff"),
    _change("second.log_every=3 second.save_every=3 data.val_batch_size=2", "", "fffff"),
    _change("second.steps=6 second.again=true", "", "fffff", "cosine"),
    _change("first.optimizer.lr=1e-5 first.again=true", r"first\.optimizer\.lr=1e-05", "ffrrr"),
    _change("first.steps=3 loss.kl_weight=1e-3 first.again=true second.again=true", "", "fffff"),
    _change("data.train.count=12 first.again=true second.again=true", "", "fffff"),
]


class Bench:
    """Runs stopped at every moment, and new runs to compare with; each is made once, in `folder`."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._bases: dict[tuple[str, str], Path] = {}
        self._fresh: dict[tuple[str, ...], Path] = {}

    def outcome(self, change: Change, moment: str) -> str:
        """What comes of the change, looked at in a copy of the run; AssertionError where it is none of the three."""
        base = self._base(change.course, moment)
        place = Path(tempfile.mkdtemp(dir=self.folder))
        shutil.copytree(base, place, dirs_exist_ok=True)
        words = self._words(change)
        before = _files(place / "runs" / "run")
        said = _Said()
        try:
            with said:
                assert run(place, *words) == FINISHED
        except ConfigError as error:
            assert re.search(change.key, str(error)) and change.key, f"the refusal does not name the key: {error}"
            assert "another name=" in str(error)
            assert _files(place / "runs" / "run") == before, "what was refused has changed"
            return REFUSED
        fresh = self._fresh_run(change.course, words)
        found, wanted = _made(place / "runs" / "run"), _made(fresh / "runs" / "run")
        if equal(found, wanted):
            return FRESH
        assert change.key and re.search(change.key, said.text), f"nothing is said of it: {said.text}"
        assert found["config"] != wanted["config"], "numbers of two configurations would be averaged"
        return TOLD

    def looked_at(self, change: Change, moment: str) -> str:
        """The outcome, or what was wrong with it."""
        try:
            return self.outcome(change, moment)
        except AssertionError as error:
            return f"wrong: {error}"

    def _words(self, change: Change) -> list[str]:
        words = [*COURSES[change.course], *change.words]
        for mark, made in (("CHECKPOINT", ["prior=normal", "loss.kl_weight=1e-2"]), ("PRIOR", ["data.train.count=12"])):
            if any(mark in word for word in words):
                other = self._fresh_run("constant", made) / "runs" / "run"
                words = [word.replace(mark, str(other)) for word in words]
        return words

    def _base(self, course: str, moment: str) -> Path:
        if (course, moment) not in self._bases:
            place = self.folder / f"{course} {moment}"
            if moment == "first from the store":
                shutil.copytree(self._base(course, "between") / "store", place / "store")
            code = run(place, *COURSES[course], stop=moment)
            assert code == (PREEMPTED if moment.startswith("in") or moment == "between" else FINISHED)
            self._bases[course, moment] = place
        return self._bases[course, moment]

    def _fresh_run(self, course: str, words: list[str]) -> Path:
        words = [word for word in words if not word.endswith("again=true")]
        key = (course, *words)
        if key not in self._fresh:
            place = Path(tempfile.mkdtemp(dir=self.folder))
            assert run(place, *COURSES[course], *words) == FINISHED
            self._fresh[key] = place
        return self._fresh[key]


def run(place: Path, *words: str, stop: str = "") -> int:
    """A tiny run of 4 updates a stage below `place`, stopped at a moment."""
    words = tuple(map(settable, words))
    config = tiny(place, *words, steps=4) if not any(".steps=" in word for word in words) else _longer(place, words)
    for stage in ("first", "second"):
        config[stage] |= {"validate_every": 0, "picture_every": 0}
        config[stage]["optimizer"].setdefault("eps", 1e-8)
    with _stopped(stop):
        return Experiment(config).run()


def _longer(place: Path, words: tuple[str, ...]) -> dict[str, Any]:
    given = {word.removeprefix("++").partition(".steps=")[0] for word in words if ".steps=" in word}
    more = [f"{stage}.steps=4" for stage in {"first", "second"} - given]
    return tiny(place, *more, *words, steps=4)


def _stopped(moment: str) -> Any:
    ends = Stage.on_train_batch_end

    def stopping(stage: Stage, *arguments: Any) -> None:
        if moment == f"in the {stage.name} stage" and stage.updates == 2:
            stage.stop.raised = True
        ends(stage, *arguments)

    if moment == "between":
        return patch.object(Experiment, "_second_stage", _stop)
    return patch.object(Stage, "on_train_batch_end", stopping)


def _stop(experiment: Experiment) -> None:
    raise Stopped


def _made(folder: Path) -> dict[str, Any]:
    """What a run holds that a new run of the same words must hold, too."""
    model = LatentModel.load(folder)
    records = record.read(folder / "records.jsonl")
    last = {each.metric: (each.value, each.n) for each in records if each.asked == records[-1].asked}
    assert {each.model for each in records[-len(last) :]} == {model.weights_hash}, "numbers of other weights"
    assert records[-1].config == model.made_from["config"]
    files = {file.name: read_tensors(file) for file in sorted((folder / "model").glob("*.safetensors"))}
    return {**model.made_from, "weights": files, "records": last}


def _files(folder: Path) -> dict[str, bytes]:
    """All that a refused command must leave alone; the log says that it was refused."""
    left = ("log.txt", ".lock", "lock.json")
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file() and file.name not in left
    }


class _Said(logging.Handler):
    """The warnings of a block."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.text = ""

    def emit(self, entry: logging.LogRecord) -> None:
        self.text += entry.getMessage() + "\n"

    def __enter__(self) -> _Said:
        logging.getLogger("ldm").addHandler(self)
        return self

    def __exit__(self, *_: Any) -> None:
        logging.getLogger("ldm").removeHandler(self)


def table(outcome: Callable[[Change, str], str]) -> str:
    """All cells as Markdown; one that is not as expected says so."""
    lines = [f"| words given on the way | {' | '.join(MOMENTS)} |", "| --- " * (1 + len(MOMENTS)) + "|"]
    for change in CHANGES:
        cells = []
        for moment, wanted in zip(MOMENTS, change.outcomes, strict=True):
            found = outcome(change, moment)
            print(f"{change.title}, {moment}: {found}", flush=True)
            cells.append(found if found == wanted else f"**{found}**, not {wanted}")
        lines.append(f"| `{change.title}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="What comes of words that change on the way")
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE.relative_to(ROOT)}")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        text = table(Bench(Path(folder)).looked_at)
    print(text)
    if arguments.write:
        page = PAGE.read_text(encoding="utf-8")
        start, end = page.index(BEGIN) + len(BEGIN), page.index(END)
        PAGE.write_text(f"{page[:start]}\n{text}\n{page[end:]}", encoding="utf-8")


if __name__ == "__main__":
    main()
