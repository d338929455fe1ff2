"""Labels mean the same in both sets: one list of classes, by name, whatever each set's own order is."""

import pytest

from ldm.data.module import DataModule
from ldm.data.source import Source, Subset, digest, shown
from ldm.data.split import Renumbered
from tests.data.sources import png
from tests.data.test_module import Streamed


class Animals(Source):
    """Items of the given names, numbered in the order of `classes` (without `classes`, labels are plain numbers)."""

    def __init__(self, names: str, classes: str = "", numbers: tuple = ()):
        self._names, self._classes, self._numbers = tuple(names.split()), tuple(classes.split()), numbers

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> dict:
        name = self._names[index]
        number = self._numbers[index] if self._numbers else self._classes.index(name)
        return {"image": png(10), "label": number, "name": name}

    @property
    def classes(self) -> tuple[str, ...]:
        return self._classes

    @property
    def fingerprint(self) -> str:
        return digest([*self._names, "in", *self._classes, *map(str, self._numbers)])


def module(train: Source, val: Source) -> DataModule:
    return DataModule(train, val, (3, 8, 8), 2, workers=0)


TRAIN = Animals("cat dog eel dog", "cat dog eel")


@pytest.mark.parametrize(
    "val, labels",
    [
        (Animals("eel cat", "cat eel"), [2, 0]),  # a class less: its number 1 is not train's
        (Animals("eel cat", "eel dog cat"), [2, 0]),  # another order
        (Animals("dog eel", "cat dog eel"), [1, 2]),
    ],
)
def test_labels_of_the_held_out_set_are_trains(val, labels):
    data = module(TRAIN, val)
    assert data.classes == ("cat", "dog", "eel") and data.label_count == 3
    assert data.items("val", range(2))["label"].tolist() == labels
    assert [label for batch in data.val_loader() for label in batch["label"].tolist()] == labels
    assert [data.sources["val"].facts(i)["label"] for i in range(2)] == labels


def test_what_is_renumbered_is_another_set():
    same, moved = Animals("eel cat", "cat dog eel"), Animals("eel cat", "eel cat")
    assert module(TRAIN, same).sources["val"] is same
    assert module(TRAIN, moved).sources["val"].fingerprint not in (moved.fingerprint, same.fingerprint)
    assert Renumbered(moved, ("cat", "eel")).fingerprint != Renumbered(moved, ("eel", "cat")).fingerprint


def test_a_class_that_training_lacks_is_refused():
    with pytest.raises(
        ValueError, match=r"data\.val: .*class fox, .* not among cat, dog, eel, the classes of data\.train"
    ):
        module(TRAIN, Animals("cat fox", "cat fox"))


def test_names_on_one_side_only_are_told(caplog):
    plain = Animals("a b", numbers=(0, 1))
    assert module(TRAIN, plain).items("val", range(2))["label"].tolist() == [0, 1]
    assert "the labels of data.train have names, those of data.val have none" in caplog.text
    caplog.clear()
    assert module(plain, TRAIN).classes == ()
    assert "the labels of data.val have names, those of data.train have none" in caplog.text


def test_labels_without_names_are_counted_over_both_sets():
    assert module(Animals("a b", numbers=(0, 3)), Animals("a", numbers=(5,))).label_count == 6
    assert module(Animals("a b", numbers=(None, 2)), Animals("a", numbers=(-1,))).label_count == 3
    assert module(Animals("a", numbers=(None,)), Animals("a", numbers=(None,))).label_count == 0


def test_labels_of_a_stream_cannot_be_counted_where_it_has_some():
    class Unlabelled(Streamed):
        columns = frozenset({"caption"})

    assert module(Unlabelled(9), Animals("a", numbers=(5,))).label_count == 6
    with pytest.raises(ValueError, match=r"data\.train: the labels of a stream .*condition\.classes"):
        _ = module(Streamed(9), Animals("a", numbers=(5,))).label_count


def test_an_item_without_a_label_has_none():
    """Not label 0, which is a class: -1, which a conditioner reads as 'no condition'."""
    (batch,) = module(Animals("a b", numbers=(None, 1)), TRAIN).loader(0, 1)
    assert dict(zip(batch["index"].tolist(), batch["label"].tolist(), strict=True)) == {0: -1, 1: 1}
    assert Animals("a", numbers=(None,)).columns == frozenset()
    assert Animals("a", numbers=(4,)).columns == {"label"}
    assert Renumbered(Animals("cat", "dog cat", numbers=(None,)), ("cat", "dog"))[0]["label"] is None
    assert Renumbered(Animals("cat", "dog cat", numbers=(-1,)), ("cat", "dog"))[0]["label"] == -1


def test_a_subset_has_the_columns_and_classes_of_the_whole():
    part = Subset(TRAIN, [2])
    assert part.columns == {"label"} and part.classes == TRAIN.classes and part.facts(0)["label"] == 2


def test_very_many_names_are_cut():
    assert shown(["a", "b"]) == "a, b"
    assert shown([str(i) for i in range(100)], 3) == "0, 1, ... 99 (100 in all)"
