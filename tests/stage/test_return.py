"""A stage that diverged goes back to its last checkpoint and on with other noise, as often as its recipe says; it is counted."""

import json
import logging

import pytest
import torch

from ldm.experiment.experiment import Experiment
from ldm.prior.base import Latents, Terms
from ldm.prior.mixture import Mixture
from ldm.random import Random, seed_of
from ldm.run import record
from ldm.run.checkpoint import Checkpoints
from ldm.run.signals import Diverged
from ldm.stage.first import First
from ldm.types import Context, ContextShape, Latent
from tests.runs import rows, tiny
from tests.stage.test_sides import stage
from tests.stage.tiny import fit, result

FIRST = seed_of(0, "second")  # the key of the noise that a stage begins with


class Fragile(Mixture):
    """Under the first noise every loss from update 3 on is not finite."""

    def __init__(self, latents: Latents, context: ContextShape):
        super().__init__(latents, context, components=2)

    def loss(self, z: Latent, c: Context, random: Random | None = None) -> Terms:
        own = super().loss(z, c, random)["nll per dimension"]
        return {"nll": own * (torch.nan if random.seed == FIRST and random.step >= 3 else 1.0)}


OPTIONS = {"steps": 8, "log_every": 1, "validate_every": 0, "save_every": 2, "patience": 2}


def test_it_goes_on_from_the_checkpoint_with_other_noise(tmp_path, caplog):
    made = stage(Fragile, returns=1, **OPTIONS)
    with pytest.raises(Diverged):
        fit(made, tmp_path)
    assert made.updates == 5, "updates 3 and 4 were refused"
    assert made.go_back() and "goes back to update 4, with other noise (1 of 1 times)" in caplog.text
    fit(made, tmp_path)
    assert (made.updates, made.returned) == (8, 1)
    assert [row["step"] for row in rows(tmp_path, "second")] == list(range(1, 9)), "the curve is of what counts"
    assert [row.get("returned") for row in rows(tmp_path, "second")] == [None] * 4 + [1.0] * 4
    assert not made.go_back()

    again = stage(Fragile, returns=1, **OPTIONS)
    fit(again, tmp_path)
    assert again.returned == 1, "the count is in the checkpoint"


def test_without_a_checkpoint_or_a_word_it_ends(tmp_path):
    never, nowhere = stage(Fragile, **OPTIONS), stage(Fragile, returns=1, **OPTIONS | {"save_every": 0})
    for made, folder in ((never, tmp_path / "a"), (nowhere, tmp_path / "b")):
        with pytest.raises(Diverged):
            fit(made, folder)
        assert not made.go_back()


def test_a_return_is_computed_as_by_a_stage_that_has_never_diverged(tmp_path):
    """Weights, averages and optimisers are those of the checkpoint, and nothing is left of the updates after it."""
    made = stage(Fragile, returns=1, **OPTIONS)
    with pytest.raises(Diverged):
        fit(made, tmp_path)
    made.go_back()
    fit(made, tmp_path)
    other = stage(Fragile, **OPTIONS)
    other.returned = 1
    step, state = Checkpoints(tmp_path / "second").load()
    assert step == 8 and state["returned"] == 1
    Checkpoints(tmp_path / "second").clear()
    half = stage(Fragile, **OPTIONS | {"steps": 8})
    with pytest.raises(Diverged):
        fit(half, tmp_path)
    fit(other, tmp_path)
    for key in ("weights", "average", "optimizers"):
        torch.testing.assert_close(result(made)[key], result(other)[key], rtol=0, atol=0)


def test_a_run_goes_back_by_itself(tmp_path, monkeypatch, caplog):
    plain = Mixture.loss

    def fragile(self, z, c, random=None):
        return {"nll": plain(self, z, c, random)["nll per dimension"] * (torch.nan if random.seed == FIRST else 1.0)}

    monkeypatch.setattr(Mixture, "loss", fragile)
    caplog.set_level(logging.INFO)
    config = tiny(tmp_path, "prior=mixture", "prior.components=2", "metric=none", steps=4)
    config["second"] |= {"returns": 1, "patience": 2, "validate_every": 0}
    assert Experiment(config).run() == 0
    run = tmp_path / "runs/run"
    assert json.loads((run / "run.json").read_text())["status"] == "finished"
    assert rows(run, "second")[-1]["returned"] == 1.0
    assert json.loads((run / "model/config.json").read_text())["made_from"]["returned"] == 1


def test_a_first_stage_that_went_back_says_so_where_it_is_stored_and_in_numbers(tmp_path, monkeypatch):
    plain = First._reconstruct

    def fragile(self, batch, random, shared):
        terms, values = plain(self, batch, random, shared)
        return {name: term * (torch.nan if self.returned == 0 else 1.0) for name, term in terms.items()}, values

    monkeypatch.setattr(First, "_reconstruct", fragile)
    config = tiny(tmp_path, "prior=normal", "metric=offline")
    config["first"] |= {"returns": 1, "patience": 2, "log_every": 1, "save_every": 1, "validate_every": 0}
    assert Experiment(config).run() == 0
    (artifact,) = (tmp_path / "store/autoencoder").glob("*/artifact.json")
    history = json.loads(artifact.read_text())["made_from"]["history"]
    assert [entry.get("returned") for entry in history] == [None, 1]
    assert {each.returned for each in record.read(tmp_path / "runs/run/records.jsonl")} == {1}
    assert Experiment(config).run() == 0
    assert list((tmp_path / "store/autoencoder").glob("*/artifact.json")) == [artifact], "found again"
