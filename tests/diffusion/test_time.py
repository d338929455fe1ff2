"""Laws of every law of training times, under every schedule."""

import itertools
import math

import pytest
import torch

from ldm.diffusion.time import LogitNormal, LogNormal, ModeShifted, Uniform
from ldm.random import Random
from tests.pieces import pieces

SCHEDULES, TIMES = pieces("diffusion/schedule"), pieces("diffusion/time")
PAIRS = list(itertools.product(TIMES, SCHEDULES))


def middles(n):
    return (torch.arange(n, dtype=torch.float64) + 0.5) / n


@pytest.mark.parametrize(("law", "schedule"), PAIRS)
def test_laws_are_increasing_and_inside(law, schedule):
    law, schedule = TIMES[law](), SCHEDULES[schedule]()
    u = torch.linspace(0, 1 - 2**-24, 10_001)
    t = law(u, schedule)
    assert t.dtype == torch.float32 and (t > 0).all() and (t < 1).all() and (t.diff() >= 0).all()
    assert schedule.log_snr(t).isfinite().all()


@pytest.mark.parametrize(("law", "schedule"), PAIRS)
def test_density_is_that_of_log_snr(law, schedule):
    """Against the share of draws between two log-SNRs near each other."""
    law, schedule = TIMES[law](), SCHEDULES[schedule]()
    u, h = torch.linspace(0.3, 0.7, 41, dtype=torch.float64) + 0.0003, 1e-6
    log_snr = [schedule.log_snr(law(each, schedule)) for each in (u - h, u + h)]
    if (log_snr[0] - log_snr[1]).min() < 1e-12:
        pytest.skip("draws beyond the schedule's ends")
    # at a knot of a table one is the slope ahead, the other the mean of two slopes
    assert torch.allclose(law.density(u, schedule), 2 * h / (log_snr[0] - log_snr[1]), rtol=5e-3)


def test_density_is_infinite_where_draws_are_clamped():
    schedule, u = SCHEDULES["scaled_linear"](), torch.tensor([0.5])
    assert LogNormal(mean=30.0).density(u, schedule) == torch.inf  # beyond the end of the table


def test_logit_normal_has_its_moments():
    logit = torch.logit(TIMES["logit_normal"]()(middles(200_000), SCHEDULES["cosine"]()))
    assert abs(logit.mean()) < 1e-3 and abs(logit.std() - 1) < 1e-2


@pytest.mark.parametrize("name", ["exploding", "rectified"])
def test_log_normal_is_of_the_noise_level_whatever_the_schedule(name):
    schedule = SCHEDULES[name]()
    level = -schedule.log_snr(LogNormal(-1.2, 1.2)(middles(100_000), schedule)) / 2  # log(sigma / alpha)
    assert abs(level.mean() + 1.2) < 1e-3 and abs(level.std() - 1.2) < 2e-3


def test_mode_shifted_is_stable_diffusions():
    """arXiv 2403.03206, equation 20, whose u runs the other way."""
    u, s = middles(1000), 1.29
    wanted = 1 - u - s * (torch.cos(math.pi / 2 * u) ** 2 - 1 + u)
    assert torch.allclose(ModeShifted(s)(1 - u, SCHEDULES["rectified"]()), wanted.clamp(1e-5), atol=1e-12)
    assert torch.allclose(ModeShifted(0.0)(u, SCHEDULES["rectified"]()), u)


@pytest.mark.parametrize("law", TIMES)
def test_strata_of_two_ranks_are_those_of_one(law):
    """Rank k of n draws its rows of the one global batch, and a law keeps one draw in each of its equal parts."""
    law, schedule, total = TIMES[law](), SCHEDULES["cosine"](), 64
    whole = law(Random(3, 5, torch.arange(total), total).stratified("time"), schedule)
    ranks = [Random(3, 5, torch.arange(rank, total, 2), total).stratified("time") for rank in range(2)]
    assert torch.equal(torch.stack([law(u, schedule) for u in ranks], 1).flatten(), whole)
    edges = law(torch.arange(1, total) / total, schedule)
    parts = torch.bucketize(whole, edges, right=True).sort().values
    if (edges.diff() > 0).all():
        assert torch.equal(parts, torch.arange(total))


def test_a_law_says_where_it_ends():
    """`uniform` at its minimum, `mode_shifted` at 0, and a normal law four deviations below its mean."""
    schedule = SCHEDULES["rectified"]()
    assert Uniform(0.03).lowest(schedule) == 0.03 and ModeShifted().lowest(schedule) == 0
    level = math.exp(-0.5 - 4 * 1.2)  # sigma / alpha = t / (1 - t) here
    assert LogNormal(-0.5, 1.2).lowest(schedule) == pytest.approx(level / (1 + level), rel=1e-3)
    assert LogitNormal(0.3, 0.5).lowest(schedule) == pytest.approx(1 / (1 + math.exp(4 * 0.5 - 0.3)), rel=1e-3)


@pytest.mark.parametrize(("law", "schedule"), PAIRS)
def test_hardly_a_draw_is_below_the_lowest_time(law, schedule):
    law, schedule = TIMES[law](), SCHEDULES[schedule]()
    assert (law(middles(10_000), schedule) >= law.lowest(schedule)).all()
