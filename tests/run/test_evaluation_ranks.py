"""One and two ranks measure the same: what is learnt of real images, the reference, and more samples than held-out images."""

import dataclasses
import functools
import json

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from ldm.build import build
from ldm.metric.classifier import OwnClassifier
from ldm.metric.distance import Distances
from ldm.metric.features import RandomConv
from ldm.metric.label_accuracy import LabelAccuracy
from ldm.metric.memorisation import Memorisation
from ldm.model import LatentModel
from ldm.run.evaluation import Evaluation
from ldm.run.store import Store
from tests.run.test_scene import labelled_run


def evaluated(config, folder):
    """The records of an evaluation, with a store of its own."""
    torch.manual_seed(0)
    model, data = LatentModel.build(config), build(config["data"], "data")
    recipe = functools.partial(OwnClassifier, updates=4, batch=8, width=4)
    networks = {"r": RandomConv, "s": lambda: RandomConv(1), "classifier": recipe()}
    metrics = [Distances(networks, batch=4), LabelAccuracy(recipe()), Memorisation(RandomConv, batch=4)]
    records = Evaluation(samples=17, batch=3)(model, data, metrics, {}, store=Store(folder / "store"))
    pictures = [picture.rows[0][1] for metric in metrics for picture in metric.pictures()]
    return records, pictures


def on_rank(rank, folder, config):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    records, pictures = evaluated(config, folder)
    (folder / f"{rank}.json").write_text(json.dumps([dataclasses.asdict(each) for each in records]))
    torch.save(pictures, folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_measure_what_one_does(tmp_path):
    config = labelled_run(tmp_path)
    config["autoencoder"].pop("checkpoint", None)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    alone, shown = evaluated(config, tmp_path / "one")
    mp.start_processes(on_rank, (tmp_path / "two", config), nprocs=2, start_method="fork")
    varies = ("value", "standard_error", "seconds", "date", "device")
    for rank in range(2):
        found = json.loads((tmp_path / "two" / f"{rank}.json").read_text())
        assert [each["metric"] for each in found] == [each.metric for each in alone]
        for a, b in zip(found, map(dataclasses.asdict, alone), strict=True):
            assert {k: v for k, v in a.items() if k not in varies} == {k: v for k, v in b.items() if k not in varies}
            assert a["value"] == pytest.approx(b["value"], rel=1e-4, abs=1e-7), a["metric"]
            assert (a["standard_error"] or 0) == pytest.approx(b["standard_error"] or 0, rel=1e-3, abs=1e-7)
        pictures = torch.load(tmp_path / "two" / f"{rank}.pt", weights_only=True)
        assert all(torch.equal(a, b) for a, b in zip(pictures, shown, strict=True))
    metrics = {each.metric: each for each in alone}
    assert metrics["fd_classifier"].n == 17 and metrics["label_accuracy"].n == 17
    again, _ = evaluated(config, tmp_path / "one")  # from the store
    assert [(each.metric, each.value) for each in again] == [(each.metric, each.value) for each in alone]
