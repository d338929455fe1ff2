"""Every word of `condition`: it reads what it says it reads, and its context is of the shape that it promises."""

import pytest
import torch
import yaml

from ldm.build import check
from ldm.types import ContextShape
from tests.condition.first import Folded
from tests.pieces import CONF, pieces

READS = {"none": (), "label": ("label",), "text": ("caption",)}  # clip, t5 and padded need a download
OF_IMAGES = {"masked", "low_resolution"}  # tests/condition/test_spatial.py says what they read
BATCH = {"caption": ["a caption", "another one"], "label": torch.tensor([0, 1]), "index": torch.arange(2)}


def made(name: str):
    given = {"classes": 3} if name == "label" else {}  # a run reads them from its data
    condition = pieces("condition")[name](**given)
    condition.fit(BATCH["caption"])
    return condition.eval()


def test_every_word_is_tested():
    assert set(READS) == set(pieces("condition")) - {"clip", "t5", "padded"} - OF_IMAGES


@pytest.mark.parametrize("name", sorted(pieces("condition")))
def test_a_config_fits_its_signature(name):
    node = yaml.safe_load((CONF / "condition" / f"{name}.yaml").read_text(encoding="utf-8"))
    node.pop("defaults", None)
    check(node, "condition", ("first",))
    with pytest.raises(ValueError, match="wdith"):
        check(node | {"wdith": 8}, "condition", ("first",))


@pytest.mark.parametrize("name", READS)
def test_it_reads_what_it_says(name):
    """Its answer follows from the keys that it needs and from no other, and tells one value of them from another."""
    condition, own = made(name), {key: BATCH[key] for key in READS[name]}
    assert condition.needs == READS[name]
    whole, alone = condition(BATCH), condition(own)
    assert alone.shape == whole.shape == condition.shape and (name == "none") is (condition.shape == ContextShape())
    if own:
        assert torch.equal(alone.tokens, whole.tokens) and whole.tokens.shape[0] == 2
        used = whole.tokens.masked_fill(~whole.mask[..., None], 0)
        assert (used[0] - used[1]).abs().max() > 1e-3
        with pytest.raises(KeyError, match=f"batch.*{READS[name][0]}"):
            condition({"other": 1})


@pytest.mark.parametrize("name", sorted(OF_IMAGES))
def test_a_condition_of_images_is_composed_with_any_other(name):
    """What is read of others and its tokens are theirs."""
    for word in READS:
        other = made(word)
        condition = pieces("condition")[name](first=Folded(), of=other)
        told = {key: value for key, value in BATCH.items() if key in ("index", *READS[word])}
        c = condition(told | {"image": torch.zeros(2, 1, 8, 8)})
        assert condition.needs == (*READS[word], "image") and c.shape == condition.shape
        assert c.shape == ContextShape(other.shape.tokens, len(condition.nothing))
        assert word == "none" or torch.equal(c.tokens, other(told).tokens)
