"""The short version of `python -m tests.faults`: every kind of fault, a few times; and that the controls fail."""

import random
import signal

import pytest

from tests.faults import damage, kills, places, plain, ranks, together
from tests.faults.runs import Case
from tests.faults.zygote import Zygote


@pytest.fixture(scope="module")
def zygote(tmp_path_factory):
    with Zygote(tmp_path_factory.mktemp("jobs")) as started:
        yield started


@pytest.fixture
def dice() -> random.Random:
    return random.Random(0)


@pytest.fixture
def case():
    """All cases of a test have to pass."""
    counted = Case("")
    yield counted
    assert counted.cases > 0
    assert counted.passed == counted.cases, "\n".join(counted.wrong)


@pytest.mark.parametrize(("workers", "count"), [(0, 6), (2, 3)])  # workers take seconds to start
@pytest.mark.parametrize("stage", ["first", "second"])
def test_killed_at_any_moment(zygote, tmp_path, case, stage, workers, count, dice):
    kills.kills(zygote, tmp_path / "runs", case, stage, workers, count, dice)


def test_killed_while_saving(zygote, tmp_path, case, dice):
    kills.writes(zygote, tmp_path / "runs", case, 15, dice)


def test_no_room(zygote, tmp_path, case):
    kills.full_disks(zygote, tmp_path / "runs", case, 1)


def test_flipped_bits(tmp_path, case, dice):
    damage.flips(tmp_path / "kept", case, 100, dice)


def test_cut_files(tmp_path, case, dice):
    damage.cuts(tmp_path / "kept", case, 50, dice)


def test_preempted_again_and_again(zygote, tmp_path, case, dice):
    kills.preemptions(zygote, tmp_path / "runs", case, 4, dice)


def test_two_ranks_are_one_run(zygote, tmp_path, case):
    ranks.one_run(zygote, tmp_path / "runs", case)


def test_signals_to_ranks(zygote, tmp_path, case):
    ranks.signals(
        zygote,
        tmp_path / "runs",
        case,
        [
            (signal.SIGTERM, "rank 1", "start"),
            (signal.SIGUSR1, "rank 0", "validate"),
            (signal.SIGINT, "both", "save"),
        ],
    )


def test_a_rank_is_lost(zygote, tmp_path, case):
    ranks.deaths(zygote, tmp_path / "runs", case, [("raise", 1), ("kill", 0), ("freeze", 1)])


def test_other_ranks_and_workers_on_the_way(zygote, tmp_path, case):
    ranks.elastic(zygote, tmp_path / "runs", case, [[(2, 0), (1, 2), (2, 0)]])


def test_sets_of_any_size(zygote, tmp_path, case):
    ranks.sizes(zygote, tmp_path / "runs", case, [1, 7])


def test_nan_on_one_rank(zygote, tmp_path, case):
    ranks.poisons(zygote, tmp_path / "runs", case, ["gradient", "average"])


def test_the_controls_bite(zygote, tmp_path, dice):
    """Plain Lightning fails each of these: faults.md, section 1 (L1, L18, L8 and L9, L14)."""
    for name, work in {
        "kills": lambda case: plain.kills(zygote, tmp_path / "k", case, 2, dice),
        "damage": lambda case: plain.damage(zygote, tmp_path / "d", case, 4, dice),
        "signals": lambda case: plain.signals(zygote, tmp_path / "s", case),
        "poison": lambda case: plain.poison(zygote, tmp_path / "p", case),
    }.items():
        control = Case(name)
        work(control)
        assert control.cases > 0 and control.passed < control.cases, name


def test_started_at_once(zygote, tmp_path, case):
    together.same_second(zygote, tmp_path / "runs", case, 4)


def test_one_trains_and_the_others_wait(zygote, tmp_path, case):
    together.one_first_stage(zygote, tmp_path / "runs", case)


def test_killed_while_encoding(zygote, tmp_path, case, dice):
    together.caches(zygote, tmp_path / "runs", case, 5, dice)


def test_a_data_worker_is_killed(zygote, tmp_path, case):
    places.dead_workers(zygote, tmp_path / "runs", case, 1)


def test_the_data_vanish(zygote, tmp_path, case):
    places.vanished_data(zygote, tmp_path / "runs", case)


def test_odd_places_and_clocks(zygote, tmp_path, case):
    places.odd_places(zygote, tmp_path / "runs", case)


def test_nothing_is_written_among_the_sources(zygote, tmp_path, case):
    places.source_tree(zygote, tmp_path, case)
