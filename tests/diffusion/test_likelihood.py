"""Likelihoods against closed forms: normal data and a mixture, the ODE's density and the bound, and each other."""

import math

import pytest
import torch

from ldm.diffusion.flow import length
from ldm.diffusion.likelihood import Exact, Flow, Hutchinson, bound
from ldm.ode import DormandPrince, RungeKutta
from ldm.random import Random
from ldm.types import Context
from tests.diffusion.gaussian import GaussianDenoiser, at
from tests.diffusion.mixture import MixtureDenoiser
from tests.pieces import pieces

SCHEDULES = pieces("diffusion/schedule")
MEAN, STD, START = 0.3, 0.6, 1e-3


def normal(x, mean, std):
    return (-((x - mean) ** 2) / (2 * std**2) - (std * math.sqrt(2 * math.pi)).log()).flatten(1).sum(1)


def random_of(x):
    return Random(0, 0, torch.arange(len(x)))


def gaussian_data(n=5, shape=(2, 1, 2)):
    return MEAN + STD * Random(1, 0, torch.arange(n)).normal("x", shape).double()


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_flow_gives_the_density_that_samples_have(name):
    """Samples begin as N(0, alpha(1)^2 + sigma(1)^2) and are carried by an affine map, so their density is known to the end."""
    schedule, x = SCHEDULES[name](), gaussian_data()
    denoiser = GaussianDenoiser(schedule, MEAN, STD)
    (alpha, _), begins = schedule.alpha_sigma(at(START, 1)), length(schedule, at(1.0, 1))
    corners = torch.tensor([0.0, 1.0], dtype=torch.float64).view(2, 1, 1, 1)
    low, high = (denoiser.flow(corners, at(1.0, 2), at(START, 2)) / alpha).flatten()
    exact = normal(x, low, (high - low) * begins)
    found = Flow(Exact(), DormandPrince(1e-6), START).log_prob(denoiser, x, Context(), random_of(x))
    assert (found - exact).abs().max() < 1e-3


@pytest.mark.parametrize("name", ["cosine", "rectified", "zero_terminal_snr", "shifted", "sigmoid"])
def test_the_density_of_a_mixture(name):
    """Where x_1 is almost pure noise, the model's density is that of the data, blurred by sigma / alpha at the start."""
    denoiser = MixtureDenoiser(SCHEDULES[name]())
    x, t = denoiser.draw(12, torch.Generator().manual_seed(0)), at(START, 12)
    alpha, _ = denoiser.schedule.alpha_sigma(t)
    exact = denoiser.log_density(alpha.view(-1, 1, 1, 1) * x, t) + 2 * alpha.log()
    found = Flow(Exact(), DormandPrince(1e-6), START).log_prob(denoiser, x, Context(), random_of(x))
    assert (found - exact).abs().max() < 1e-3


@pytest.mark.usefixtures("unchecked")
def test_fixed_steps_converge_at_fourth_order():
    denoiser, errors = MixtureDenoiser(SCHEDULES["rectified"]()), []
    x = denoiser.draw(8, torch.Generator().manual_seed(1))
    exact = Flow(Exact(), DormandPrince(1e-9), 0.05).log_prob(denoiser, x, Context(), random_of(x))
    for steps in (50, 100):
        found = Flow(Exact(), RungeKutta(steps), 0.05).log_prob(denoiser, x, Context(), random_of(x))
        errors.append((found - exact).abs().max())
    assert errors[0] / errors[1] > 11 and errors[1] < 1e-3


@pytest.mark.usefixtures("unchecked")
def test_hutchinson_is_unbiased_and_exact_where_probes_span():
    """Within 4 standard errors of 2000 estimates of one density; for a diagonal Jacobian every sign gives the trace."""
    denoiser = MixtureDenoiser(SCHEDULES["rectified"]())
    x = denoiser.draw(1, torch.Generator().manual_seed(2))
    solver = RungeKutta(100)
    exact = Flow(Exact(), solver, 0.05).log_prob(denoiser, x, Context(), random_of(x))
    many = x.expand(2000, -1, -1, -1)
    found = Flow(Hutchinson(2), solver, 0.05).log_prob(denoiser, many, Context(), random_of(many))
    assert found.std() > 0.01 and abs(found.mean() - exact) < 4 * found.std() / 2000**0.5
    plain, y = GaussianDenoiser(SCHEDULES["cosine"](), MEAN, STD), gaussian_data()
    pair = [Flow(way, solver).log_prob(plain, y, Context(), random_of(y)) for way in (Exact(), Hutchinson())]
    assert torch.allclose(*pair, atol=1e-9)


def test_a_density_does_not_depend_on_its_batch():
    denoiser = MixtureDenoiser(SCHEDULES["cosine"]())
    x = denoiser.draw(4, torch.Generator().manual_seed(3))
    flow, random = Flow(Hutchinson()), random_of(x)
    whole = flow.log_prob(denoiser, x, Context(), random)
    assert torch.equal(whole[1:], flow.log_prob(denoiser, x[1:], Context(), random[1:]))


@pytest.mark.usefixtures("unchecked")
def test_densities_integrate_to_one():
    side = torch.linspace(-3.5, 3.5, 71, dtype=torch.float64)
    x = torch.cartesian_prod(side, side).view(-1, 2, 1, 1)
    denoiser = MixtureDenoiser(SCHEDULES["cosine"]())
    log_p = Flow(Exact(), RungeKutta(60), 0.05).log_prob(denoiser, x, Context(), random_of(x))
    assert abs(log_p.exp().sum() * 0.1**2 - 1) < 2e-3


class Nodes(Random):
    """The nodes of Gauss and Hermite's quadrature as noise, one a row."""

    def __init__(self, values):
        super().__init__(0, 0, torch.arange(len(values)))
        self.values = values

    def normal(self, stream, shape=()):
        return self.values.view(-1, *[1] * len(shape))


def expected_bound(denoiser, x, schedule, steps, first=-8.0, last=9.0):
    """The bound's expectation over noise at one number x, by quadrature: times at equal steps of log-SNR, and 0."""
    import numpy as np

    nodes, weights = (torch.from_numpy(v) for v in np.polynomial.hermite_e.hermegauss(60))
    inner = schedule.time(torch.linspace(first, last, steps, dtype=torch.float64))
    times = torch.cat([inner, torch.zeros(1, dtype=torch.float64)])
    found = bound(denoiser, torch.full((60, 1, 1, 1), x, dtype=torch.float64), times, Context(), Nodes(nodes))
    return float((weights * found).sum() / weights.sum())


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", ["cosine", "rectified", "exploding"])
def test_the_bound_is_above_the_density_and_comes_down_to_it(name):
    schedule = SCHEDULES[name]()
    denoiser, gaps = GaussianDenoiser(schedule, MEAN, STD), []
    for x in (-0.2, 0.9):
        exact = float(normal(torch.full((1, 1), x), MEAN, torch.tensor(STD)))
        gaps.append([expected_bound(denoiser, x, schedule, steps) + exact for steps in (80, 320, 640)])
    coarse, middle, fine = torch.tensor(gaps).T
    assert (fine > 0).all() and (middle < coarse / 3.5).all()
    assert ((2 * fine - middle).abs() < 1e-3).all()  # what is left in the limit of a gap that falls as 1 / steps


def test_the_bounds_of_few_steps_are_closed_forms():
    """Two times, 0.7 and 0: only the last step and the prior's, for which E|x - E[x|x_t]|^2 is known."""
    schedule, x = SCHEDULES["rectified"](), 0.9
    denoiser, t = GaussianDenoiser(schedule, MEAN, STD), at(0.7, 1)
    alpha, sigma = schedule.alpha_sigma(t)
    snr, gain = (alpha / sigma) ** 2, alpha * STD**2 / (alpha**2 * STD**2 + sigma**2)
    error = ((1 - gain * alpha) * (x - MEAN)) ** 2 + (gain * sigma) ** 2
    prior = (1 + snr * x**2) / (1 + snr) - 1 + snr.log1p()
    wanted = float((prior + snr * error + (2 * math.pi / snr).log()) / 2)
    level = float(schedule.log_snr(t))
    assert abs(expected_bound(denoiser, x, schedule, 1, level, level) - wanted) < 1e-6


@pytest.mark.usefixtures("unchecked")
def test_the_estimated_bound_is_unbiased():
    """4 standard errors of 4000 estimates from the quadrature."""
    schedule, x = SCHEDULES["cosine"](), 0.9
    denoiser = GaussianDenoiser(schedule, MEAN, STD)
    times = schedule.time(torch.linspace(-8, 9, 20, dtype=torch.float64))
    times, many = torch.cat([times, torch.zeros(1, dtype=torch.float64)]), torch.full((4000, 1, 1, 1), x).double()
    found = bound(denoiser, many, times, Context(), random_of(many), draws=2)
    wanted = expected_bound(denoiser, x, schedule, 20)
    assert abs(found.mean() - wanted) < 4 * found.std() / 4000**0.5


@pytest.mark.usefixtures("unchecked")
def test_the_bound_is_above_the_density_of_a_mixture():
    """In the mean over data, by 5 standard errors; and four times the steps leave a quarter of the gap."""
    denoiser, gaps = MixtureDenoiser(SCHEDULES["cosine"]()), []
    x = denoiser.draw(3000, torch.Generator().manual_seed(4))
    for steps in (100, 400):
        times = denoiser.schedule.time(torch.linspace(-9, 9, steps, dtype=torch.float64))
        times = torch.cat([times, torch.zeros(1, dtype=torch.float64)])
        gap = bound(denoiser, x, times, Context(), random_of(x)) + denoiser.log_density(x, at(0.0, len(x)))
        error = float(gap.std() / 3000**0.5)
        gaps.append(float(gap.mean()))
        assert gaps[-1] > 5 * error > 0
    assert abs(gaps[0] / 4 - gaps[1]) < 5 * error
