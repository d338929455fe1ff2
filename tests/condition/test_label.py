import pytest
import torch

from ldm.condition.label import Label
from ldm.condition.none import Unconditional


def test_one_token_a_class():
    label = Label(classes=3, width=8)
    c = label({"label": torch.tensor([0, 2, 0])})
    assert c.tokens.shape == (3, 1, 8) == (3, 1, label.shape.tokens)
    assert torch.equal(c.tokens[0], c.tokens[2]) and not torch.equal(c.tokens[0], c.tokens[1])


def test_minus_one_and_no_labels_at_all_are_the_learnt_null():
    label = Label(classes=3, width=8)
    c = label({"label": torch.tensor([1, -1])})
    assert torch.equal(c.tokens[1], c.null().tokens[1]) and not torch.equal(c.tokens[0], c.null().tokens[0])
    free = label({"index": torch.arange(2)})
    assert torch.equal(free.tokens, c.null().tokens)


def test_the_null_is_trained_when_a_label_is_dropped():
    label = Label(classes=3, width=8)
    label({"label": torch.tensor([0, 1])}).drop(0.5, torch.tensor([0.1, 0.9])).tokens.sum().backward()
    rows = label.tokens.weight.grad.abs().sum(1) > 0
    assert rows.tolist() == [False, True, False, True]


@pytest.mark.parametrize("wrong", [3, 100, -2])
def test_labels_out_of_range_are_named(wrong):
    with pytest.raises(ValueError, match=rf"labels are 0 to 2.*got .*{wrong}.*condition.classes"):
        Label(classes=3)({"label": torch.tensor([0, wrong])})


def test_a_batch_without_labels_is_refused():
    with pytest.raises(KeyError, match=r"needs batch\['label'\]"):
        Label(classes=3)({"caption": ["a"]})


def test_no_condition_is_an_empty_context():
    none = Unconditional()
    c = none({"image": torch.zeros(2, 3, 4, 4)})
    assert c.tokens is None and c.null() is c and not list(none.parameters())
    assert none.shape.tokens is None and none.shape.spatial is None
