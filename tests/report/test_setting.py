"""Which runs are averaged, and what they are called."""

import pytest

from ldm.report.collection import collect
from ldm.report.setting import _WATCHING, differing, settings
from ldm.stage.recipe import WATCHING
from tests.report.runs import record, run


def groups(folder, *by: str) -> dict[str, list[str]]:
    return {each.label: [run.name for _, run in each.runs] for each in settings(collect([str(folder)]).runs, by)}


def test_seeds_names_and_places_are_averaged_over(tmp_path):
    run(tmp_path / "a", record(), seed=0, name="a")
    run(
        tmp_path / "b",
        record(),
        seed=1,
        name="b",
        data__root="/elsewhere",
        second__log_every=3,
        trainer__accelerator="gpu",
    )
    run(tmp_path / "c", record(), seed=0, second__optimizer__lr=0.01)
    run(tmp_path / "d", record(), seed=0, trainer__precision="bf16-mixed")
    assert list(groups(tmp_path).values()) == [["a", "b"], ["c"], ["d"]]


def test_what_is_watched_is_what_training_says():
    assert set(_WATCHING) == set(WATCHING)


def test_settings_are_called_by_as_little_as_tells_them_apart(tmp_path):
    run(tmp_path / "a", record(), prior__steps=10)
    run(tmp_path / "b", record(), prior___target_="ldm.prior.glow.Glow", prior__steps=20)
    run(tmp_path / "c", record(), prior___target_="ldm.prior.glow.Glow", prior__steps=30)
    assert list(groups(tmp_path)) == ["Diffusion", "Glow · steps=20", "Glow · steps=30"]


def test_what_ends_a_stage_is_its_budget_and_not_the_unit_of_its_schedule(tmp_path):
    run(tmp_path / "a", record(), second__steps=8)
    run(tmp_path / "b", record(), second__steps=3000, second__budget={"seconds": 2})
    assert list(groups(tmp_path)) == ["steps=8", "seconds=2"]
    run(tmp_path / "c", record(), second__steps=3000, second__budget={"images": 400})
    run(tmp_path / "d", record(), second__steps=3000, second__budget={"seconds": 4})
    run(tmp_path / "e", record(), second__steps=16)
    assert list(groups(tmp_path)) == ["steps=8", "seconds=2", "images=400", "seconds=4", "steps=16"]


def test_a_key_that_an_older_version_had_not_makes_no_other_setting(tmp_path):
    run(tmp_path / "a", record(), seed=0)
    run(tmp_path / "b", record(), seed=1, second__budget=None)
    assert list(groups(tmp_path)) == ["custom"]


def test_runs_of_another_history_or_without_a_config_are_by_themselves(tmp_path):
    run(tmp_path / "a", record(config="h"), seed=0)
    run(tmp_path / "b", record(config="h"), seed=1)
    run(tmp_path / "c", record(config="other"), seed=2)
    run(tmp_path / "d", seed=3)  # without numbers nothing is known of its history
    (run(tmp_path / "e", record()) / "config.yaml").unlink()
    assert sorted(map(sorted, groups(tmp_path).values())) == [["a", "b", "d"], ["c"], ["e"]]


def test_runs_that_each_began_from_one_of_their_own_seed_are_seeds_of_one_setting(tmp_path):
    """Their histories differ, for each began from other weights; one that began from another seed's run is another setting."""
    for seed in (0, 2, 12):
        begun = {"prior__checkpoint": f"/runs/diffusion/seed-{seed}", "name": f"tuned/seed-{seed}"}
        run(tmp_path / f"{seed}", record(config=f"h{seed}"), seed=seed, **begun)
    run(tmp_path / "1", record(config="h1"), seed=1, prior__checkpoint="/runs/diffusion/seed-12")
    found = groups(tmp_path)
    assert sorted(found.values()) == [["0", "12", "2"], ["1"]]
    assert sorted(groups(tmp_path, "prior").values()) == [["0", "12", "2"], ["1"]]


def test_by_a_key_all_else_is_averaged_over_and_paired_by(tmp_path):
    for prior in ("ldm.prior.glow.Glow", "ldm.prior.diffusion.Diffusion"):
        for lr in (0.1, 0.2):
            run(tmp_path / f"{prior[-4:]}-{lr}", record(), prior___target_=prior, second__optimizer__lr=lr)
    runs = collect([str(tmp_path)]).runs
    assert "second.optimizer.lr" in differing(runs)
    by_prior = settings(runs, ["prior"])
    assert [each.label for each in by_prior] == ["Glow", "Diffusion"] or [each.label for each in by_prior] == [
        "Diffusion",
        "Glow",
    ]
    assert [key for key, _ in by_prior[0].runs] == [key for key, _ in by_prior[1].runs] == [(0.1,), (0.2,)]
    assert len(settings(runs, ["prior", "second.optimizer.lr"])) == 4
    with pytest.raises(ValueError, match=r"by=priors: no run has such a setting; did you mean prior\?"):
        settings(runs, ["priors"])


def test_what_differs_between_settings_alone_keeps_no_runs_apart(tmp_path):
    """Two priors of other numbers of steps and learning rates, by the prior: runs of one seed are pairs, of two they are not."""
    glow = {"prior___target_": "ldm.prior.glow.Glow", "second__steps": 7}
    paths = [run(tmp_path / "a", record(), seed=0), run(tmp_path / "b", record(), seed=0, **glow)]
    paths += [run(tmp_path / "c", record(), seed=1), run(tmp_path / "d", record(), seed=2, **glow)]
    found = settings(collect(map(str, paths)).runs, ["prior"])
    (a, c), (b, d) = ([pairing for pairing, _ in each.runs] for each in found)
    assert a == b and c != d
