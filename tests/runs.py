"""Configs for the tests: composed as train.py composes them, and shrunk so that a run takes a second or two."""

import copy
import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image

from ldm.data.shapes import Shapes
from ldm.files import write_json, write_text
from ldm.model import LatentModel
from ldm.stage.stage import Stage
from tests.pieces import CONF


def compose(*words: str, missing: str = "absent", name: str = "config") -> dict[str, Any]:
    """The plain config of a command line; what it leaves to the user (`???`) becomes `missing`."""
    return copy.deepcopy(_composed(words, missing, name))


@functools.cache
def _composed(words: tuple[str, ...], missing: str, name: str) -> dict[str, Any]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = hydra_compose(name, list(words))
    OmegaConf.set_struct(config, False)
    for key in _missing(OmegaConf.to_container(config, resolve=False)):
        OmegaConf.update(config, key, missing)
    return OmegaConf.to_container(config, resolve=True)


def _missing(value: Any, key: str = "") -> Iterator[str]:
    """The dotted keys of what is left open below `value`."""
    if value == "???":
        yield key
    for name, item in value.items() if isinstance(value, dict) else ():
        yield from _missing(item, f"{key}.{name}" if key else name)


def tiny(folder: Path, *words: str, name: str | None = "run", steps: int = 2) -> dict[str, Any]:
    """A run of both stages on 16 rendered shapes, in `folder`; further words as on the command line."""
    options = [
        *("trainer=cpu", "logger=none", "metric=offline", "autoencoder=kl_f4_small", "backbone=unet_small"),
        *("data.train.count=16", "data.val.count=6", f"first.steps={steps}", f"second.steps={steps}", *words),
    ]
    return shrunk(compose(*options), folder, name)


_SMALL = {
    **{"width": 8, "depth": 1, "blocks": 1, "heads": 2, "head_width": 8, "vocabulary": 300, "length": 24},
    **{"layers": 1, "codes": 16},
}
_OFTEN = {"log_every": 1, "validate_every": 2, "picture_every": 2, "save_every": 1}


def shrunk(config: dict[str, Any], folder: Path, name: str | None = "run") -> dict[str, Any]:
    """The same parts, narrow and shallow, in runs below `folder`; data is the caller's."""
    config = copy.deepcopy(config)
    for node in _mappings([config.get(part) for part in ("autoencoder", "condition", "prior", "loss")]):
        for key, small in _SMALL.items():
            if isinstance(node.get(key), int):
                node[key] = min(node[key], small)
            elif isinstance(node.get(key), list):
                node[key] = [min(value, small) for value in node[key]]
    prior, loss = config["prior"], config.get("loss") or {}
    if "steps" in prior:
        prior["steps"] = 2
    if "architecture" in str(loss.get("perceptual")) or "LPIPS" in str(loss.get("perceptual")):
        loss["perceptual"] = {"_target_": "ldm.loss.perceptual.LaplacianPyramid"}  # no network to download
    if loss.get("adversarial"):
        loss["adversarial"] |= {"critic_start": 0, "start": 1}
    for stage in ("first", "second"):
        if config.get(stage):
            config[stage] |= {"steps": min(config[stage]["steps"], 20), **_OFTEN}
    config["metric"].pop("cost", None)  # whose seconds are never the same twice
    networks = config["metric"].get("distances", {}).get("networks", {})
    networks.pop("inception_2015", None)  # would be downloaded
    config["data"] |= {"batch_size": 4, "workers": 0}
    config["evaluation"] |= {"samples": 5, "batch": 3}
    config |= {"runs": str(folder / "runs"), "store": str(folder / "store"), "name": name}
    images = "of" in config["condition"]  # which are read in each update
    if (
        config["cache_latents"] == "auto" and not images
    ):  # of few updates a cache would not pay, and none would be tested
        config["cache_latents"] = True
    return config


def _mappings(value: Any) -> Iterator[dict]:
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _mappings(item)


def saved(folder: Path, config: dict[str, Any], seed: int = 0, model: LatentModel | None = None) -> Path:
    """A run's directory with a model of a `tiny` config, its weights drawn and not learnt; with `model`, on that one's first
    stage."""
    torch.manual_seed(seed)
    config["autoencoder"].pop("checkpoint", None)
    own = LatentModel.build(config)
    with torch.no_grad():
        for p in own.parameters():  # those too that begin at zero
            p.add_(0.1 * torch.randn_like(p))
    if model is not None:
        own.autoencoder.load_state_dict(model.autoencoder.state_dict())
    own.condition.fit(["a small red circle", "a large blue star"])
    own.save(folder / "model", config)
    own.save(folder / "model", config, "raw")
    write_text(folder / "config.yaml", yaml.safe_dump(config))
    return folder


def write_coco(root: Path, count: int = 20) -> Path:
    """Rendered shapes in COCO's layout, two captions each."""
    shapes = Shapes(2 * count, "train")
    (root / "annotations").mkdir(parents=True)
    for k, split in enumerate(("train2017", "val2017")):
        (root / split).mkdir()
        rows = [(i, shapes[i]) for i in range(k * count, (k + 1) * count)]
        for i, item in rows:
            Image.fromarray(item["image"]).save(root / split / f"{i:012d}.jpg")
        write_json(
            root / "annotations" / f"captions_{split}.json",
            {
                "images": [{"id": i, "file_name": f"{i:012d}.jpg"} for i, _ in rows],
                "annotations": [
                    {"id": 2 * i + j, "image_id": i, "caption": text}
                    for i, item in rows
                    for j, text in enumerate((item["caption"], "a shape"))
                ],
            },
        )
    return root


def write_parquet(root: Path, label: bool, mode: str = "RGB", count: int = 20) -> Path:
    """Rendered shapes as train.parquet and test.parquet with image and caption, or image and label below 10."""
    import datasets

    root.mkdir(parents=True)
    for split in ("train", "test"):
        shapes = Shapes(count, split)
        rows = [shapes[i] for i in range(count)]
        columns = {"image": [Image.fromarray(row["image"]).convert(mode) for row in rows]}
        columns |= {"label": [i % 10 for i in range(count)]} if label else {"caption": [row["caption"] for row in rows]}
        features = datasets.Features(
            {"image": datasets.Image()}
            | ({"label": datasets.ClassLabel(num_classes=10)} if label else {"caption": datasets.Value("string")})
        )
        datasets.Dataset.from_dict(columns, features=features).to_parquet(str(root / f"{split}.parquet"))
    return root


def rows(run: Path, stage: str | None = None) -> list[dict[str, Any]]:
    """The curves of a run without what a clock wrote."""
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    clocks = ("seconds", "images_per_second", "wait")
    parsed = [{k: v for k, v in json.loads(line).items() if k not in clocks} for line in lines]
    return [row for row in parsed if stage in (None, row["stage"])]


def equal(a: Any, b: Any) -> bool:
    """Whether two nested states are the same to the bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


@functools.cache
def words_of(group: str) -> list[str]:
    """The names in conf/<group>."""
    return sorted(file.stem for file in (CONF / group).glob("*.yaml"))


def refuse_training(monkeypatch) -> None:
    """From here on a training step is an error."""

    def training_step(*_: Any) -> None:
        raise AssertionError("this run was to train nothing")

    monkeypatch.setattr(Stage, "training_step", training_step)
