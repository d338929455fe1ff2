"""Sets over several ranks: rows in two processes, and every metric on ranks that are threads here, one without images."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.multiprocessing as processes
from safetensors.torch import load_file

from ldm.metric import distance, feature_set, gather, reconstruction
from ldm.metric.distance import Distances
from ldm.metric.features import FeaturesUnavailable, FeaturesUnavailableWarning, RandomConv
from ldm.metric.gather import gather_rows, image_hashes, set_hash
from ldm.metric.metric import Examples
from ldm.metric.reconstruction import ReconstructionQuality
from ldm.metric.shapes import agreement
from ldm.metric.shapes.agreement import Agreement
from tests.metric import ranks
from tests.metric.shapes.test_agreement import PerfectReader, begun, examples_of_shapes


def test_two_processes_see_the_rows_of_both(tmp_path):
    processes.spawn(ranks.gather, (str(tmp_path),), nprocs=2)
    for counts in ranks.COUNTS:
        wanted = ranks.rows(0, sum(counts))
        for rank in range(2):
            found = load_file(tmp_path / f"{rank}-{counts}.safetensors")
            assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_alone_rows_stay_as_they_are():
    rows = torch.randn(3, 2)
    assert torch.equal(gather_rows(rows), rows)


class Ranks:
    """Ranks as threads: `gather_rows` waits for all of them, and breaks where one does not come."""

    def __init__(self, world):
        self.meeting, self.parts, self.own = threading.Barrier(world, timeout=60), [None] * world, threading.local()

    def gather_rows(self, rows):
        self.parts[self.own.rank] = rows
        self.meeting.wait()
        found = torch.cat(self.parts)
        self.meeting.wait()
        return found

    def measure(self, metrics, batches):
        """What each rank measures with its own metric and its own batches."""

        def run(rank):
            self.own.rank = rank
            for batch in batches[rank]:
                metrics[rank].add(batch)
            return metrics[rank].measure()

        with ThreadPoolExecutor(len(batches)) as pool:
            return list(pool.map(run, range(len(batches))))


@pytest.fixture
def two(monkeypatch):
    found = Ranks(2)
    for module in (agreement, distance, feature_set, reconstruction):
        monkeypatch.setattr(module, "gather_rows", found.gather_rows)
    return found


def batch(rows, paired=True):
    x = torch.rand(24, 3, 16, 16, generator=torch.Generator().manual_seed(5)) * 2 - 1
    return Examples(x[rows], x[rows] * 0.9, x.flip(0)[rows] * 0.5, [""] * len(rows), rows, paired)


def facts(measurements):
    return [(m.metric, m.n, m.features_hash, m.reference_hash, m.paired) for m in measurements]


NUMBERS = [lambda: Distances({"r": RandomConv}, ("generated", "reconstruction")), ReconstructionQuality]


@pytest.mark.parametrize("make", NUMBERS, ids=("distances", "reconstruction"))
@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize(
    ("n", "batches"), [(24, 2), (24, 1), (8, 2), (1, 2)]
)  # of 24 in one batch and of 1, rank 1 has none
def test_ranks_measure_what_one_process_does(monkeypatch, two, make, paired, n, batches):
    index = torch.arange(n)
    parts = [index[0::2], index[1::2]] if batches == 2 else [index, index[:0]]
    shares = [[batch(part, paired)] if len(part) else [] for part in parts]
    found = two.measure([make(), make()], shares)
    for module in (agreement, distance, feature_set, reconstruction):
        monkeypatch.setattr(module, "gather_rows", gather.gather_rows)
    alone = make()
    alone.add(batch(index, paired))
    alone = alone.measure()
    for rank in found:
        assert facts(rank) == facts(alone)
        assert [m.value for m in rank] == pytest.approx([m.value for m in alone], rel=1e-4, abs=1e-9)
        errors = [[m.standard_error or 0 for m in each] for each in (rank, alone)]
        assert errors[0] == pytest.approx(errors[1], rel=1e-3, abs=1e-9)


@pytest.mark.parametrize("make", NUMBERS, ids=("distances", "reconstruction"))
def test_no_image_on_any_rank_is_no_number(two, make):
    assert two.measure([make(), make()], [[], []]) == [[], []]


def test_a_network_that_one_rank_lacks_is_left_out_by_all(two):
    def missing():
        raise FeaturesUnavailable("not on this machine")

    one = Distances({"far": RandomConv, "near": RandomConv})
    other = Distances({"far": missing, "near": RandomConv})
    index = torch.arange(8)
    with pytest.warns(FeaturesUnavailableWarning, match="far"):
        found = two.measure([one, other], [[batch(index[:4])], [batch(index[4:])]])
    assert [len(rank) for rank in found] == [6, 6]


def test_agreement_is_of_the_samples_of_all_ranks(monkeypatch, two):
    monkeypatch.setattr(agreement, "accuracy", lambda *_: {"joint": 1.0})
    monkeypatch.setattr(agreement, "kept_checker", lambda *_: PerfectReader())
    found = two.measure([begun(Agreement()), begun(Agreement())], [[examples_of_shapes(6, right=4)], []])
    for rank in found:
        numbers = {m.metric: (m.value, m.n) for m in rank}
        assert numbers["shows_all"] == (pytest.approx(4 / 6), 6)
    assert two.measure([begun(Agreement()), begun(Agreement())], [[], []]) == [[], []]


def test_images_are_named_by_size_and_pixels():
    x = torch.arange(48, dtype=torch.uint8).view(1, 3, 4, 4)
    assert image_hashes(x) != image_hashes(x.view(1, 3, 2, 8)) and image_hashes(x) != image_hashes(x.flip(3))
    changed = x.clone()
    changed[0, 2, 3, 3] += 1
    assert image_hashes(x) != image_hashes(changed)
    assert len(image_hashes(torch.cat([x, x]))) == 2 and image_hashes(x[:0]).shape == (0,)


def test_a_set_is_named_whatever_its_order_repetitions_counted():
    a, b = torch.tensor([3, 1, 2]), torch.tensor([1, 2, 3])
    assert set_hash(a) == set_hash(b) and len(set_hash(a)) == 16
    assert set_hash(torch.tensor([1, 2, 3, 3])) != set_hash(a) != set_hash(torch.tensor([1, 2]))
