"""Laws of every parameterization under every schedule."""

import itertools

import pytest
import torch

from ldm.diffusion.denoiser import NetworkDenoiser, Rescheduled
from ldm.diffusion.sampler.ddim import DDIM
from ldm.random import Random
from ldm.types import Context
from tests.diffusion.exact import ExactNetwork
from tests.diffusion.gaussian import at
from tests.diffusion.mixture import MixtureDenoiser
from tests.pieces import pieces

SCHEDULES, PARAMETERIZATIONS = pieces("diffusion/schedule"), pieces("diffusion/parameterization")
WEIGHTINGS, TIMES = pieces("diffusion/weighting"), pieces("diffusion/time")
PAIRS = list(itertools.product(SCHEDULES, PARAMETERIZATIONS))


class Answer(torch.nn.Module):
    """The backbone that always says the same."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, z, log_snr, c):
        return self.answer


def wide(*values):
    return tuple(value.view(-1, 1, 1, 1) for value in values)


def pair_of(schedule, parameterization):
    return SCHEDULES[schedule](), PARAMETERIZATIONS[parameterization]()


@pytest.mark.parametrize(("schedule", "parameterization"), PAIRS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_the_target_gives_x_back(schedule, parameterization, dtype):
    """As exactly as the rounding of x_t to float32 and of F to `dtype`, each times its coefficient, allows."""
    schedule, parameterization = pair_of(schedule, parameterization)
    torch.manual_seed(0)
    t = torch.cat([torch.tensor([1e-3, 0.999]), torch.linspace(0.02, 0.98, 62)])
    x, eps = torch.randn(64, 2, 3, 3, dtype=dtype), torch.randn(64, 2, 3, 3)
    alpha, sigma, a, b = wide(*schedule.alpha_sigma(t), *parameterization.pair(schedule, t))
    target, x_t, det = a * x + b * eps, alpha * x + sigma * eps, alpha * b - sigma * a
    denoiser = NetworkDenoiser(Answer(target), schedule, parameterization)
    assert (denoiser.errors(x, eps, t, Context()).prediction == 0).all()

    found = NetworkDenoiser(Answer(target.to(dtype)), schedule, parameterization)(x_t, t, Context())
    single, rounding = torch.finfo(torch.float32).eps, torch.finfo(dtype).eps
    allowed = 3 * single * (b / det * x_t).abs() + (rounding + 3 * single) * (sigma / det * target).abs() + 1e-6
    assert ((found - x).abs() <= allowed).all()


@pytest.mark.parametrize(("schedule", "parameterization"), PAIRS)
def test_det_is_what_the_module_says(schedule, parameterization):
    """So x can be had of every prediction, at every time but, for some, the last."""
    names = schedule, parameterization
    schedule, parameterization = pair_of(*names)
    t = torch.linspace(1e-4, 1 - 1e-4, 4001, dtype=torch.float64)
    (alpha, sigma), (a, b) = schedule.alpha_sigma(t), parameterization.pair(schedule, t)
    det = alpha * b - sigma * a
    assert (det != 0).all() and (det.sign() == det[0].sign()).all()
    slope = torch.func.jvp(schedule.log_snr, (t,), (torch.ones_like(t),))[1]
    wanted = {
        "data": -sigma,
        "noise": alpha,
        "v": alpha**2 + sigma**2,
        "karras": -(alpha**2 + sigma**2).sqrt(),
        "velocity": -alpha * sigma * slope / 2,
    }
    if names[1] in wanted:
        assert torch.allclose(det, wanted[names[1]], rtol=1e-8)


@pytest.mark.parametrize(("schedule", "parameterization"), PAIRS)
def test_a_pair_is_refused_or_answers_at_both_ends(schedule, parameterization):
    names = schedule, parameterization
    schedule, parameterization = pair_of(*names)
    ends_in_noise = schedule.alpha_sigma(torch.ones(1))[0].item() == 0
    try:
        parameterization.check(schedule)
    except ValueError as error:
        assert names[1] == "noise" and ends_in_noise and "noise prediction" in str(error) and "alpha = 0" in str(error)
        return
    assert not (names[1] == "noise" and ends_in_noise)
    x_t = torch.randn(2, 1, 2, 2)
    found = NetworkDenoiser(Answer(torch.randn(2, 1, 2, 2)), schedule, parameterization)(
        x_t, torch.tensor([0.0, 1.0]), Context()
    )
    assert found.isfinite().all() and torch.equal(found[0], x_t[0])


@pytest.mark.parametrize("name", SCHEDULES)
def test_karras_is_of_unit_variance_and_is_v_where_variance_is_preserved(name):
    schedule, karras = SCHEDULES[name](), PARAMETERIZATIONS["karras"]
    t = torch.linspace(1e-3, 1, 1000, dtype=torch.float64)
    for s in (0.5, 1.0, 2.0):
        a, b = karras(sigma_data=s).pair(schedule, t)
        assert torch.allclose((a * s) ** 2 + b**2, torch.ones_like(t))
    alpha, sigma = schedule.alpha_sigma(t)
    if torch.allclose(alpha**2 + sigma**2, torch.ones_like(t)):
        a, b = karras().pair(schedule, t)
        v_a, v_b = PARAMETERIZATIONS["v"]().pair(schedule, t)
        assert torch.allclose(a, -v_a) and torch.allclose(b, -v_b)


def test_karras_is_edms_preconditioning():
    """D = c_skip x_t + c_out F (arXiv 2206.00364, table 1) at alpha = 1."""
    schedule, s = SCHEDULES["exploding"](), 0.5
    t = torch.linspace(0.01, 1, 50, dtype=torch.float64)
    sigma = schedule.alpha_sigma(t)[1]
    x_t, answer = torch.randn(50, 1, 1, 1, dtype=torch.float64), torch.randn(50, 1, 1, 1)
    found = NetworkDenoiser(Answer(answer), schedule, PARAMETERIZATIONS["karras"](sigma_data=s))(x_t, t, Context())
    skip, out = wide(s**2 / (sigma**2 + s**2), sigma * s / (sigma**2 + s**2).sqrt())
    assert torch.allclose(found, skip * x_t + out * answer)


def z_scores(schedule, parameterization, factor, n=3000):
    """weighting -> how many standard errors the mean gradient of its loss at the network lies from 0, (3,); from the
    middle of the times, lest a few heavy examples make it all."""
    network = ExactNetwork(schedule, parameterization, factor)
    network.theta = torch.zeros(n, 3, dtype=torch.float64, requires_grad=True)
    generator = torch.Generator().manual_seed(0)
    u = 0.3 + 0.3 * (torch.arange(n, dtype=torch.float64) + 0.5) / n
    x = network.denoiser.draw(n, generator)
    eps = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    law = TIMES["uniform"]()
    t = law(u, schedule)
    errors = NetworkDenoiser(network, schedule, parameterization).errors(x, eps, t, Context())
    found = {}
    for name, weighting in WEIGHTINGS.items():
        loss = weighting()(errors, schedule.log_snr(t), lambda: law.density(u, schedule))
        (gradient,) = torch.autograd.grad(loss.sum(), network.theta, retain_graph=True)
        found[name] = gradient.mean(0) / (gradient.std(0) / n**0.5)
    return found


@pytest.mark.parametrize(("schedule", "parameterization"), PAIRS)
def test_the_exact_denoiser_has_the_least_loss(schedule, parameterization):
    """The mean gradient of the loss is zero there within 4.5 standard errors, and is not at half its answer."""
    schedule, parameterization = pair_of(schedule, parameterization)
    for name, score in z_scores(schedule, parameterization, 1.0).items():
        assert (score.abs() < 4.5).all(), name
    for name, score in z_scores(schedule, parameterization, 0.5).items():
        assert score.abs().max() > 6, name


@pytest.mark.parametrize(("trained", "parameterization"), PAIRS)
def test_a_denoiser_serves_another_schedule(trained, parameterization):
    trained, parameterization = pair_of(trained, parameterization)
    denoiser = NetworkDenoiser(ExactNetwork(trained, parameterization), trained, parameterization)
    for schedule in (make() for make in SCHEDULES.values()):
        t = torch.linspace(0.3, 0.7, 64, dtype=torch.float64)
        exact, (alpha, sigma) = MixtureDenoiser(schedule), wide(*schedule.alpha_sigma(t))
        x_t = alpha * exact.draw(64) + sigma * torch.randn(64, 2, 1, 1, dtype=torch.float64)
        found = Rescheduled(denoiser, schedule)(x_t, t, Context())
        assert torch.allclose(found, exact(x_t, t, Context()), atol=1e-4)


def test_beyond_the_end_of_a_schedule_its_end_answers():
    """The table's least noise is 0.02; at less it is asked as if that were it."""
    table, straight, data = SCHEDULES["scaled_linear"](), SCHEDULES["rectified"](), PARAMETERIZATIONS["data"]()
    other = Rescheduled(NetworkDenoiser(Answer(torch.zeros(2, 1, 1, 1)), table, data), straight)
    x_t = torch.ones(2, 1, 1, 1)
    found = other(x_t, torch.tensor([0.0, 0.005]), Context())
    assert found[0] == 1 and found[1] == 0  # the network says 0; where it is not asked, x_t is x


@pytest.mark.parametrize("name", SCHEDULES)
def test_sampling_on_a_schedule_not_trained_on(name):
    """A v network of the cosine schedule follows the ODE of any other as that one's own exact denoiser does."""
    cosine, schedule, v = SCHEDULES["cosine"](), SCHEDULES[name](), PARAMETERIZATIONS["v"]()
    other = Rescheduled(NetworkDenoiser(ExactNetwork(cosine, v), cosine, v), schedule)
    random, times = Random(0, 0, torch.arange(32)), torch.linspace(0.9, 0, 9, dtype=torch.float64)
    x = random.normal("start", (2, 1, 1)).double() * schedule.alpha_sigma(at(0.9, 1))[1]
    found, wanted = (DDIM()(each, x, times, Context(), random) for each in (other, MixtureDenoiser(schedule)))
    assert torch.allclose(found, wanted, atol=1e-4)
