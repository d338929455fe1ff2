"""The study of experiments/ring: every prior that models two numbers is in it, composes, trains and leaves its row."""

import json
import math
from dataclasses import replace

import pytest
import torch

from experiments.ring import picture, study
from ldm.tensors import read_tensors
from tests.runs import words_of

RECIPES = study.recipes()


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """Updates, samples and draws."""
    short = {word: replace(recipe, updates=min(recipe.updates, 2), rows=16) for word, recipe in RECIPES.items()}
    monkeypatch.setattr(study, "recipes", lambda: short)
    monkeypatch.setattr(study, "SAMPLES", 16)
    monkeypatch.setattr(study, "DRAWS", 16)
    monkeypatch.setattr(study.ring, "errors_away", lambda z: 0.0)  # of its own test; twenty sets of draws


def test_every_prior_of_two_numbers_has_a_recipe():
    assert set(words_of("prior")) - set(RECIPES) == {"categorical", "variational_dequantisation"}


@pytest.mark.parametrize("word", RECIPES)
def test_a_word_leaves_its_rows_and_their_samples(word, tmp_path, monkeypatch, capsys):
    few_steps = ["--words", "prior.steps=2"] if word in ("ebm", "equilibrium") else []
    monkeypatch.setattr("sys.argv", ["study", str(tmp_path), word, *few_steps])
    study.main()
    names = [f"{word} {steps}" for steps in RECIPES[word].steps] or [word]
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["word"] for row in told] == names
    for name, row in zip(names, told, strict=True):
        assert row == json.loads((tmp_path / f"{name}.json").read_text("utf-8"))
        assert row["nats"] is None or math.isfinite(row["nats"])
        assert 0 <= row["near"] <= 1 and 0 <= row["modes"] <= 8
        z = read_tensors(tmp_path / f"{name}.safetensors")["z"]
        assert z.shape == (16, 2) and z.isfinite().all()


def test_a_word_that_tunes_begins_from_the_teachers_weights(monkeypatch):
    """Which two updates at a rate of nothing leave as they are."""
    short = study.recipes()
    teacher = study.learnt(study.TEACHER, short[study.TEACHER]).state_dict()
    tuned = study.learnt("consistency", replace(short["consistency"], rate=1e-12)).state_dict()
    for name, weight in teacher.items():
        torch.testing.assert_close(tuned[name], weight)


def test_the_row_of_the_law_itself(monkeypatch):
    """Samples that are draws of the ring: no nats above the entropy, all modes."""
    monkeypatch.setattr(study, "SAMPLES", 2000)
    row, z = study.row(Law())
    assert row["nats"] == 0 and row["modes"] == 8 and row["near"] > 0.97 and z.shape == (2000, 2)


class Law(study.Likelihood):
    kind = "exact"

    def sample(self, shape, c, random):
        return study.ring.draw(shape[0])

    def log_prob(self, z, c, random=None):
        return study.ring.log_density(z)


def test_the_picture(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["study", str(tmp_path), "normal", "mixture"])
    study.main()
    titles = [title for title, _ in picture.panels(tmp_path)]
    assert len(titles) == 3 and titles[0] == "the ring" and titles[1].startswith("normal")
    monkeypatch.setattr("sys.argv", ["picture", str(tmp_path), str(tmp_path / "ring.png")])
    picture.main()
    assert (tmp_path / "ring.png").stat().st_size > 1000
