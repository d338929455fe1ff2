"""Random numbers are functions of (seed, step, row, stream): the same for any split, independent along every axis."""

import itertools
import math

import pytest
import torch

from ldm.random import Random, seed_of

N = 4096


def batch(seed=0, step=0, rows=N, total=None) -> Random:
    return Random(seed, step, torch.arange(rows), total)


def correlation(a, b) -> float:
    return torch.corrcoef(torch.stack([a.flatten().double(), b.flatten().double()]))[0, 1].abs().item()


def test_uniform_moments():
    u = batch().uniform("u", (64,)).double()
    n = u.numel()
    assert u.shape == (N, 64) and u.min() >= 0 and u.max() < 1
    assert abs(u.mean() - 1 / 2) < 5 * math.sqrt(1 / 12 / n)
    assert abs(u.var() - 1 / 12) < 5 * math.sqrt(1 / 180 / n)
    counts = torch.histc(u.float(), 64, 0, 1)
    chi = ((counts - n / 64) ** 2 / (n / 64)).sum()
    assert abs(chi - 63) < 5 * math.sqrt(2 * 63)


@pytest.mark.parametrize("shape", [(63,), (64,), (3, 7, 3)])
def test_normal_moments(shape):
    z = batch().normal("z", shape).double()
    n = z.numel()
    assert z.shape == (N, *shape) and z.isfinite().all()
    for power, wanted, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((z**power).mean() - wanted) < 5 * math.sqrt(variance / n)
    assert abs((z.abs() < 1).double().mean() - math.erf(1 / math.sqrt(2))) < 5 * math.sqrt(0.25 / n)


def test_rows_elements_streams_steps_and_seeds_are_independent():
    z = batch().normal("z", (64,))
    limit = 5 / math.sqrt(z.numel() - 64)
    assert correlation(z[:-1], z[1:]) < limit and correlation(z[:, :-1], z[:, 1:]) < limit
    assert correlation(z[:, :32], z[:, 32:]) < limit * 1.5  # the two halves of Box and Muller
    assert correlation(z[:-1, 1:], z[1:, :-1]) < limit
    others = [batch().normal("y", (64,)), batch(step=1).normal("z", (64,)), batch(seed=1).normal("z", (64,))]
    for a, b in itertools.combinations([z, *others], 2):
        assert correlation(a, b) < limit and correlation(a**2, b**2) < limit


def test_a_row_far_away_is_like_any_other():
    far = Random(0, 0, torch.arange(N) + 2**40).normal("z", (16,)).double()
    assert abs(far.mean()) < 5 / math.sqrt(far.numel()) and abs(far.std() - 1) < 0.02
    assert len(torch.unique(Random(0, 0, torch.arange(N) * 2**32).uniform("u"))) > N - 10


def test_the_same_key_gives_the_same_numbers():
    assert torch.equal(batch(3, 5).normal("z", (4, 4)), batch(3, 5).normal("z", (4, 4)))
    assert not torch.equal(batch(3, 5).normal("z", (4, 4)), batch(3, 6).normal("z", (4, 4)))


@pytest.mark.parametrize("shape", [(), (5,), (2, 3, 3)])
@pytest.mark.parametrize("parts", [1, 2, 7, 64])
def test_any_split_gives_the_numbers_of_the_whole(parts, shape):
    whole, rows = batch(rows=64), torch.arange(64)
    for draw in ("normal", "uniform"):
        wanted = getattr(whole, draw)("z", shape)
        split = [Random(0, 0, part, 64) for part in rows.tensor_split(parts)]
        assert torch.equal(torch.cat([getattr(part, draw)("z", shape) for part in split]), wanted)
        assert torch.equal(getattr(whole[8:24], draw)("z", shape), wanted[8:24])
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(Random(0, 0, order).normal("z", shape), whole.normal("z", shape)[order])


@pytest.mark.parametrize("total", [1, 2, 10, 64, 1000])
def test_stratified_over_the_global_batch(total):
    """One number in each of `total` equal strata, whatever the ranks."""
    for step in range(5):
        parts = [
            Random(0, step, rows, total).stratified("t") for rows in torch.arange(total).tensor_split(3) if len(rows)
        ]
        t = torch.cat(parts)
        assert torch.equal(t, batch(step=step, rows=total).stratified("t"))
        assert (t >= 0).all() and (t < 1).all()
        assert sorted((t.double() * total).floor().long().tolist()) == list(range(total))


def test_stratified_is_uniform_for_each_row():
    t = torch.stack([batch(step=step, rows=8).stratified("t") for step in range(2000)]).double()
    assert ((t.mean(0) - 0.5).abs() < 5 * math.sqrt(1 / 12 / 2000)).all()
    assert ((t.var(0) - 1 / 12).abs() < 5 * math.sqrt(1 / 180 / 2000)).all()


def test_generator_and_seed_of():
    a, b = (torch.rand(8, generator=batch(1, 2).generator("g")) for _ in range(2))
    assert torch.equal(a, b)
    assert not torch.equal(a, torch.rand(8, generator=batch(1, 3).generator("g")))
    seeds = {seed_of(i, name) for i in range(1000) for name in ("a", "b")}
    assert len(seeds) == 2000 and all(0 <= seed < 2**63 for seed in seeds)
    assert seed_of("a", "b") != seed_of("ab") and seed_of(1, 23) != seed_of(12, 3)


def test_fresh_is_keyed_by_torchs_generator():
    torch.manual_seed(4)
    a, b = Random.fresh(3), Random.fresh(3)
    torch.manual_seed(4)
    assert Random.fresh(3).seed == a.seed != b.seed and a.rows.tolist() == [0, 1, 2]


def test_a_part_of_a_batch_has_the_batchs_numbers():
    whole = Random(3, 5, torch.arange(8))
    part = whole[2:5]
    assert part.total == 8 and part.rows.tolist() == [2, 3, 4]
    for draw in (Random.uniform, Random.normal, Random.stratified):
        assert torch.equal(draw(part, "x"), draw(whole, "x")[2:5])
