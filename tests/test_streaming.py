"""A stream is trained on from beginning to end: both stages, evaluation, stops; nothing of it is cached."""

import io
import json
import logging
import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import datasets
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from ldm.data.shapes import Shapes
from ldm.experiment.experiment import Experiment
from ldm.run import record
from ldm.run.signals import FINISHED, PREEMPTED
from ldm.stage.stage import Stage
from tests.runs import compose, rows, shrunk

ROOT = Path(__file__).parents[1]


def write(root: Path, kind: str, name: str, first: int, count: int) -> None:
    """Rendered shapes `first` ... with their captions as one file of that kind."""
    shapes = Shapes(64, "train")
    items = [shapes[i] for i in range(first, first + count)]
    pictures = []
    for item in items:
        file = io.BytesIO()
        Image.fromarray(item["image"]).save(file, "PNG")
        pictures.append(file.getvalue())
    root.mkdir(parents=True, exist_ok=True)
    if kind == "parquet":
        columns = {"image": [{"bytes": each, "path": None} for each in pictures], "text": [i["caption"] for i in items]}
        features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
        datasets.Dataset.from_dict(columns, features).to_parquet(root / f"{name}.parquet")
    elif kind == "tar":
        with tarfile.open(root / f"{name}.tar", "w") as file:
            for i, (picture, item) in enumerate(zip(pictures, items, strict=True), start=first):
                for ending, content in (("png", picture), ("json", json.dumps({"text": item["caption"]}).encode())):
                    entry = tarfile.TarInfo(f"{i:04d}.{ending}")
                    entry.size = len(content)
                    file.addfile(entry, io.BytesIO(content))
    else:
        lines = []
        for i, (picture, item) in enumerate(zip(pictures, items, strict=True), start=first):
            (root / "png").mkdir(exist_ok=True)
            (root / "png" / f"{i}.png").write_bytes(picture)
            lines.append(json.dumps({"image": f"png/{i}.png", "text": item["caption"]}))
        (root / f"{name}.jsonl").write_text("\n".join(lines))


ENDING = {"parquet": "parquet", "tar": "tar", "json": "jsonl"}


def words(folder: Path, kind: str, caption: str, shards: int = 2) -> list[str]:
    """A command line that streams `shards` files of 24 images in all, and holds out 6 images of another."""
    data = folder / "data"
    for k in range(shards):
        write(data, kind, f"train-{k}", 24 // shards * k, 24 // shards)
    write(data, kind, "val", 40, 6)
    return [
        *("trainer=cpu", "logger=none", "metric=offline", "autoencoder=kl_f4_small", "backbone=unet_small", "data=hub"),
        *(f"data.root={data}", f"++data.train.files=train-*.{ENDING[kind]}", f"++data.val.files=val.{ENDING[kind]}"),
        *(f"data.train.caption={caption}", "++data.train.streaming=true", "data.image_shape=[3,32,32]"),
        *("first.steps=4", "second.steps=4"),
    ]


@pytest.fixture(autouse=True)
def small(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("ldm.stage.latents.ENOUGH", 24)


def stop_in(stage: str, monkeypatch) -> None:
    """A scheduler's signal in the third update of a stage."""
    step = Stage.training_step

    def training_step(self: Stage, *batch: object) -> None:
        if self.name == stage and self.updates == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *batch)

    monkeypatch.setattr(Stage, "training_step", training_step)


@pytest.mark.parametrize("kind, caption, stage", [("parquet", "text", "first"), ("tar", "json.text", "second")])
def test_a_stream_is_trained_on_and_gone_on_with_to_the_bit(tmp_path, kind, caption, stage, caplog):
    caplog.set_level(logging.INFO)
    config = compose(*words(tmp_path, kind, caption))
    whole = shrunk(config, tmp_path / "whole")
    assert Experiment(whole).run() == FINISHED
    cut = shrunk(config, tmp_path / "cut")
    with pytest.MonkeyPatch.context() as patched:
        stop_in(stage, patched)
        assert Experiment(cut).run() == PREEMPTED
    assert Experiment(cut).run() == FINISHED
    runs = [tmp_path / name / "runs/run" for name in ("whole", "cut")]
    one, two = (load_file(run / "model/model.safetensors") for run in runs)
    assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)
    assert rows(runs[0]) == rows(runs[1])

    assert json.loads((runs[0] / "run.json").read_text())["data"] == "streamed images to train, 6 held out"
    assert "streamed images to train" in (runs[0] / "report.html").read_text()
    assert {each.metric for each in record.read(runs[0] / "records.jsonl")} >= {"psnr"}
    store = tmp_path / "whole/store"
    assert {each.name for each in store.iterdir() if each.is_dir()} == {"autoencoder", "features"}, "no latents"
    assert "tokens learnt from 24 captions" in caplog.text


def test_rows_with_paths_are_streamed(tmp_path):
    """Of json with pictures beside it; and one file, which two workers share."""
    config = shrunk(compose(*words(tmp_path, "json", "text", shards=1)), tmp_path)
    config["data"]["workers"] = 2
    assert Experiment(config).run() == FINISHED
    assert not (tmp_path / "runs/run/bad_samples.jsonl").exists()


def test_two_ranks_stream(tmp_path):
    small = ["prior.steps=2", "data.batch_size=64", "data.workers=0", "evaluation.samples=4", "backbone.width=8"]
    small += ["autoencoder.encoder.width=8", "autoencoder.decoder.width=8", "condition.vocabulary=300"]
    places = [
        "name=two",
        f"runs={tmp_path}/runs",
        f"store={tmp_path}/store",
        "trainer.devices=2",
        "first.steps=2",
        "second.steps=2",
    ]
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *words(tmp_path, "parquet", "text", shards=1), *small, *places],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1", "HF_DATASETS_CACHE": str(tmp_path / "cache")},
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == FINISHED, (done.stdout + done.stderr)[-3000:]
    run = tmp_path / "runs/two"
    assert json.loads((run / "run.json").read_text())["status"] == "finished"
    assert {row["step"] for row in rows(run)} == {2}
