"""What a product was made from: histories, worked out by hand, and what they allow."""

import copy
from dataclasses import replace

import pytest

from ldm.command.grammar import settable
from ldm.run.record import Record, current, table
from ldm.run.store import key_of
from ldm.stage.difference import differences, said, shown
from ldm.stage.provenance import Begun, config_hash, fresh, going_on, gone_back, plan, returns
from ldm.stage.settings import of_data, of_first, of_second
from tests.runs import tiny
from tests.stage.tiny import data

RATE = {"constant": "ldm.stage.rate.Constant", "cosine": "ldm.stage.rate.Cosine"}


def settings(course: str = "constant", steps: int = 4, lr: float = 1e-3, **more) -> dict:
    recipe = {
        "_target_": "ldm.stage.recipe.Recipe",
        "steps": steps,
        "optimizer": {"_target_": "torch.optim.AdamW", "_partial_": True, "lr": lr},
        "rate": {"_target_": RATE[course]},
    }
    return {"second": recipe, "seed": 0, "prior": {"width": 8}} | more


def test_differences_are_leaves():
    old, new = {"a": {"b": 1, "c": [1]}, "d": 1}, {"a": {"b": 2, "c": [1]}, "e": None, "f": 3}
    assert list(differences(old, new)) == [("a.b", 1, 2), ("d", 1, None), ("f", None, 3)]
    assert not list(differences({"a": 1}, {"a": 1, "group": {}})), "begun before there was such a group"
    assert list(differences({"a": 0}, {"a": {}})) == [("a", 0, {})]


def test_updates_that_longer_training_would_have_made_are_its_own():
    longer = settings(steps=6)
    assert going_on(fresh(settings()), 4, longer, "second") == [{"after": 0, "settings": longer}]
    cosine = settings("cosine", steps=6)
    history = going_on(fresh(settings("cosine")), 4, cosine, "second")
    assert history == [{"after": 0, "settings": settings("cosine")}, {"after": 4, "settings": cosine}]
    assert going_on(history, 5, cosine, "second") == history


def test_a_stage_that_went_back_is_another_product_and_the_same_configuration():
    """Its store key differs from that of one that did not, and its numbers stand in one row with those of other seeds."""
    plain, longer = fresh(settings()), settings(steps=6)
    back = gone_back(plain, 2, 1)
    assert back == [{"after": 0, "settings": settings()}, {"after": 2, "settings": settings(), "returned": 1}]
    assert (returns([]), returns(plain), returns(back), returns(gone_back(back, 3, 2))) == (0, 0, 1, 2)
    assert key_of(back) != key_of(plain) and config_hash(back) == config_hash(plain)
    assert going_on(back, 3, settings(), "second") == back, "a resumed stage has still gone back"
    on = going_on(back, 3, longer, "second")
    assert on[1] == {"after": 2, "settings": longer, "returned": 1} and config_hash(on) == config_hash(fresh(longer))
    other = settings("cosine", steps=6)
    assert going_on(back, 3, other, "second") == [*back, {"after": 3, "settings": other}]
    assert plan("second", Begun(4, back), settings()).again().history == back, "all of it is of these settings"
    assert plan("second", Begun(4, on), longer).again().anew


def test_decay_counts_only_where_it_differs():
    """d_n = min(decay, 1 - 10 / steps, (1 + n) / (10 + n)): 0 up to 10 steps; .1, 2 / 11 at the first of 100, if below decay."""
    one, other = settings(steps=4), settings(steps=10)
    one["second"]["decay"], other["second"]["decay"] = 0.9, 0.5
    assert len(going_on(fresh(one), 4, other, "second")) == 1
    one, other = settings(steps=100), settings(steps=100)
    one["second"]["decay"], other["second"]["decay"] = 0.9, 0.15
    assert len(going_on(fresh(one), 1, other, "second")) == 1, "1 / 10 at the first update, whatever the bound"
    assert len(going_on(fresh(one), 2, other, "second")) == 2, "2 / 11 at the second, or .15"


def test_a_plan_goes_on_tells_or_refuses():
    there = Begun(2, fresh(settings()))
    assert plan("second", None, settings()) == plan("second", Begun(0, fresh({})), settings())
    same = plan("second", there, settings())
    assert (same.updates, same.changed, same.refused, same.history) == (2, (), (), fresh(settings()))
    other = plan("second", there, settings(lr=1e-4))
    assert other.changed == ("second.optimizer.lr=0.0001 (was 0.001)",) and not other.refused
    assert [entry["after"] for entry in other.history] == [0, 2]
    done = plan("second", Begun(4, fresh(settings())), settings(lr=1e-4))
    assert done.refused == ("second.optimizer.lr=0.0001 (was 0.001)",) and not done.changed
    wide = plan("second", there, settings(prior={"width": 4}))
    assert wide.refused == ("prior.width=4 (was 8)",)
    short = plan("second", there, settings(steps=1))
    assert short.refused == ("second.steps=1 (2 updates are done)",)


def test_a_plan_begins_again_only_where_it_differs():
    same = plan("second", Begun(2, fresh(settings())), settings())
    assert same.again() is same
    for other in (settings(lr=1e-4), settings(steps=1), settings(seed=1)):
        anew = plan("second", Begun(2, fresh(settings())), other).again()
        assert anew.anew and anew.updates == 0 and anew.history == fresh(other)


def test_another_first_stage_is_refused_by_the_word_that_made_it():
    def on(lr: float, weights: str | None) -> dict:
        first = {"first": {"optimizer": {"lr": lr}}, "trainer": {"precision": lr}}
        return settings(**{"first stage": {"history": fresh(first), "weights": weights}})

    there = Begun(2, fresh(on(1e-3, "abc")))
    assert not plan("second", there, on(1e-3, None)).refused, "not made yet, by the same words"
    assert plan("second", there, on(1e-2, None)).refused == (
        "first.optimizer.lr=0.01 (was 0.001)",
        "trainer.precision=0.01 (was 0.001)",
    )
    assert plan("second", there, on(1e-3, "def")).refused == ("first stage=def (was abc)",)


def test_few_reasons_are_shown():
    assert shown(("a", "b")) == "a; b" and shown(tuple("abcdefg")) == "a; b; c; d; e and 2 more"


@pytest.mark.parametrize(
    ("words", "same"),
    [
        *[(word, True) for word in ("seed=1", "data.workers=3", "first.log_every=7", "second.accumulate=2", "store=x")],
        *[
            (word, True)
            for word in ("prior.steps=7", "second.snapshots=3", "evaluation.samples=9", "second.again=true")
        ],
        *[
            (word, False)
            for word in ("loss.kl_weight=1e-3", "first.steps=7", "second.optimizer.lr=1", "++condition.drop=0.5")
        ],
        *[(word, False) for word in ("cache_latents=false", "trainer.precision=bf16-mixed", "condition.width=4")],
    ],
)
def test_a_configuration_is_all_but_its_seeds(words, same, tmp_path):
    def name(*words: str) -> str:
        config = tiny(tmp_path, *map(settable, words))
        images = data()
        images.seed = config["data"]["seed"]
        first = fresh(of_first(config, images))
        return config_hash(first, fresh(of_second(config, images, first, str(config["data"]["seed"]))))

    assert (name() == name(words)) == same


def test_settings_name_all_that_updates_depend_on(tmp_path):
    images, config = data(), tiny(tmp_path, "seed=5", "trainer.precision=bf16-mixed")
    images.batch_size, images.seed, images.on_error = 3, 7, "skip"
    images.transform = replace(images.transform, crop="random", flip=True, max_pixels=11, max_bytes=13)
    named = {
        "train": images.sources["train"].fingerprint,
        "image_shape": list(images.image_shape),
        **{"crop": "random", "flip": True, "max_pixels": 11, "max_bytes": 13},
        **{"batch_size": 3, "seed": 7, "on_error": "skip"},
    }
    assert of_data(images) == named and named["train"] != images.sources["val"].fingerprint
    first = of_first(config, images)
    assert set(first) == {"autoencoder", "loss", "seed", "first", "trainer", "data"}
    assert (first["seed"], first["data"], first["trainer"]) == (5, named, {"precision": "bf16-mixed"})
    second = of_second(config, images, fresh(first), "abc")
    parts = {"prior", "condition", "alignment", "seed", "cache_latents"}
    assert set(second) == parts | {"second", "trainer", "data", "first stage"}
    assert second["first stage"] == {"history": fresh(first), "weights": "abc"}
    sampling = {"sampler", "grid", "guidance", "steps"}
    assert sampling <= set(config["prior"]), "what follows training is no part of it"
    assert second["prior"] == {name: value for name, value in config["prior"].items() if name not in sampling}


def test_only_the_updates_of_the_last_settings_have_to_agree():
    """A warm-up of two updates differs from none in the first of them alone: 1 / 2 and 1."""
    warm, cold = settings(steps=9), settings(steps=9)
    warm["second"]["rate"]["warmup"], cold["second"]["rate"]["warmup"] = 2, 0
    history = [*fresh(settings(lr=1e-4)), {"after": 2, "settings": warm}]
    assert going_on(history, 4, cold, "second") == [history[0], {"after": 2, "settings": cold}]
    assert len(going_on(fresh(warm), 4, cold, "second")) == 2


def test_what_may_change_is_told_and_what_may_not_is_named():
    there = Begun(2, fresh(settings(cache_latents=True, data={"train": "a"})))
    plain = plan("second", there, settings(cache_latents=False, data={"train": "a"}))
    assert plain.changed == ("cache_latents=False (was True)",) and not plain.refused
    other = plan("second", there, settings(cache_latents=True, data={"train": "b"}))
    assert other.refused == ("data.train: other images, labels or captions",)


def test_a_first_stage_made_in_parts_is_another():
    now = {"first": {"optimizer": {"lr": 1e-3}}}
    parts = [{"after": 0, "settings": {"first": {"optimizer": {"lr": 1e-2}}}}, {"after": 2, "settings": now}]
    there = Begun(2, fresh(settings(**{"first stage": {"history": parts, "weights": None}})))
    anew = settings(**{"first stage": {"history": fresh(now), "weights": None}})
    assert plan("second", there, anew).refused == ("first=in parts (was in other parts)",)


def test_a_path_to_weights_is_a_name_of_its_content(tmp_path):
    def named(folder: str, content: str) -> dict:
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "w.pth").write_text(content)
        config = tiny(tmp_path)
        config["loss"] = {"perceptual": {"weights": f"{tmp_path}/{folder}/w.pth"}}
        return of_first(config, data())

    here = named("here", "a")
    assert here == named("moved", "a") and here != named("other", "b")


def test_two_configurations_are_two_rows():
    """Six runs, of two KL weights and three seeds."""
    each = {"n": 4, "standard_error": 1.0, "data": "d", "split": "val", "experiment": "e"}
    records = [
        Record(
            metric="psnr", value=value, config=config, model=f"{config}{seed}", seed=seed, run=f"{config}{seed}", **each
        )
        for config, values in (("a", (1.0, 2.0, 3.0)), ("b", (11.0, 12.0, 13.0)))
        for seed, value in enumerate(values)
    ]
    assert [(row.mean, row.seeds) for row in table(records)] == [(2.0, 3), (12.0, 3)]
    assert current(records) == records[3:] and current([]) == []


def test_what_was_planned_is_not_changed_by_it():
    history, wanted = fresh(settings()), settings(steps=6)
    kept = copy.deepcopy((history, wanted))
    going_on(history, 4, wanted, "second")
    config_hash(history)
    assert (history, wanted) == kept


def test_of_another_class_its_own_arguments_are_not_told():
    old = {"_target_": "a.Glow", "steps": 8, "width": 4}
    new = {"_target_": "a.Gan", "noise": 64, "width": 5}
    assert said([*differences(old, new)], "prior.") == ("prior._target_=a.Gan (was a.Glow)", "prior.width=5 (was 4)")
    assert said([*differences({"of": old}, {"of": {**old, "noise": 3}})]) == ("of.noise=3 (was None)",)
    assert said([*differences({"of": {}}, {"of": new})])[0] == "of._target_=a.Gan (was None)"
    assert said([*differences({"of": old, "b": None}, {"of": new, "b": 1})])[-1] == "of.width=5 (was 4)"
