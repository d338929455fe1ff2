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
    free = label.eval()({"index": torch.arange(2)})
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


def test_elsewhere_than_on_the_host_labels_are_checked_without_a_wait(monkeypatch):
    """On `meta`, as on a GPU that is not waited for, no value can be looked at: only the device's own assertion is left."""
    asserted = []
    monkeypatch.setattr(torch, "_assert_async", lambda condition, said: asserted.append((condition, said)))
    label = Label(classes=3, width=8).to("meta")
    label({"label": torch.zeros(2, dtype=torch.int64, device="meta")})
    ((condition, said),) = asserted
    assert condition.device.type == "meta" and condition.dtype == torch.bool and "labels are 0 to 2" in said


@pytest.mark.parametrize("labels", [[0, 3], [-2, 1], [4]])
def test_what_the_device_asserts_is_the_range(labels, monkeypatch):
    """3, the row of the null, too: the same condition, with values."""
    asserted = []
    monkeypatch.setattr(torch, "_assert_async", lambda condition, _: asserted.append(bool(condition)))
    elsewhere = type("Elsewhere", (torch.Tensor,), {"device": torch.device("meta")})
    label = Label(classes=3, width=8)
    label._check(torch.tensor(labels).as_subclass(elsewhere))
    label._check(torch.tensor([-1, 0, 1, 2]).as_subclass(elsewhere))
    assert asserted == [False, True]


def test_a_batch_without_labels_is_refused():
    with pytest.raises(KeyError, match=r"needs batch\['label'\]"):
        Label(classes=3)({"caption": ["a"]})
    with pytest.raises(KeyError, match="this data has no labels"):
        Label(classes=3).train()({"index": torch.arange(2)})


# Names


def test_names_decide_the_number():
    assert Label(names=("cat", "dog")).classes == Label(2, ("cat", "dog")).classes == 2
    assert Label(names=("cat", "dog"), width=8).tokens.weight.shape == (3, 8)
    with pytest.raises(ValueError, match="condition.classes=10, but 2 classes have names: cat, dog"):
        Label(10, ("cat", "dog"))
    with pytest.raises(ValueError, match="'?cat'? stands there twice"):
        Label(names=("cat", "dog", "cat"))
    with pytest.raises(ValueError, match="condition.classes=N"):
        Label()


@pytest.mark.parametrize(
    ("word", "number"),
    [
        ("cat", 0),
        ("Cat", 0),
        ("7", 1),
        (7, 1),
        ("sea cow", 2),
        ("0", 0),
        (0, 0),
        (2, 2),
        ("-1", -1),
        (-1, -1),
        ("\N{LATIN SMALL LETTER E WITH ACUTE}", 3),
    ],
)
def test_a_class_is_named_or_numbered_and_a_name_wins(word, number):
    assert Label(names=("cat", "7", "sea cow", "\N{LATIN SMALL LETTER E WITH ACUTE}")).number(word) == number


def test_capitals_decide_where_names_differ_in_them_alone():
    label = Label(names=("Polish", "polish"))
    assert label.number("polish") == 1
    with pytest.raises(ValueError, match="label=POLISH: no such class"):
        label.number("POLISH")


def test_an_unknown_class_lists_them_the_nearest_first():
    with pytest.raises(
        ValueError, match="label=dgo: no such class. There are dog, cat, eel; or by number 0 to 2, or -1"
    ):
        Label(names=("cat", "dog", "eel")).number("dgo")
    with pytest.raises(ValueError, match="label=3: no such class"):
        Label(names=("cat", "dog", "eel")).number(3)
    many = Label(names=tuple(f"class {i}" for i in range(1000)))
    with pytest.raises(ValueError, match="and 960 more") as caught:
        many.number("clas 7")
    assert "There are class 7, " in str(caught.value)
    with pytest.raises(
        ValueError, match="label=cat: this model's are 0 to 2, or -1 for none; its classes have no names"
    ):
        Label(classes=3).number("cat")


def test_no_condition_is_an_empty_context():
    none = Unconditional()
    c = none({"image": torch.zeros(2, 3, 4, 4)})
    assert c.tokens is None and c.null() is c and not list(none.parameters())
    assert none.shape.tokens is None and none.shape.spatial is None


def test_it_says_what_it_reads():
    assert Label(3).needs == ("label",) and Unconditional().needs == ()
