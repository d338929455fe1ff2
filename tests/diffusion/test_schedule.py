"""Laws of every schedule in conf/diffusion/schedule."""

import pytest
import torch

from tests.pieces import pieces

SCHEDULES = pieces("diffusion/schedule")


@pytest.fixture(params=SCHEDULES, ids=SCHEDULES.keys())
def schedule(request):
    return SCHEDULES[request.param]()


def test_log_snr_falls(schedule):
    t = torch.linspace(1e-3, 0.999, 4001, dtype=torch.float64)
    assert (schedule.log_snr(t).diff() < 0).all()


def test_time_inverts_log_snr(schedule):
    t = torch.linspace(1e-3, 0.999, 1001, dtype=torch.float64)
    assert torch.allclose(schedule.time(schedule.log_snr(t)), t, atol=1e-9)


def test_log_snr_is_that_of_alpha_and_sigma(schedule):
    t = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    alpha, sigma = schedule.alpha_sigma(t)
    assert torch.allclose(2 * (alpha / sigma).log(), schedule.log_snr(t), atol=1e-9)


def test_time_zero_is_data(schedule):
    alpha, sigma = schedule.alpha_sigma(torch.zeros(3))
    assert (alpha == 1).all() and (sigma == 0).all()


def test_derivative_is_the_slope(schedule):
    t, h = torch.linspace(0.05, 0.95, 19, dtype=torch.float64) + 0.0003, 1e-6
    ahead, behind = schedule.alpha_sigma(t + h), schedule.alpha_sigma(t - h)
    for slope, up, down in zip(schedule.derivative(t), ahead, behind, strict=True):
        assert torch.allclose(slope, (up - down) / (2 * h), atol=1e-4)


@pytest.mark.parametrize(
    ("name", "start", "end", "power"), [("linear", 1e-4, 0.02, 1), ("scaled_linear", 0.00085, 0.012, 2)]
)
def test_tables_are_exact_at_their_steps(name, start, end, power):
    betas = torch.linspace(start ** (1 / power), end ** (1 / power), 1000, dtype=torch.float64) ** power
    alpha, _ = SCHEDULES[name]().alpha_sigma(torch.arange(1, 1001, dtype=torch.float64) / 1000)
    assert torch.allclose(alpha**2, torch.cumprod(1 - betas, 0), rtol=1e-10)
