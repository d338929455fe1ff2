"""What an experiment says of a part that was replaced is dropped; what was typed is kept, or told to do nothing."""

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from ldm.command.follow import follow, idle
from ldm.command.words import heard
from tests.pieces import CONF


def composed(*words: str):
    """The config of a command line and its words, as training hears them."""
    words = heard(list(words), CONF)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", words)
    OmegaConf.set_struct(config, True)
    return config, words


def followed(*words: str) -> dict:
    config, given = composed(*words)
    follow(config, given)
    assert idle(config, given) is None
    return OmegaConf.to_container(config)


def test_a_replaced_condition_leaves_its_arguments_behind():
    assert followed("experiment=shapes", "condition=none")["condition"] == {
        "_target_": "ldm.condition.none.Unconditional"
    }
    assert set(followed("experiment=shapes", "condition=label")["condition"]) == {"_target_", "classes", "width"}


def test_what_the_new_class_has_too_stays():
    """The experiment's width of the backbone is an argument of the other one, its windows of attention are not."""
    found = followed("experiment=shapes", "backbone=dit")["backbone"]
    assert found["_target_"].endswith("DiT") and found["width"] == 48 and "drawn_context" not in found


def test_a_replaced_guidance_leaves_the_scale_behind():
    config, words = composed("experiment=shapes", "diffusion/guidance=interval")
    follow(config, words)
    node = OmegaConf.to_container(config, resolve=True)["prior"]["guidance"]
    assert node["_target_"].endswith("Interval") and "scale" not in node and node["guidance"]["scale"] == 2.0


def test_arguments_below_a_replaced_part_and_at_a_place_of_a_group_are_dropped_too():
    network = {"_target_": "ldm.backbone.unet.UNet", "width": 8, "numb": 3}
    recipe = {"_target_": "ldm.stage.recipe.Recipe", "steps": 5, "sides": 2}
    config = OmegaConf.create(
        {"prior": {"_target_": "ldm.prior.diffusion.Diffusion", "backbone": network}, "second": recipe}
    )
    follow(config, ["prior=diffusion", "stage@second=second"])
    assert config.prior.backbone == {"_target_": "ldm.backbone.unet.UNet", "width": 8}
    assert config.second == {"_target_": "ldm.stage.recipe.Recipe", "steps": 5}


def test_what_was_typed_stays_to_be_refused():
    """`ldm.signature` then names the nearest right one."""
    assert followed("experiment=shapes", "condition=none", "condition.vocabulary=300")["condition"]["vocabulary"] == 300


def test_what_was_typed_in_braces_stays_to_be_refused():
    words = ("experiment=shapes", "metric=default", "metric.distances={networks: {random_conv: {width: 3}}, numb: 4}")
    found = followed(*words)["metric"]["distances"]
    assert found["networks"]["random_conv"]["width"] == 3 and found["numb"] == 4


def test_nothing_is_dropped_of_what_was_not_replaced():
    config, words = composed("experiment=shapes", "seed=1", "first.steps=3")
    before = OmegaConf.to_container(config)
    follow(config, words)
    assert OmegaConf.to_container(config) == before


@pytest.mark.parametrize(
    "word", ["backbone=dit", "backbone.width=8", "diffusion=edm", "diffusion/sampler=heun", "diffusion.steps=3"]
)
def test_a_word_of_a_piece_that_the_prior_has_not_is_told(word):
    config, words = composed("prior=normal", word)
    assert "this prior has no" in idle(config, words) and word.partition("=")[0] in idle(config, words)
    assert idle(*composed("prior=diffusion", word)) is None


def test_an_experiments_own_pieces_are_no_words_of_the_user():
    assert idle(*composed("experiment=shapes", "prior=normal")) is None
