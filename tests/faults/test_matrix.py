"""Every kind of change ends as a new run does, is told, or is refused by name and unharmed. One moment of each here, by turns;
`python -m tests.faults.matrix` walks them all."""

import signal

import pytest

from tests.faults.matrix import CHANGES, MOMENTS, Bench

pytestmark = pytest.mark.usefixtures("unchecked_file")


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    yield Bench(tmp_path_factory.mktemp("matrix"))
    for number, handler in kept.items():
        signal.signal(number, handler)


CELLS = [(change, list(MOMENTS)[i % len(MOMENTS)]) for i, change in enumerate(CHANGES)]


@pytest.mark.parametrize(("change", "moment"), CELLS, ids=[f"{change.title}, {moment}" for change, moment in CELLS])
def test_words_that_change_on_the_way(change, moment, bench):
    wanted = change.outcomes[list(MOMENTS).index(moment)]
    assert bench.outcome(change, moment) == wanted
