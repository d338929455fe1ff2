"""Laws of every schedule in conf/diffusion/schedule."""

import math

import pytest
import torch

from ldm.diffusion.schedule import Cosine, Exploding, Linear, Preserving, Rectified, Shifted, Sigmoid, ZeroTerminalSNR
from tests.pieces import pieces

SCHEDULES = pieces("diffusion/schedule")


@pytest.fixture(params=SCHEDULES, ids=SCHEDULES.keys())
def schedule(request):
    return SCHEDULES[request.param]()


def line(start, end, n):
    return torch.linspace(start, end, n, dtype=torch.float64)


def test_log_snr_falls(schedule):
    assert (schedule.log_snr(line(0, 1, 4001)).diff() < 0).all()


def test_time_inverts_log_snr(schedule):
    t = torch.cat([line(0, 1, 2), line(1e-4, 0.9999, 1001)])
    assert torch.allclose(schedule.time(schedule.log_snr(t)), t, atol=1e-9)


def test_time_of_what_is_not_reached_is_the_nearest_end(schedule):
    far = torch.tensor([60.0, torch.inf, -60.0, -torch.inf], dtype=torch.float64)
    assert torch.allclose(schedule.time(far), torch.tensor([0.0, 0, 1, 1], dtype=torch.float64), atol=1e-9)


def test_log_snr_is_that_of_alpha_and_sigma(schedule):
    t = line(0.01, 0.99, 99)
    alpha, sigma = schedule.alpha_sigma(t)
    assert torch.allclose(2 * (alpha / sigma).log(), schedule.log_snr(t), atol=1e-9)


def test_alpha_and_sigma_lie_on_the_path(schedule):
    t = line(0, 1, 101)
    assert torch.allclose(schedule.path(*schedule.alpha_sigma(t)), torch.ones_like(t))


def test_time_zero_is_data(schedule):
    t = torch.zeros(3)
    alpha, sigma = schedule.alpha_sigma(t)
    assert (alpha == 1).all() and (sigma == 0).all() and (schedule.log_snr(t) == torch.inf).all()


def test_derivative_is_the_slope(schedule):
    t, h = line(0.05, 0.95, 19) + 0.0003, 1e-6
    ahead, behind = schedule.alpha_sigma(t + h), schedule.alpha_sigma(t - h)
    for slope, up, down in zip(schedule.derivative(t), ahead, behind, strict=True):
        assert torch.allclose(slope, (up - down) / (2 * h), atol=1e-4)


def test_derivative_is_finite_and_right_at_the_end(schedule):
    """Velocity is predicted there first, at alpha = 0 for some."""
    t, h = line(1, 1, 1), 1e-9
    for slope, now, before in zip(
        schedule.derivative(t), schedule.alpha_sigma(t), schedule.alpha_sigma(t - h), strict=True
    ):
        assert torch.allclose(slope, (now - before) / h, rtol=1e-3, atol=1e-4)


def test_below_its_first_step_a_table_goes_on_with_its_first_slope():
    """alpha^2 is 1/2 and 1/4, so log-SNR falls from 0 at t = 1/2 to -log 3 at 1, and is log 3 near t = 0."""
    found = Linear(0.5, 0.5, steps=2).log_snr(torch.tensor([1e-12, 0.25, 0.5, 0.75, 1]).double())
    assert torch.allclose(found, math.log(3) * torch.tensor([1, 0.5, 0, -0.5, -1]).double())


def test_float32_is_rounded_float64(schedule):
    """What a network sees in training loses nothing to the type of t, near the ends neither."""
    t = torch.tensor([1e-5, 1e-3, 0.3, 0.7, 0.999, 1 - 2**-24, 1.0])
    for name in ("log_snr", "alpha_sigma", "derivative"):
        found, wanted = getattr(schedule, name)(t), getattr(schedule, name)(t.double())
        for ours, exact in zip(*((r,) if name == "log_snr" else r for r in (found, wanted)), strict=True):
            assert ours.dtype == torch.float32 and torch.equal(ours, exact.float())
    assert schedule.time(schedule.log_snr(t)).dtype == torch.float32


def test_autocast_plays_no_part(schedule):
    t = torch.linspace(0.1, 1, 10)
    with torch.autocast("cpu", torch.bfloat16):
        found = schedule.alpha_sigma(t)
    assert all(torch.equal(a, b) for a, b in zip(found, schedule.alpha_sigma(t), strict=True))


@pytest.mark.gpu
def test_a_gpu_says_the_same(schedule):
    t = torch.linspace(1e-3, 1, 50)
    wanted = torch.stack([*schedule.alpha_sigma(t), *schedule.derivative(t), schedule.log_snr(t)])
    schedule, t = schedule.cuda(), t.cuda()
    found = torch.stack([*schedule.alpha_sigma(t), *schedule.derivative(t), schedule.log_snr(t)])
    assert torch.allclose(found.cpu(), wanted, rtol=1e-6)
    assert torch.allclose(schedule.time(schedule.log_snr(t)), t, atol=1e-5)


def test_a_checkpoint_holds_nothing_of_a_schedule(schedule):
    """What is given by arguments is not learnt; so one network takes several."""
    assert not schedule.state_dict() and not list(schedule.parameters())


@pytest.mark.parametrize(
    ("name", "start", "end", "power"), [("linear", 1e-4, 0.02, 1), ("scaled_linear", 0.00085, 0.012, 2)]
)
def test_tables_are_exact_at_their_steps(name, start, end, power):
    betas = torch.linspace(start ** (1 / power), end ** (1 / power), 1000, dtype=torch.float64) ** power
    alpha, _ = SCHEDULES[name]().alpha_sigma(torch.arange(1, 1001, dtype=torch.float64) / 1000)
    assert torch.allclose(alpha**2, torch.cumprod(1 - betas, 0), rtol=1e-10)


def test_closed_forms():
    t = line(0.01, 1, 100)
    exploding, preserving = Exploding(0.01, 50.0).alpha_sigma(t), Preserving(0.1, 20.0).alpha_sigma(t)
    assert torch.allclose(exploding[1], 0.01 * (50 / 0.01) ** t) and (exploding[0] == 1).all()
    assert torch.allclose(preserving[0], torch.exp(-(19.9 * t**2 / 4) - 0.1 * t / 2))
    # arXiv 2212.11972, algorithm 1, with its constants; the bound so wide that nothing is stretched
    now, left, right = (torch.sigmoid(torch.as_tensor(v, dtype=torch.float64)) for v in (6 * t - 3, -3.0, 3.0))
    alpha, _ = Sigmoid(bound=34.0).alpha_sigma(t)
    assert torch.allclose(alpha**2, (right - now) / (right - left), atol=1e-9)


@pytest.mark.parametrize("kind", [Cosine, Sigmoid])
def test_bounded_ends_are_the_bounds(kind):
    ends = torch.tensor([1e-12, 1.0], dtype=torch.float64)
    assert torch.allclose(kind(bound=9.0).log_snr(ends), torch.tensor([9.0, -9.0], dtype=torch.float64), atol=1e-6)


def test_the_linear_table_tends_to_preserving():
    """beta_j = beta(j / N) / N, so that N steps of it differ from the integral by 1 / N."""
    t = line(0.1, 1, 10)
    gaps = []
    for steps in (1000, 2000):
        table = Linear(0.1 / steps, 20 / steps, steps)
        gaps.append((table.log_snr(t) - Preserving().log_snr(t)).abs().max())
    assert gaps[0] < 0.1 and 1.8 < gaps[0] / gaps[1] < 2.2


@pytest.mark.parametrize("name", ["linear", "scaled_linear"])
def test_zero_terminal_snr_is_algorithm_1(name):
    """As diffusers rescales the same table."""
    theirs = pytest.importorskip("diffusers.schedulers.scheduling_ddim").rescale_zero_terminal_snr
    table = SCHEDULES[name]()
    steps = torch.arange(1, 1001, dtype=torch.float64) / 1000
    cumulative = table.alpha_sigma(steps)[0] ** 2
    betas = 1 - cumulative / torch.cat([cumulative.new_ones(1), cumulative[:-1]])
    wanted = torch.cumprod(1 - theirs(betas), 0).sqrt()
    found, sigma = ZeroTerminalSNR(table).alpha_sigma(steps)
    assert torch.allclose(found, wanted, atol=1e-12)
    assert found[-1] == 0 and sigma[-1] == 1


@pytest.mark.parametrize("name", ["cosine", "sigmoid", "preserving"])
def test_zero_terminal_snr_of_other_curves(name):
    inner = SCHEDULES[name]()
    schedule, t = ZeroTerminalSNR(inner, kept=0.01), line(1e-3, 0.01, 50)
    assert schedule.alpha_sigma(line(1, 1, 1))[0] == 0 and schedule.log_snr(line(1, 1, 1)) == -torch.inf
    assert torch.allclose(schedule.log_snr(t), inner.log_snr(t), atol=1e-9)
    assert (schedule.log_snr(line(0, 1, 4001)).diff() < 0).all()


def test_zero_terminal_snr_is_refused_where_it_means_nothing():
    for other in (Rectified(), Exploding()):
        with pytest.raises(ValueError, match=type(other).__name__):
            ZeroTerminalSNR(other)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_shift_is_of_log_snr_and_keeps_the_path(name):
    inner, t = SCHEDULES[name](), line(0.01, 0.99, 99)
    shifted = Shifted(inner, 4.0)
    assert torch.allclose(shifted.log_snr(t), inner.log_snr(t) - 2 * math.log(4))
    assert shifted.path is inner.path
    assert all(torch.equal(a, b) for a, b in zip(Shifted(inner, 1.0)._point(t), inner._point(t), strict=True))


def test_on_the_straight_path_a_shift_is_stable_diffusions():
    """t -> s t / (1 + (s - 1) t) (arXiv 2403.03206, section 5.3.2)."""
    t, s = line(0, 1, 101), 3.0
    found, wanted = Shifted(Rectified(), s).alpha_sigma(t), Rectified().alpha_sigma(s * t / (1 + (s - 1) * t))
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(found, wanted, strict=True))


def test_impossible_ends_are_refused():
    with pytest.raises(ValueError, match="greater sigma_max"):
        Exploding(1.0, 0.5)
    with pytest.raises(ValueError, match="greater end"):
        Sigmoid(3.0, -3.0)
