import json
import multiprocessing

import pytest

from ldm.data.tally import Tally, TooManyBadError


def test_counts_are_of_items_and_not_of_visits():
    tally = Tally(1000, "train", 0.01)
    for _ in range(3):
        for i in range(500):
            tally.good(i, "missing" if i < 10 else None)
        for i in range(500, 504):
            tally.bad(i, "x", "garbage")
    assert tally.counts() == {"seen": 504, "bad": 4, "caption missing": 10}


def test_a_large_set_forgives_its_first_few():
    tally = Tally(10**5, "train", 0.01)
    for i in range(5):
        tally.bad(i, "x", "garbage")
    with pytest.raises(TooManyBadError, match=r"6 of 6 items seen of the train set .* data\.max_bad=0\.01"):
        tally.bad(5, "x", "garbage")


def test_more_than_the_share_stops_later_too():
    tally = Tally(10**5, "train", 0.01)
    with pytest.raises(TooManyBadError, match="items seen of the train set"):
        for i in range(10**5):
            tally.bad(i, "x", "garbage") if i % 50 == 0 else tally.good(i)
    assert tally.seen < 1000


def test_a_share_below_the_limit_passes():
    tally = Tally(5000, "train", 0.01)
    for i in range(5000):
        tally.bad(i, "x", "garbage") if i % 200 == 7 else tally.good(i)
    assert tally.counts()["bad"] == 25


@pytest.mark.parametrize("items, allowed", [(80, 0), (100, 1), (400, 4), (5000, 5)])
def test_a_small_set_is_judged_as_a_whole(items, allowed):
    tally = Tally(items, "train", 0.01)
    for i in range(allowed):
        tally.bad(i, "x", "garbage")
    with pytest.raises(TooManyBadError, match=f"{allowed + 1} of {allowed + 1} items seen"):
        tally.bad(allowed, "x", "garbage")


def test_another_process_counts_into_the_same_memory():
    tally = Tally(10, "train", 1.0)
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        pool.apply(tally.good, (3,))
    assert tally.counts() == {"seen": 1, "bad": 0}


def test_each_bad_item_is_listed_once(tmp_path):
    file = tmp_path / "new folder" / "bad_samples.jsonl"
    tally = Tally(1000, "train", 0.01, file)
    for _ in range(2):
        tally.bad(3, "a/b.jpg", 'cut "short"\n')
        tally.good(4, "too long", "c.jpg")
        tally.good(5, "missing", "d.jpg")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert lines == [
        {"split": "train", "index": 3, "name": "a/b.jpg", "kind": "image", "reason": 'cut "short"\n'},
        {"split": "train", "index": 4, "name": "c.jpg", "kind": "caption", "reason": "too long"},
    ]
