"""An update over micro-batches and ranks is that of its batch in one piece: critic, adaptive weight, codes, spread.

By plain gradient steps: Adam's first ones are signs, and blow up the rounding of a gradient that is almost zero.
"""

import math
import os
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import torch.multiprocessing as mp

from ldm.autoencoder.bottleneck import DiagonalGaussian
from ldm.autoencoder.quantiser import VectorQuantiser
from ldm.loss.adaptive import AdaptiveWeight
from ldm.loss.adversarial import Adversarial
from ldm.loss.first_stage import FirstStageLoss
from ldm.loss.reconstruction import Gaussian as GaussianLikelihood
from ldm.nn.patchgan import PatchGAN
from ldm.run.directory import Journal
from ldm.stage.feed import Feed
from ldm.stage.first import First
from tests.runs import rows
from tests.stage.tiny import autoencoder, data, first, fit, recipe

BOTTLENECKS = {
    "gaussian": lambda: DiagonalGaussian(2),
    "quantiser": lambda: VectorQuantiser(24, 2, decay=0.7, restart_below=0.4),
    "learnt codes": lambda: VectorQuantiser(24, 2, running_means=False, decay=0.7, restart_below=0.4),
}
"""So many codes for 64 latent pixels an update that some restart in most updates."""


def stage(kind: str, accumulate: int) -> First:
    """The critic learns from update 1 and is heard from update 2 of six."""
    torch.manual_seed(0)
    own = autoencoder(BOTTLENECKS[kind]())
    critic = Adversarial(PatchGAN(3, 4, 1), weight=0.5, start=2, critic_start=1)
    loss = FirstStageLoss(GaussianLikelihood(), 1e-2, adversarial=critic)
    return First(own, loss, recipe(sgd=True, lr=0.05, accumulate=accumulate, log_every=1, validate_every=0))


def trained(kind: str, accumulate: int, folder: Path, **ranks: Any) -> dict[str, torch.Tensor]:
    """All weights and codes after six updates; the journal stays in `folder`."""
    made = stage(kind, accumulate)
    made.journal = Journal(folder / "metrics.jsonl")
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        **({"devices": 1} | ranks),
    )
    trainer.fit(made, datamodule=Feed(data()))
    assert made.updates == 6
    return {name: value.detach().clone() for name, value in made.trained().state_dict().items()}


def logged(folder: Path) -> list[dict[str, float]]:
    clocks = ("images_per_second", "wait", "seconds", "flops")  # work on weights alone is done for each micro-batch
    return [{key: value for key, value in row.items() if key not in clocks} for row in rows(folder)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Each kind, trained in one piece: (its weights, its journal)."""
    made = {}

    def of(kind: str) -> tuple[dict[str, torch.Tensor], list[dict[str, float]]]:
        if kind not in made:
            folder = tmp_path_factory.mktemp("whole")
            made[kind] = trained(kind, 1, folder), logged(folder)
        return made[kind]

    return of


def assert_same(weights: dict[str, torch.Tensor], journal: list[dict[str, float]], whole: Any) -> None:
    wanted, told = whole
    torch.testing.assert_close(weights, wanted, atol=2e-6, rtol=1e-5)
    for row, other in zip(journal, told, strict=True):
        assert row.keys() == other.keys()
        for key, value in row.items():
            assert value == other[key] or math.isclose(value, other[key], rel_tol=1e-4, abs_tol=1e-6), key


@pytest.mark.parametrize("accumulate", [2, 4])
@pytest.mark.parametrize("kind", BOTTLENECKS)
def test_micro_batches_make_the_update_of_the_batch(kind, accumulate, whole, tmp_path):
    assert_same(trained(kind, accumulate, tmp_path), logged(tmp_path), whole(kind))


def _rank(rank: int, folder: Path, kind: str, accumulate: int) -> None:
    torch.set_num_threads(1)
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    os.environ["MASTER_PORT"] = "1"  # of the group that is there already
    weights = trained(kind, accumulate, folder, devices=2, strategy="ddp_find_unused_parameters_true")
    torch.save(weights, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_ranks_and_micro_batches_make_the_update_of_the_batch(whole, tmp_path):
    # Forked: a process that starts anew imports for longer than it trains.
    mp.start_processes(_rank, (tmp_path, "quantiser", 2), nprocs=2, start_method="fork")
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    torch.testing.assert_close(*ranks, atol=0, rtol=0)
    assert_same(ranks[0], logged(tmp_path), whole("quantiser"))


def test_what_is_kept_apart_has_the_loss_scale_of_the_rest(monkeypatch):
    """In float16; that it is used so, tests/loss/test_adaptive.py works out."""
    given = []

    def recorded(*arguments: Any) -> AdaptiveWeight:
        given.append(arguments)
        return AdaptiveWeight(*arguments)

    monkeypatch.setattr("ldm.stage.first.AdaptiveWeight", recorded)
    made = fit(first(critic_start=0, heard=1, accumulate=2, steps=3), half=True)
    assert len(given) == 3 and made._scaler() is not None, "one an update"
    for parameters, last_layer, parts, scaler in given:
        assert parts == 2 and scaler is made._scaler()
        assert last_layer is made.autoencoder.last_layer and parameters is made._players[0].parameters


def test_what_is_compared_has_moved(whole):
    """The critic was heard, codes restarted, all weights moved."""
    for kind in BOTTLENECKS:
        weights, journal = whole(kind)
        before = stage(kind, 1).trained().state_dict()
        still = {name for name, value in weights.items() if value.numel() and torch.equal(value, before[name])}
        assert still <= {"autoencoder.latent_mean", "autoencoder.latent_std", "loss.adversarial.critic.head.bias"}
        assert [row["step"] for row in journal if "adversarial weight" in row] == [3, 4, 5, 6]
        assert all(row["adversarial weight"] > 1e-3 for row in journal[2:])
        assert ("perplexity" in journal[0]) == (kind != "gaussian")
