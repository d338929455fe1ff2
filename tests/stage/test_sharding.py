"""Sharded training on two gloo ranks is DDP's to rounding, whatever is looked at, and goes on with any number of ranks."""

import os
import socket
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from ldm.callback.pictures import Pictures
from ldm.diffusion.weighting import Learned, Prediction
from ldm.experiment.experiment import Experiment
from ldm.resolve import ConfigError
from ldm.run.checkpoint import Checkpoints
from ldm.run.directory import Journal
from ldm.run.signals import StopFlag
from ldm.run.snapshots import Snapshots
from ldm.stage.feed import Feed
from ldm.stage.rate import Cosine
from ldm.stage.recipe import Recipe
from ldm.stage.second import Second
from ldm.stage.sharding import FullyShard, blocks, local
from ldm.stage.stage import Stage
from tests.runs import rows, tiny
from tests.stage.tiny import At, second

pytestmark = pytest.mark.usefixtures("unchecked_file")

STEPS = 6


def stage(kind: str, **options: Any) -> Second:
    """`plain`: averages of three kinds and a learnt weighting; `aligned`: from cached latents, in two micro-batches."""
    made = second(aligned=0.5, cached=True, **options) if kind == "aligned" else second(**options)
    if kind == "plain":
        made.model.prior.weighting = Learned(Prediction())

    # Steps in which Adam is all but linear in the gradient, so that rounding stays rounding.
    def optimizer(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, lr=0.1, eps=1.0, fused=kind == "plain")

    often = {"log_every": 1, "validate_every": 3, "save_every": 3, "clip": 0.5}
    own = {"accumulate": 2} if kind == "aligned" else {"snapshots": 2, "picture_every": 3}
    made.recipe = Recipe(optimizer=optimizer, rate=Cosine(warmup=2), steps=STEPS, **often, **own)
    made.steps, made.accumulate = STEPS, made.recipe.accumulate
    return made


def poison(made: Stage) -> None:
    """The next loss of this rank is not a number."""
    player = made._players[0]
    inner = player.loss

    def loss(*arguments: Any) -> Any:
        player.loss = inner
        terms, told = inner(*arguments)
        return {name: term * float("nan") for name, term in terms.items()}, told

    player.loss = loss


def fit(made: Second, folder: Path, strategy: Any, devices: int, *callbacks: L.Callback) -> None:
    made.attach(
        Checkpoints(folder / "second"), Snapshots(folder / "snapshots"), Journal(folder / "metrics.jsonl"), StopFlag()
    )
    data = made.reads(4)
    trainer = L.Trainer(
        accelerator="cpu",
        devices=devices,
        strategy=strategy,
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        callbacks=[*callbacks, Pictures(folder / "pictures", made.model, data, [], 3)],
    )
    trainer.fit(made, datamodule=Feed(data))


def _rank(rank: int, folder: Path, kind: str, sharded: bool, until: int, spoilt: int | None) -> None:
    torch.set_num_threads(1)
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet-{until}", rank=rank, world_size=2)
    os.environ["MASTER_PORT"] = "1"  # of the group that is there already
    made = stage(kind)
    acts = [At(until - 1, lambda s: setattr(s.stop, "raised", True))] if until < STEPS else []
    acts += [At(spoilt, poison)] if spoilt is not None and rank == 1 else []
    fit(made, folder, FullyShard() if sharded else "ddp", 2, *acts)
    if sharded:
        learnt = [p for p in made.trained().parameters() if p.requires_grad]
        parts = sum(local(p).numel() for p in learnt)
        remembered = sum(local(v).numel() for s in made._players[0].built.state.values() for v in s.values() if v.ndim)
        averaged = sum(w.numel() for w in made.average.weights)
        whole = sum(p.numel() for p in made.model.autoencoder.parameters())
        torch.save([sum(p.numel() for p in learnt), parts, remembered, averaged, whole], folder / f"sizes-{rank}.pt")
    torch.distributed.destroy_process_group()


def two(folder: Path, kind: str, sharded: bool, until: int = STEPS, spoilt: int | None = None) -> Path:
    """A run of two ranks. Forked: a process that starts anew imports for longer than it trains."""
    folder.mkdir(parents=True, exist_ok=True)
    mp.start_processes(_rank, (folder, kind, sharded, until, spoilt), nprocs=2, start_method="fork")
    return folder


def one(folder: Path, kind: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    fit(stage(kind), folder, "auto", 1)
    return folder


def left(folder: Path) -> dict[str, Any]:
    """What the last checkpoint holds, but for the clock and the means, which are empty at the end."""
    step, state = Checkpoints(folder / "second").load()
    assert step == STEPS
    return {name: state[name] for name in ("updates", "weights", "average", "powers", "optimizers", "skipped")}


def assert_same(folder: Path, other: Path) -> None:
    torch.testing.assert_close(left(folder), left(other), atol=1e-5, rtol=1e-5)
    for row, wanted in zip(rows(folder, "second"), rows(other, "second"), strict=True):
        assert row.keys() == wanted.keys()
        for name in row.keys() - {"stage"}:
            assert row[name] == pytest.approx(wanted[name], rel=1e-4, abs=1e-6), name


@pytest.fixture(scope="module")
def ddp(tmp_path_factory):
    return {kind: two(tmp_path_factory.mktemp(kind), kind, sharded=False) for kind in ("plain", "aligned")}


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    return {kind: two(tmp_path_factory.mktemp(kind), kind, sharded=True) for kind in ("plain", "aligned")}


@pytest.mark.parametrize("kind", ["plain", "aligned"])
def test_the_updates_are_those_of_ddp(ddp, sharded, kind):
    """Weights, averages, moments of the optimiser, gradients' norms, losses, validation (the ranks have two batches and one of
    the five held-out images)."""
    assert_same(sharded[kind], ddp[kind])
    names = {name for row in rows(sharded[kind]) for name in row}
    assert {"loss", "prior gradient", "val diffusion", "val diffusion (average)"} <= names


def test_each_rank_has_its_part(sharded):
    sizes = [torch.load(sharded["plain"] / f"sizes-{rank}.pt") for rank in (0, 1)]
    for learnt, parts, remembered, averaged, first in sizes:
        assert learnt / 3 < parts < learnt * 2 / 3
        assert averaged == parts and remembered == 2 * parts
        assert first == sum(p.numel() for p in stage("plain").model.autoencoder.parameters()), "not trained, so whole"
    assert sum(parts for _, parts, *_ in sizes) == sizes[0][0]


def test_snapshots_and_pictures_are_whole(ddp, sharded):
    folders = sharded["plain"], ddp["plain"]
    names = sorted(file.name for file in (ddp["plain"] / "snapshots").glob("*.safetensors"))
    assert len(names) == 4
    for name in names:
        found, wanted = (load_file(folder / "snapshots" / name) for folder in folders)
        rounding = 1e-3 if found["prior.weighting.series"].dtype == torch.half else 1e-5
        torch.testing.assert_close(found, wanted, atol=rounding, rtol=1e-5)
    for name in ("second-0000003.png", "second-0000006.png"):
        found, wanted = (np.asarray(Image.open(folder / "pictures" / name)).astype(int) for folder in folders)
        assert abs(found - wanted).max() <= 1, "of the averaged weights, by all ranks"


def test_going_on_with_other_ranks(ddp, tmp_path):
    """Two that shard, then one; and one, then two that shard."""
    one(two(tmp_path / "fewer", "plain", sharded=True, until=2), "plain")
    assert_same(tmp_path / "fewer", ddp["plain"])
    (tmp_path / "more").mkdir()
    fit(stage("plain"), tmp_path / "more", "auto", 1, At(2, lambda s: setattr(s.stop, "raised", True)))
    assert_same(two(tmp_path / "more", "plain", sharded=True), ddp["plain"])


def test_a_gradient_that_is_not_finite_on_one_rank_moves_nothing(tmp_path):
    found = two(tmp_path / "sharded", "plain", sharded=True, spoilt=2)
    assert_same(found, two(tmp_path / "whole", "plain", sharded=False, spoilt=2))
    assert max(row.get("skipped", 0) for row in rows(found)) == 1


def test_blocks_are_what_is_called_in_a_list():
    class Level(nn.Module):  # not called: its layers are
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.Sequential(nn.ModuleList([nn.Linear(1, 1)])), nn.Linear(1, 1)])

    network = nn.Sequential(nn.Linear(1, 1), nn.ModuleList([Level(), nn.Linear(1, 1)]))
    level, linear = network[1]
    assert blocks(network) == [*level.layers, linear]
    backbone = stage("plain").model.prior.denoiser.backbone
    assert {type(block).__name__ for block in blocks(backbone)} == {"Layer"}


def test_a_loss_scale_is_refused(tmp_path):
    config = tiny(tmp_path)
    config["trainer"] |= {"strategy": "fsdp", "precision": "16-mixed"}
    with pytest.raises(ConfigError, match=r"trainer\.precision=16-mixed.*take bf16-mixed"):
        Experiment(config)


def _run(rank: int, config: dict[str, Any], port: int) -> None:
    torch.set_num_threads(1)
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    assert Experiment(config).run() == 0


def test_a_whole_run(tmp_path):
    """Both stages, a critic, captions; its model is whole and measured as that of DDP is."""
    for strategy in ("ddp", "fsdp"):
        config = tiny(tmp_path / strategy, "loss=kl_gan", "backbone=dit_small")
        config["trainer"] |= {"devices": 2}
        if strategy == "fsdp":
            config["trainer"]["strategy"] = strategy
        for part in ("first", "second"):
            config[part]["optimizer"] |= {"eps": 1.0, "lr": 0.1, "weight_decay": 0.0}
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        mp.start_processes(_run, (config, port), nprocs=2, start_method="fork")
    runs = [tmp_path / strategy / "runs" / "run" for strategy in ("fsdp", "ddp")]
    for name in ("model.safetensors", "raw.safetensors"):
        found, wanted = (load_file(run / "model" / name) for run in runs)
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    assert (runs[0] / "records.jsonl").exists() and (runs[0] / "report.html").exists()
