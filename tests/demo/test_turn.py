"""A turn tells what there is as it comes, ends between two calls of a network, and leaves the model free."""

import threading

import pytest
import torch
from torch import nn

from ldm.demo.turn import Ended, Turn, between_calls


@pytest.fixture
def network():
    return nn.Linear(1, 1)


def turn(work, network, seconds=100.0, clock=lambda: 0.0, free=None):
    return Turn(work, seconds, [network], free or threading.Lock(), clock)


def test_the_newest_is_told_and_last_what_it_comes_to(network):
    """Work that waits until it was heard has all of it told in order; work that does not is told from its newest on."""
    heard = threading.Event()

    def slow(tell):
        for i in range(3):
            heard.clear()
            tell(i)
            assert heard.wait(60)
        return "done"

    found = []
    for each in turn(slow, network):
        found.append(each)
        heard.set()
    assert found == [0, 1, 2, "done"]
    begun = threading.Event()

    def fast(tell):
        tell("first")
        assert begun.wait(60)
        for i in range(100):
            tell(i)
        return "done"

    told = iter(turn(fast, network))
    assert next(told) == "first"
    begun.set()
    assert list(told)[-1] == "done"


def test_it_ends_between_calls_once_its_time_is_over(network):
    """The clock stands at 0 when it begins, and at 4 when the third call is asked for, of a turn of 3 seconds."""
    calls, times = [], iter([0.0, 1.0, 3.0, 4.0])

    def work(tell):
        for i in range(5):
            network(torch.zeros(1, 1))
            calls.append(i)

    free = threading.Lock()
    with pytest.raises(Ended, match="Stopped after 3 seconds, the most that one drawing may take here"):
        list(turn(work, network, 3.0, lambda: next(times), free))
    assert calls == [0, 1] and not free.locked()
    network(torch.zeros(1, 1))  # the network is as it was


def test_its_time_begins_when_the_model_is_free(network):
    """Who has to wait for another loses nothing: the clock is first asked under the lock."""
    free, asked = threading.Lock(), []

    def clock():
        asked.append(free.locked())
        return 0.0

    assert list(turn(lambda tell: "done", network, clock=clock, free=free)) == ["done"] and asked == [True]


def test_who_stops_reading_ends_it(network):
    calls, free = [], threading.Lock()

    def work(tell):
        while True:
            network(torch.zeros(1, 1))
            calls.append(1)
            tell(len(calls))

    reading = iter(turn(work, network, free=free))
    next(reading)
    reading.close()  # waits for the work to end
    count = len(calls)
    assert not free.locked() and count == len(calls)


def test_what_it_raises_is_raised_where_it_is_read(network):
    def work(tell):
        tell("some")
        raise ValueError("no")

    free = threading.Lock()
    with pytest.raises(ValueError, match="^no$"):
        list(turn(work, network, free=free))
    assert not free.locked()


def test_two_turns_of_a_model_follow_each_other(network):
    free, at_work, most = threading.Lock(), [], []

    def work(tell):
        at_work.append(1)
        most.append(len(at_work))
        network(torch.zeros(1, 1))
        at_work.pop()
        return "done"

    turns = [iter(turn(work, network, free=free)) for _ in range(4)]
    threads = [threading.Thread(target=list, args=(each,)) for each in turns]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert most == [1, 1, 1, 1]


def test_a_check_is_asked_before_each_call_and_not_afterwards(network):
    asked = []
    with between_calls([network, nn.Linear(1, 1)], lambda: asked.append(1)):
        network(torch.zeros(1, 1))
        network(torch.zeros(1, 1))
    network(torch.zeros(1, 1))
    assert len(asked) == 2
