"""What a run says that it takes on disk is what lies there; what is left of it with keep=model, and what comes of that."""

import re
import shutil

import pytest
import torch

from ldm.experiment.experiment import Experiment
from ldm.files import in_units
from ldm.model import LatentModel
from ldm.prior.mixture import Mixture
from ldm.resolve import ConfigError
from ldm.run import footprint
from ldm.run.checkpoint import Checkpoints
from ldm.run.footprint import Footprint, size_below
from ldm.run.load import load
from ldm.run.signals import FINISHED
from ldm.stage.stage import Stage
from ldm.tensors import read_tensors
from tests.runs import equal, refuse_training, tiny

pytestmark = pytest.mark.usefixtures("unchecked_file")

NUMBER = re.compile(r"([\d.]+) (bytes|kB|MB)")


def _bytes(text: str) -> float:
    number, unit = NUMBER.fullmatch(text).groups()
    return float(number) * {"bytes": 1, "kB": 1e3, "MB": 1e6}[unit]


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("+data.flip=true", "second.snapshots=0"),
        ("autoencoder=vq_f4", "loss=kl_gan", "alignment=random", "second.snapshots=3"),
        ("second.optimizer._target_=torch.optim.SGD", "~second.optimizer.betas", "+second.optimizer.momentum=0.9"),
    ],
)
def test_the_size_that_is_said_is_what_lies_there(words, tmp_path, caplog):
    caplog.set_level("INFO")
    config = tiny(tmp_path, "metric=none", *words, steps=3)
    config["second"]["snapshots"] = min(config["second"].get("snapshots", 8), 3)
    assert Experiment(config).run() == FINISHED
    (line,) = [line for line in caplog.messages if line.startswith("on disk this run takes")]
    total, parts = line.removeprefix("on disk this run takes ").split(": ")
    said = {part.split(" ")[0]: _bytes(NUMBER.search(part).group()) for part in parts.split(", ")}
    run, store = tmp_path / "runs" / "run", tmp_path / "store"
    there = {name: size_below(run / name) for name in ("checkpoints", "snapshots", "model")}
    there |= {"first": size_below(store / "autoencoder"), "latents": size_below(store / "latents")}
    there["latents"] += size_below(store / "features")
    assert said == pytest.approx({name: count for name, count in there.items() if name in said}, rel=0.05)
    assert sum(count for name, count in there.items() if name not in said) < 0.01 * sum(there.values())
    assert _bytes(total) == pytest.approx(sum(there.values()), rel=0.05)


def test_what_is_trained_beside_a_prior_is_in_the_size(tmp_path, caplog, monkeypatch):
    """Here a table that nothing moves: its numbers are in each checkpoint, and in no model."""
    table = torch.nn.Linear(400, 400).requires_grad_(False)
    monkeypatch.setattr(Mixture, "beside", lambda prior: table)
    caplog.set_level("INFO")
    words = ("metric=none", "prior=mixture", "prior.components=2", "second.snapshots=0")
    assert Experiment(tiny(tmp_path, *words, steps=3)).run() == FINISHED
    (line,) = [line for line in caplog.messages if line.startswith("on disk this run takes")]
    said = next(part for part in line.split(": ")[1].split(", ") if part.startswith("checkpoints"))
    there = size_below(tmp_path / "runs/run/checkpoints")
    assert there > 2 * 4 * 400 * 400 and _bytes(NUMBER.search(said).group()) == pytest.approx(there, rel=0.05)


def test_what_is_there_already_is_not_said_again(tmp_path, caplog):
    caplog.set_level("INFO")
    assert Experiment(tiny(tmp_path, "metric=none")).run() == FINISHED
    caplog.clear()
    assert Experiment(tiny(tmp_path, "metric=none")).run() == FINISHED
    assert "on disk this run" not in caplog.text
    assert Experiment(tiny(tmp_path, "metric=none", name="other")).run() == FINISHED
    (line,) = [line for line in caplog.messages if line.startswith("on disk this run takes")]
    assert "in the store" not in line


def test_no_room_is_found_out_before_anything_is_trained(tmp_path, monkeypatch):
    free = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(footprint.shutil, "disk_usage", lambda _: free._replace(free=3_000_000))
    monkeypatch.setattr(Stage, "training_step", None)
    with pytest.raises(OSError, match=r"3.0 MB are free and this run is going to write .* MB; make room.*runs="):
        Experiment(tiny(tmp_path, "metric=none")).run()


def test_room_counts_what_lies_there_and_what_passes(tmp_path, monkeypatch):
    run, store = tmp_path / "run", tmp_path / "store"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "data").write_bytes(bytes(100))
    usage = shutil.disk_usage(tmp_path)
    wanted = Footprint({"checkpoints": 200, "model": 50}, {"latents": 30}, passing=100)
    for free, fits in ((280, True), (279, False)):  # 250 - 100 + 100 + 30
        monkeypatch.setattr(footprint.shutil, "disk_usage", lambda _, free=free: usage._replace(free=free))
        if fits:
            wanted.check_room(run, store)
        else:
            with pytest.raises(OSError, match="280 bytes"):
                wanted.check_room(run, store)


def test_units():
    counts = (0, 999, 1000, 1_250_000, 3_000_000_000, 2 * 10**15)
    assert [in_units(n) for n in counts] == ["0 bytes", "999 bytes", "1.0 kB", "1.2 MB", "3.0 GB", "2000.0 TB"]


def finished(folder, *words, **options):
    config = tiny(folder, "metric=none", *words, **options)
    assert Experiment(config).run() == FINISHED
    return folder / "runs" / "run"


def made(run):
    weights = {name: read_tensors(run / "model" / f"{name}.safetensors") for name in ("model", "raw")}
    return weights, LatentModel.load(run).made_from


def test_a_finished_run_keeps_its_model_alone(tmp_path, monkeypatch):
    """And is finished still, without its store too."""
    run = finished(tmp_path, "keep=model")
    assert not [*run.rglob("checkpoints/**/*.safetensors"), *run.rglob("snapshots/*")]
    kept = {path.name for path in run.iterdir()}
    assert {"model", "samples", "metrics.jsonl", "report.html", "log.txt", "config.yaml", "run.json"} <= kept
    before = made(run)
    shutil.rmtree(tmp_path / "store")
    refuse_training(monkeypatch)
    finished(tmp_path, "keep=model")
    finished(tmp_path)
    assert equal(made(run), before)
    with pytest.raises(FileNotFoundError, match="no snapshots.*keep=all"):
        load(run, "average", 0.08, torch.device("cpu"))


def test_a_first_stage_from_the_store_is_not_trained_again_without_it(tmp_path, monkeypatch):
    assert Experiment(tiny(tmp_path, "metric=none", name="other")).run() == FINISHED
    run = finished(tmp_path, "keep=model", "prior=normal")
    before = LatentModel.load(run).state_dict()
    shutil.rmtree(tmp_path / "store")
    refuse_training(monkeypatch)
    finished(tmp_path, "keep=model", "prior=normal")
    assert equal(dict(LatentModel.load(run).state_dict()), dict(before))


@pytest.mark.parametrize("stage", ["first", "second"])
def test_more_steps_say_what_is_missing(stage, tmp_path):
    run = finished(tmp_path, "keep=model")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != "log.txt"}
    with pytest.raises(ConfigError, match=rf"{stage}\.steps=4 .*keep=model.*another name=.*{stage}\.again=true"):
        finished(tmp_path, "keep=model", f"{stage}.steps=4")
    after = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != "log.txt"}
    assert before == after


def test_again_makes_a_pruned_stage_anew(tmp_path):
    run = finished(tmp_path / "a", "keep=model")
    finished(tmp_path / "a", "keep=model", "second.steps=4", "+second.again=true")
    other = finished(tmp_path / "b", "second.steps=4")
    assert equal(made(run), made(other))
    assert Checkpoints(run / "checkpoints" / "second").steps() == [4]


def test_a_kept_run_can_be_pruned_later(tmp_path, monkeypatch):
    run = finished(tmp_path)
    before = made(run)
    refuse_training(monkeypatch)
    finished(tmp_path, "keep=model")
    assert not list(run.rglob("checkpoints/**/*.safetensors")) and equal(made(run), before)


def test_a_lost_tensor_file_is_damage_and_not_a_pruned_stage(tmp_path):
    kept = Checkpoints(tmp_path)
    kept.save(1, {"updates": 1, "history": []})
    (tmp_path / "step-1" / "tensors.safetensors").unlink()
    assert not kept.pruned()
    kept.prune(1, [{"after": 0, "settings": {"a": 1}}])
    assert kept.pruned() and kept.peek() == {"updates": 1, "history": [{"after": 0, "settings": {"a": 1}}]}
