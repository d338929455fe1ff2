"""Couplings against all permutations, and what they do to the noise of a condition."""

import itertools
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp

from ldm.prior.coupling import Coupling, Independent, OptimalTransport, assignment
from ldm.random import Random
from ldm.types import Context

SHAPE = (2, 1, 1)


def paired(coupling: Coupling, z: torch.Tensor, c: Context, random: Random) -> torch.Tensor:
    """The noise of a batch in one piece."""
    return coupling([(z, c, random)])[0]


def labels(which: torch.Tensor) -> Context:
    """Tokens that differ by class."""
    return Context(torch.tensor([[1.0, 0.2], [0.3, 1.0]])[which][:, None])


def test_no_permutation_costs_less():
    random = Random(0, 0, torch.arange(6))
    z, noise = random.normal("z", (3, 2, 2)), random.normal("noise", (3, 2, 2))
    for penalty, c in ((0.0, None), (3.0, torch.nn.functional.normalize(random.normal("c", (4,)), dim=1))):
        cost = OptimalTransport(penalty).cost(z, noise, c)
        for i, j in ((0, 0), (1, 4)):
            by_hand = (z[i] - noise[j]).square().mean() + (penalty * (1 - c[i] @ c[j]) if penalty else 0)
            torch.testing.assert_close(cost[i, j].float(), by_hand)
        rows = torch.arange(6)
        best = min(cost[rows, list(order)].sum() for order in itertools.permutations(range(6)))
        torch.testing.assert_close(cost[rows, assignment(cost)].sum(), best)


@pytest.mark.parametrize("rows", [7, 64])
def test_the_plan_is_that_of_pot(rows):
    """Between equal weights the exact plan is a permutation."""
    ot = pytest.importorskip("ot", reason="the extra `peers`")
    z, noise, c = torch.randn(rows, 3, 2, 2), torch.randn(rows, 3, 2, 2), torch.randn(rows, 4)
    cost = OptimalTransport(2.0).cost(z, noise, torch.nn.functional.normalize(c, dim=1))
    plan = torch.from_numpy(ot.emd([], [], cost.numpy()))
    torch.testing.assert_close(rows * plan, torch.eye(rows, dtype=plan.dtype)[assignment(cost)])


def test_the_plan_is_that_of_torchcfm():
    """Theirs sums the squared differences that ours averages, and knows no conditions."""
    optimal_transport = pytest.importorskip("torchcfm.optimal_transport", reason="the extra `peers`")
    z, noise = torch.randn(48, 2, 3, 3), torch.randn(48, 2, 3, 3)
    plan = torch.from_numpy(optimal_transport.OTPlanSampler(method="exact").get_map(z, noise))
    ours = assignment(OptimalTransport(0.0).cost(z, noise))
    torch.testing.assert_close(48 * plan, torch.eye(48, dtype=plan.dtype)[ours])


def test_each_noise_is_taken_once():
    random, z = Random(0, 0, torch.arange(9)), torch.randn(9, *SHAPE)
    own = paired(Independent(), z, Context(), random)
    taken = paired(OptimalTransport(), z, Context(), random)
    assert torch.equal(own, random.normal("noise", SHAPE))
    assert not torch.equal(taken, own)
    assert torch.equal(taken.flatten(1).sort(0)[0], own.flatten(1).sort(0)[0])
    assert (taken - z).square().sum() < (own - z).square().sum()


def noise_of(which: int, penalty: float) -> torch.Tensor:
    """What latents of a class are paired with where the classes lie at -2 and 2."""
    found = []
    for step in range(60):
        random = Random(0, step, torch.arange(32))
        label = (random.uniform("label") < 0.5).long()
        z = random.normal("z", SHAPE) + (4.0 * label - 2)[:, None, None, None]
        found.append(paired(OptimalTransport(penalty), z, labels(label), random)[label == which])
    return torch.cat(found).flatten(1)


def test_the_noise_of_a_condition_stays_standard_normal_with_the_penalty_and_does_not_without():
    for which in (0, 1):
        noise = noise_of(which, 100.0)
        error = len(noise) ** -0.5
        assert (noise.mean(0).abs() < 4 * error).all() and (noise.var(0) - 1).abs().max() < 6 * error
    assert noise_of(0, 0.0).mean() < -0.3 < 0.3 < noise_of(1, 0.0).mean()


def test_with_the_penalty_noise_stays_among_its_condition():
    random, label = Random(0, 0, torch.arange(16)), torch.arange(16) % 2
    z = random.normal("z", SHAPE) + (4.0 * label - 2)[:, None, None, None]
    own, taken = random.normal("noise", SHAPE), paired(OptimalTransport(), z, labels(label), random)
    for which in (0, 1):
        both = [x[label == which].flatten(1).sort(0)[0] for x in (own, taken)]
        torch.testing.assert_close(*both, rtol=0, atol=0)
    assert not torch.equal(own, taken)


def coupled(*parts: range) -> torch.Tensor:
    """The noise of these rows of a batch of eight, given as so many micro-batches."""
    random, label = Random(0, 0, torch.arange(8)), torch.arange(8) % 2
    z, c = random.normal("z", SHAPE), labels(label)
    rows = [slice(part.start, part.stop) for part in parts]
    return torch.cat(OptimalTransport(1.0)([(z[own], c[own], random[own]) for own in rows]))


def test_micro_batches_are_coupled_at_once():
    whole = coupled(range(8))
    assert torch.equal(coupled(range(4), range(4, 8)), whole)
    assert torch.equal(coupled(range(5, 8), range(1), range(1, 5)), whole[[5, 6, 7, 0, 1, 2, 3, 4]])
    alone = torch.cat([coupled(range(4)), coupled(range(4, 8))])
    assert not torch.equal(alone, whole), "which is another plan than that of each part by itself"


PARTS = [(range(2), range(2, 5)), (range(5, 8),)]  # of two ranks, which have not equally many


def _rank(rank: int, folder: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.save(coupled(*PARTS[rank]), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_ranks_couple_the_batch_of_all(tmp_path):
    mp.start_processes(_rank, (tmp_path,), nprocs=2, start_method="fork")
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    assert torch.equal(torch.cat(parts), coupled(range(8)))
