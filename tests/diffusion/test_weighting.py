"""Laws of every weighting; that the exact denoiser has the least loss under each is in test_parameterization.py."""

import itertools
import math

import pytest
import torch

from ldm.diffusion.denoiser import Errors, NetworkDenoiser
from ldm.diffusion.weighting import Learned, Prediction
from ldm.prior.base import Latents
from ldm.prior.diffusion import Diffusion
from ldm.random import Random
from ldm.types import Context, ContextShape
from tests.diffusion.gaussian import at
from tests.pieces import pieces

SCHEDULES, PARAMETERIZATIONS = pieces("diffusion/schedule"), pieces("diffusion/parameterization")
WEIGHTINGS, TIMES = pieces("diffusion/weighting"), pieces("diffusion/time")

# w on the error of eps, of SNR and p(log-SNR), with the constants of the constructors.
CLOSED = {
    "uniform": lambda snr, p: torch.ones_like(snr),
    "snr": lambda snr, p: torch.ones_like(snr),
    "min_snr": lambda snr, p: snr.clamp(max=5) / snr,
    "soft_min_snr": lambda snr, p: 4 / (snr + 4),
    "karras": lambda snr, p: (1 / snr + 1) / (1 / snr) / snr,  # (r^2 + 1) / r^2 on x, and x is eps / SNR
    "elbo": lambda snr, p: 1 / (2 * p),
    "sigmoid": lambda snr, p: 1 / (1 + snr * math.exp(-2)) / (2 * p),
}


def unasked():
    raise AssertionError("this weighting does not depend on the law of times")


def errors_of_dx(schedule, parameterization, t, dx):
    """The errors of a denoiser that is off by dx."""
    (alpha, sigma), (a, b) = schedule.alpha_sigma(t), parameterization.pair(schedule, t)
    det = alpha * b - sigma * a
    return Errors((det / sigma * dx) ** 2, (alpha / sigma * dx) ** 2, dx**2 * torch.ones_like(t))


@pytest.mark.parametrize(("schedule", "parameterization"), list(itertools.product(SCHEDULES, PARAMETERIZATIONS)))
def test_one_error_said_in_three_ways(schedule, parameterization):
    """`errors` of a network whose F is off by what a known dx makes of it."""
    schedule, parameterization = SCHEDULES[schedule](), PARAMETERIZATIONS[parameterization]()
    t, dx = torch.linspace(0.1, 0.9, 9, dtype=torch.float64), 0.3
    (alpha, sigma), (a, b) = schedule.alpha_sigma(t), parameterization.pair(schedule, t)
    x, eps = torch.randn(2, 9, 1, 1, 1, dtype=torch.float64)
    off = -(alpha * b - sigma * a) / sigma * dx  # x = (b x_t - sigma F) / det

    class Off(torch.nn.Module):
        def forward(self, z, log_snr, c):
            return sum(v.view(-1, 1, 1, 1) * w for v, w in ((a, x), (b, eps), (off, torch.ones_like(x))))

    found = NetworkDenoiser(Off(), schedule, parameterization).errors(x, eps, t, Context())
    wanted = errors_of_dx(schedule, parameterization, t, dx)
    for name in ("prediction", "eps", "x"):
        assert torch.allclose(getattr(found, name), getattr(wanted, name), rtol=1e-3)


@pytest.mark.parametrize(("schedule", "parameterization"), list(itertools.product(SCHEDULES, PARAMETERIZATIONS)))
def test_a_weighting_means_the_same_for_every_parameterization(schedule, parameterization):
    schedule, parameterization = SCHEDULES[schedule](), PARAMETERIZATIONS[parameterization]()
    t = torch.linspace(0.1, 0.9, 9, dtype=torch.float64)
    errors, log_snr, p = errors_of_dx(schedule, parameterization, t, 0.3), schedule.log_snr(t), torch.full_like(t, 0.07)
    for name, weight in CLOSED.items():
        found = WEIGHTINGS[name]()(errors, log_snr, lambda: p)
        assert torch.allclose(found, weight(log_snr.exp(), p) * errors.eps), name


def test_min_snr_for_v_is_the_papers():
    """min(SNR, gamma) / (SNR + 1) on |v error|^2 (arXiv 2303.09556, section 3.4)."""
    schedule, t = SCHEDULES["cosine"](), torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    snr, errors = schedule.log_snr(t).exp(), errors_of_dx(schedule, PARAMETERIZATIONS["v"](), t, 0.3)
    found = WEIGHTINGS["min_snr"]()(errors, schedule.log_snr(t), unasked)
    assert torch.allclose(found, snr.clamp(max=5) / (snr + 1) * errors.prediction)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("s", [0.5, 1.0])
def test_karras_is_the_plain_error_of_karras(name, s):
    schedule, t = SCHEDULES[name](), torch.linspace(1e-3, 1, 99, dtype=torch.float64)
    errors = errors_of_dx(schedule, PARAMETERIZATIONS["karras"](sigma_data=s), t, 0.3)
    found = WEIGHTINGS["karras"](sigma_data=s)(errors, schedule.log_snr(t), unasked)
    assert torch.allclose(found, errors.prediction)


def test_soft_min_snr_is_half_of_min_snr_at_its_kink_and_the_same_far_from_it():
    log_snr = torch.tensor([-20.0, math.log(4), 20.0], dtype=torch.float64)
    errors = Errors(*torch.ones(3, 3, dtype=torch.float64))
    soft, hard = (WEIGHTINGS[name](gamma=4.0)(errors, log_snr, unasked) for name in ("soft_min_snr", "min_snr"))
    assert torch.allclose(soft / hard, torch.tensor([1, 0.5, 1], dtype=torch.float64))


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_snr_goes_from_the_error_of_x_to_that_of_eps(power):
    schedule, t = SCHEDULES["cosine"](), torch.linspace(0.1, 0.9, 9, dtype=torch.float64)
    errors = errors_of_dx(schedule, PARAMETERIZATIONS["noise"](), t, 0.3)
    found = WEIGHTINGS["snr"](power=power)(errors, schedule.log_snr(t), unasked)
    assert torch.allclose(found, errors.x ** (1 - power) * errors.eps**power)


@pytest.mark.parametrize(("law", "schedule"), list(itertools.product(TIMES, SCHEDULES)))
def test_elbo_is_the_likelihoods_bound_whatever_the_law(law, schedule):
    """For data N(0, 1) the least error of eps is SNR / (SNR + 1), and half its integral over log-SNR, from l to h, is
    (log(1 + e^h) - log(1 + e^l)) / 2: the information that x_h has of x and x_l has not (arXiv 2107.00630)."""
    law, schedule = TIMES[law](), SCHEDULES[schedule]()
    n = 20_000
    u = 0.02 + 0.96 * (torch.arange(n, dtype=torch.float64) + 0.5) / n
    log_snr = schedule.log_snr(law(u, schedule))
    least = torch.sigmoid(log_snr)
    found = 0.96 * WEIGHTINGS["elbo"]()(Errors(least, least, least), log_snr, lambda: law.density(u, schedule)).mean()
    ends = schedule.log_snr(law(torch.tensor([0.02, 0.98], dtype=torch.float64), schedule))
    high, low = torch.nn.functional.softplus(ends)
    assert torch.allclose(found, (high - low) / 2, rtol=1e-3)


class Zero(torch.nn.Module):
    def __init__(self, channels, context):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.zeros(()))

    def forward(self, z, log_snr, c):
        return self.gain * z


def prior_of(schedule, parameterization, weighting, law):
    """A diffusion of these pieces over a network that says 0; what only samples is of no account."""
    return Diffusion(
        Latents((2, 2, 2)),
        ContextShape(),
        Zero,
        SCHEDULES[schedule](),
        PARAMETERIZATIONS[parameterization](),
        WEIGHTINGS[weighting](),
        TIMES[law](),
        pieces("diffusion/sampler")["ddim"](),
        pieces("diffusion/grid")["uniform"](),
        lambda denoiser: denoiser,
    )


def check_losses(prior):
    """The loss under every weighting is finite and every parameter learns of it, in float32."""
    random = Random(0, 0, torch.arange(64))
    z = random.normal("z", (2, 2, 2))
    for name, weighting in WEIGHTINGS.items():
        prior.weighting = weighting()
        loss = prior.loss(z, Context(), random)["diffusion"]
        gradients = torch.autograd.grad(loss, list(prior.parameters()))
        assert loss.dtype == torch.float32 and loss.isfinite(), name
        assert all(each.isfinite().all() and (each != 0).any() for each in gradients), name


@pytest.mark.parametrize(("schedule", "parameterization"), list(itertools.product(SCHEDULES, PARAMETERIZATIONS)))
def test_losses_are_finite_and_learnt_from(schedule, parameterization):
    try:
        prior = prior_of(schedule, parameterization, "uniform", "uniform")
    except ValueError as error:
        assert "noise prediction" in str(error)
        return
    check_losses(prior)


@pytest.mark.parametrize(("law", "schedule"), list(itertools.product(TIMES, SCHEDULES)))
def test_losses_are_finite_under_every_law(law, schedule):
    check_losses(prior_of(schedule, "v", "uniform", law))


def test_noise_with_zero_terminal_snr_is_refused_with_the_reason():
    with pytest.raises(ValueError, match=r"noise prediction says nothing of x .* use parameterization v"):
        prior_of("zero_terminal_snr", "noise", "uniform", "uniform")


def test_learned_begins_as_the_weighting_that_it_wraps():
    errors, log_snr = Errors(*torch.rand(3, 5)), torch.linspace(-30, 30, 5)
    assert torch.equal(Learned(Prediction())(errors, log_snr, unasked), errors.prediction)


def test_learned_finds_the_logarithm_of_the_loss():
    """The minimum of E[L exp(-u) + u] is u = log E[L] at every noise level (arXiv 2312.02696, equation 21)."""
    torch.manual_seed(0)
    learned, log_snr = Learned(Prediction()), torch.linspace(-15, 15, 400)
    loss = torch.exp(torch.sin(log_snr / 3) - 1)
    optimizer = torch.optim.LBFGS(learned.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def step():
        optimizer.zero_grad()
        total = learned(Errors(loss, loss, loss), log_snr, unasked).mean()
        total.backward()
        return total

    optimizer.step(step)
    assert torch.allclose(learned.log_variance(log_snr), loss.log(), atol=0.02)


def test_learned_is_part_of_the_prior():
    """So that checkpoints, averages and the optimizer know of it."""
    prior = prior_of("cosine", "v", "learned", "uniform")
    assert "weighting.series" in prior.state_dict() and "weighting.series" in dict(prior.named_parameters())
    assert not any(name.startswith("weighting") for name in prior_of("cosine", "v", "elbo", "uniform").state_dict())


def test_learned_stays_in_float32_under_autocast():
    learned = Learned(Prediction())
    torch.nn.init.normal_(learned.series)
    with torch.autocast("cpu", torch.bfloat16):
        found = learned.log_variance(at(3.0, 4).float())
    assert found.dtype == torch.float32 and torch.equal(found, learned.log_variance(at(3.0, 4).float()))
