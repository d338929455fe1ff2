"""Plain words of the right kind, and stages that nothing makes."""

import inspect

import pytest
from lightning.pytorch import Trainer
from torch import nn

from ldm.build import typed
from ldm.command.grammar import settable
from ldm.command.sample import sample
from ldm.experiment.check import _OF_STAGES, check_stages
from ldm.experiment.experiment import Experiment
from ldm.resolve import ConfigError
from ldm.stage.budget import Budget
from ldm.stage.recipe import Recipe
from tests.runs import tiny


def test_words_are_of_the_kind_that_the_function_says():
    assert typed(sample, {"n": "3", "label": "cat", "guidance": 2}) == {"n": 3, "label": "cat", "guidance": 2}
    for word, wrong in (("n", "many"), ("seed", "x"), ("guidance", "high"), ("weights", "worst"), ("compile", "maybe")):
        with pytest.raises(ConfigError, match=f"^{word}: .*got '{wrong}'"):
            typed(sample, {word: wrong})


def test_a_stage_that_is_not_trained_is_empty_whatever_an_experiment_says_of_it(tmp_path):
    config = Experiment(tiny(tmp_path) | {"second": {"steps": 3, "optimizer": {"lr": 0.1}}}).config
    assert config["second"] == {} and config["first"]["steps"] == 2


def test_a_metric_that_is_left_out_is_out(tmp_path):
    config = tiny(tmp_path)
    config = Experiment(config | {"metric": config["metric"] | {"distances": None}}).config
    assert list(config["metric"]) == ["reconstruction"]


@pytest.mark.parametrize("group", ["logger", "callback"])
def test_a_logger_or_a_callback_that_is_left_out_is_out(group, tmp_path):
    assert Experiment(tiny(tmp_path) | {group: {"one": None}}).config[group] == {}


def test_a_first_stage_that_nothing_makes_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="stage@first=none: this autoencoder has weights that nothing trains; give"):
        Experiment(tiny(tmp_path) | {"first": {}}).run()
    assert list(tmp_path.iterdir()) == []
    check_stages({"first": {}}, True, nn.Linear(1, 1))
    check_stages({"first": {}}, False, nn.Identity())
    check_stages({"first": {"steps": 1}}, False, nn.Linear(1, 1))


def _refused(tmp_path, match, *words, **trainer):
    config = tiny(tmp_path, "condition=none", *words)
    config["trainer"] |= trainer
    with pytest.raises(ConfigError, match=match):
        Experiment(config).run()
    assert list(tmp_path.iterdir()) == [], "before anything is trained"


@pytest.mark.parametrize(
    ("name", "value", "instead"),
    [
        ("max_steps", 3, r"first\.steps= or second\.steps="),
        ("accumulate_grad_batches", 2, r"first\.accumulate= or second\.accumulate="),
        ("gradient_clip_val", 1.0, r"first\.clip= or second\.clip="),
        ("max_time", "00:01:00:00", r"first\.budget\.seconds= or second\.budget\.seconds="),
        ("logger", True, "logger="),
    ],
)
def test_what_a_stage_does_itself_is_not_asked_of_the_trainer(name, value, instead, tmp_path):
    said = rf"trainer\.{name}={value}: this is no affair of the trainer here; take {instead}$"
    _refused(tmp_path, said, **{name: value})


def test_every_field_that_the_trainer_sends_to_is_one():
    for name, words in _OF_STAGES.items():
        assert name in inspect.signature(Trainer).parameters
        for word in words:
            recipe, _, budget = word.partition(".")
            assert word.endswith("=") or recipe in Recipe.__dataclass_fields__
            assert not budget or budget in Budget.__dataclass_fields__


def test_what_tunes_a_trained_prior_does_not_begin_from_random_weights(tmp_path):
    _refused(tmp_path, r"Consistency goes on from a diffusion's run .*give prior\.checkpoint=RUN", "prior=consistency")


@pytest.mark.parametrize(
    ("word", "why"),
    [
        ("cnf", "of CNF how often its network is asked depends on .*RungeKutta"),
        ("mixture", r"prior \(Mixture\) has weights beside"),
        ("glow", "of Glow bijections have weights of their own"),
    ],
)
def test_what_sharded_ranks_cannot_train_is_refused(word, why, tmp_path):
    _refused(tmp_path, rf"trainer\.strategy=fsdp.*{why}", f"prior={word}", strategy="fsdp")


def test_fixed_steps_and_flow_matching_can_be_sharded(tmp_path):
    fixed = "prior.objective.solver={_target_: ldm.ode.RungeKutta, steps: 2}"
    for words in (("prior=cnf", fixed), ("prior=ot_flow",), ("prior=gan",)):
        config = tiny(tmp_path, "condition=none", *map(settable, words))
        config["trainer"] |= {"strategy": "fsdp"}
        Experiment(config)._prepare()


@pytest.mark.parametrize("group", ["metric", "logger", "callback"])
def test_words_for_one_that_is_not_chosen_are_told(group, tmp_path):
    """As an experiment's words for a metric that a command line has put another in the place of."""
    config = tiny(tmp_path)
    with pytest.raises(
        ConfigError, match=rf"{group}\.absent: .*add it, as {group}=\[\.\.\.,absent\], or leave them out"
    ):
        Experiment(config | {group: (config[group] or {}) | {"absent": {"draws": 3}}})


@pytest.mark.parametrize(
    ("match", "words"),
    [
        (
            r"condition\.of: LowResolution is a condition on a part of each image, as the one around it is",
            ("condition@condition.of=low_resolution",),
        ),
        (r"cache_latents=true keeps latents in the place of images.*Masked, reads the image", ("cache_latents=true",)),
    ],
)
def test_a_condition_on_images_takes_neither_another_nor_cached_latents(match, words, tmp_path):
    config = tiny(tmp_path, "condition=masked", *words)
    with pytest.raises(ConfigError, match=match):
        Experiment(config).run()
    assert list(tmp_path.iterdir()) == []


def test_numbers_that_this_machine_cannot_measure_are_told_before_training(tmp_path, caplog):
    """A run goes on without them, so it is told while nothing is lost by stopping."""
    words = ("metric=[offline,clip_score]", f"+metric.clip_score.source={tmp_path}/none")
    Experiment(tiny(tmp_path, *words))._prepare()
    assert f"no clip_score: nothing at {tmp_path}/none" in caplog.text
    assert "the run goes on without, and `ldm evaluate` can measure it later" in caplog.text


def test_a_store_in_the_place_of_a_file_is_told_before_a_directory_is_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"store=.*x: a folder is wanted, and .*file is a file; take another store="):
        Experiment(tiny(tmp_path) | {"store": str(tmp_path / "file" / "x")})._prepare()
