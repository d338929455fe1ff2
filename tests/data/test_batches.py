"""The sampler's laws: every epoch a permutation, every batch a function of (seed, k), ranks and cuts of no effect."""

from collections import Counter

import pytest

from ldm.data.batches import Batches, micro_batch


def indices(batches):
    return [position.index for batch in batches for position in batch]


@pytest.mark.parametrize("length", [1, 7, 10, 33])
@pytest.mark.parametrize("batch_size", [1, 4, 10])
def test_each_epoch_has_each_item_once(length, batch_size):
    epochs = 5
    seen = [p for batch in Batches(length, batch_size, stop=-(-epochs * length // batch_size)) for p in batch]
    for epoch in range(epochs):
        assert Counter(p.index for p in seen if p.epoch == epoch) == Counter(range(length))


def test_a_cut_changes_nothing():
    whole = list(Batches(33, 8, seed=3, stop=20))
    for cut in range(21):
        assert list(Batches(33, 8, 3, 0, cut)) + list(Batches(33, 8, 3, cut, 20)) == whole


@pytest.mark.parametrize("world, accumulate", [(1, 1), (2, 1), (1, 4), (2, 2), (8, 1)])
def test_ranks_and_accumulation_share_the_same_global_batch(world, accumulate):
    ranks = [list(Batches(33, 8, 1, 2, 6, rank, world, accumulate)) for rank in range(world)]
    whole = list(Batches(33, 8, 1, 2, 6))
    for k in range(4):
        parts = [p for rank in ranks for micro in rank[k * accumulate : (k + 1) * accumulate] for p in micro]
        assert parts == whole[k]
        assert [p.row for p in parts] == list(range(8)) and {p.step for p in parts} == {k + 2}


def test_iterating_twice_gives_the_same():
    batches = Batches(10, 4, stop=5)
    assert list(batches) == list(batches) and len(batches) == len(list(batches)) == 5
    accumulated = Batches(10, 4, start=2, stop=5, accumulate=2)
    assert len(accumulated) == len(list(accumulated)) == 6


def test_seeds_and_epochs_differ():
    assert indices(Batches(100, 100, 0, 0, 1)) != indices(Batches(100, 100, 1, 0, 1))
    assert indices(Batches(100, 100, 0, 0, 1)) != indices(Batches(100, 100, 0, 1, 2))


def test_a_far_step_needs_no_walk():
    (batch,) = Batches(1000, 10, start=10**9, stop=10**9 + 1)
    assert [p.epoch for p in batch] == [10**7] * 10


def test_unequal_shares_are_refused_with_the_nearest():
    with pytest.raises(ValueError, match="take 8 or 12"):
        micro_batch(10, 2, 2)
    with pytest.raises(ValueError, match="take 4"):
        micro_batch(3, 4, 1)


def test_empty_set():
    with pytest.raises(ValueError, match="empty"):
        Batches(0, 4)


def test_no_updates_left():
    assert list(Batches(10, 4, start=7, stop=3)) == []
