"""Posteriors on data where every one is known, and the laws of all of them."""

import functools
import math

import pytest
import torch

from ldm.diffusion.denoiser import along
from ldm.diffusion.flow import length
from ldm.diffusion.guidance.classifier_free import ClassifierFree
from ldm.diffusion.guidance.interval import Interval
from ldm.diffusion.posterior.base import NOISIEST, Measurement, tweedie
from ldm.diffusion.posterior.diffpir import DiffPIR
from ldm.diffusion.posterior.dps import DPS
from ldm.diffusion.posterior.mmps import MMPS
from ldm.diffusion.posterior.operator import Composed, Downsample, Identity, Mask
from ldm.diffusion.posterior.replacement import Replacement
from ldm.diffusion.sampler.ddim import DDIM
from ldm.diffusion.sampler.heun import Heun
from ldm.diffusion.sampler.resampling import Resampling
from ldm.diffusion.sampler.unipc import UniPC
from ldm.random import Random
from ldm.types import Context
from tests.diffusion.gaussian import GaussianDenoiser, at
from tests.diffusion.posterior.exact import MEAN, SHAPE, Normal, Normals, covariance
from tests.diffusion.test_guidance import Sees, conditioned
from tests.pieces import pieces

SCHEDULES, WORDS = pieces("diffusion/schedule"), pieces("diffusion/posterior")
PART = torch.tensor([[1.0, 0, 1, 1], [0, 0, 1, 0]]).double()[None, None]
OPERATORS = {"identity": Identity(), "mask": Mask(PART), "downsample": Downsample(2)}
ROWS, N = 3, 8


def drawn(rows=ROWS, seed=0):
    """Of the data."""
    root = torch.linalg.cholesky(covariance())
    return (MEAN + Random(seed, 0, torch.arange(rows)).normal("x", (N,)).double() @ root.T).view(rows, *SHAPE)


def measured(name="mask", noise=0.3, rows=ROWS, seed=0):
    """A measurement of a draw of the data."""
    random, operator = Random(seed, 0, torch.arange(rows)), OPERATORS[name]
    y = operator(drawn(rows, seed))
    n = random.normal("n", tuple(y.shape[1:])).double()
    return Measurement(
        operator, y + (0 if math.isinf(noise) else noise) * operator(torch.ones(rows, *SHAPE).double()) * n, noise
    )


def start(rows=ROWS):
    return Random(7, 0, torch.arange(rows)).normal("start", SHAPE).double()


# Exact where it is exact


@pytest.mark.parametrize("schedule", ["rectified", "cosine", "exploding"])
@pytest.mark.parametrize("noise", [0.0, 0.3])
@pytest.mark.parametrize("name", OPERATORS)
def test_mmps_is_exact_for_normal_data(name, noise, schedule):
    plain, seen = Normals(SCHEDULES[schedule]()), measured(name, noise)
    for log_snr in (4.0, 0.0, -4.0):
        t = plain.schedule.time(torch.full((ROWS,), log_snr).double())
        alpha, sigma = (along(value, start()) for value in plain.schedule.alpha_sigma(t))
        x_t = alpha * drawn() + sigma * start()
        found = MMPS(plain, seen, iterations=N)(x_t, t, Context())
        assert torch.allclose(found, plain.knowing(seen)(x_t, t, Context()), atol=1e-5)


def test_through_a_decoder_that_is_linear_it_is_exact_as_well():
    plain, seen = Normals(SCHEDULES["rectified"]()), measured("downsample")
    through = Measurement(Composed(Downsample(2), lambda z: 2 * z - 0.5), 2 * seen.y - 0.5, 2 * seen.noise)
    for method in (functools.partial(MMPS, iterations=N), DPS, DiffPIR):
        found, wanted = (method(plain, each)(start(), at(0.4, ROWS), Context()) for each in (through, seen))
        if method is not DiffPIR:  # whose C is in units of z on both sides, and whose H is not
            assert torch.allclose(found, wanted)
    assert torch.allclose(DiffPIR(plain, through)(start(), at(0.4, ROWS), Context()), wanted)


def impulses() -> torch.Tensor:
    """0 and each axis: what an affine map does to them is its mean and its matrix."""
    return torch.cat([torch.zeros(1, N), torch.eye(N)]).double().view(N + 1, *SHAPE)


@pytest.mark.parametrize("sampler", [Heun, UniPC])
@pytest.mark.parametrize("schedule", ["rectified", "cosine"])
@pytest.mark.parametrize("name", OPERATORS)
def test_samples_of_mmps_have_the_posteriors_mean_and_covariance(name, schedule, sampler):
    """A sample is an affine function of its noise, so its law is known without drawing one."""
    plain, one = Normals(SCHEDULES[schedule]()), measured(name, rows=1)
    seen = Measurement(one.operator, one.y.expand(N + 1, -1, -1, -1), one.noise)
    angle = torch.linspace(math.pi / 2, 0, 41).double()[1:-1]
    times = torch.tensor([1.0, *plain.schedule.time(-2 * angle.tan().log()).tolist(), 0.0]).double()
    found = sampler()(
        MMPS(Normal(plain.schedule), seen, N), impulses(), times, Context(), Random(0, 0, torch.arange(N + 1))
    ).flatten(1)
    mean, spread = plain.knowing(seen).moments()
    root = found[1:] - found[0]
    assert torch.allclose(found[0], mean, atol=0.01)
    assert torch.allclose(root.T @ root, spread, atol=0.02)


def test_mmps_is_exact_for_a_mixture_once_the_component_is_known():
    """Two normals far apart: at low noise x_t says which, and then the data are normal; at high noise it is only near."""
    means = torch.stack([MEAN, MEAN + 6])
    spread, weights = covariance().expand(2, -1, -1), torch.tensor([0.5, 0.5]).double()
    plain, seen = Normals(SCHEDULES["rectified"](), means, spread, weights), measured()
    x = (MEAN + 6).view(1, *SHAPE).expand(ROWS, -1, -1, -1)
    seen = Measurement(seen.operator, seen.y + 6 * seen.operator(torch.ones_like(x)), seen.noise)
    errors = []
    for t in (0.3, 0.9):
        x_t, time = (1 - t) * x + t * start(), at(t, ROWS)
        errors.append(
            (MMPS(plain, seen, N)(x_t, time, Context()) - plain.knowing(seen)(x_t, time, Context())).abs().max()
        )
    assert errors[0] < 1e-5 < errors[1]


def test_dps_is_exact_to_first_order_in_what_is_uncertain():
    """Its error beside sigma_y^2 is of second order: with ten times the noise, a ten-thousandth of the answer's error."""
    plain, errors = Normals(SCHEDULES["rectified"]()), []
    for noise in (5.0, 50.0):
        seen = Measurement(Identity(), MEAN.view(1, *SHAPE) + 0.5 * start(), noise)
        exact = plain.knowing(seen)(start(), at(0.6, ROWS), Context())
        errors.append((DPS(plain, seen)(start(), at(0.6, ROWS), Context()) - exact).abs().max())
    assert errors[1] < 1.2e-4 * errors[0]


def test_dps_by_hand():
    """t = 0.6 on the straight path, x_t = 1.5: m = 0.3 + gain (1.5 - 0.12), C = 0.9 gain, and x_t alone knows x to 1.5."""
    plain, t = GaussianDenoiser(SCHEDULES["rectified"](), 0.3, 0.6), at(0.6, 1)
    x_t, y = torch.full((1, 1, 2, 2), 1.5).double(), torch.tensor([[2.0, 1.0], [0.0, 4.0]]).double().view(1, 1, 2, 2)
    gain = 0.4 * 0.36 / (0.16 * 0.36 + 0.36)
    m, spread = 0.3 + gain * 1.38, 0.9 * gain
    found = DPS(plain, Measurement(Identity(), y, 0.2), 0.7)(x_t, t, Context())
    assert torch.allclose(found, m + 0.7 * spread * (y - m) / (0.04 + 1.5**2))
    mean = Measurement(Downsample(2), y[..., :1, :1], 0.2)  # A A^T = 1/4
    found = DPS(plain, mean, 0.7)(x_t, t, Context())
    assert torch.allclose(found, m + 0.7 * spread * (y[..., :1, :1] - m) / 4 / (0.04 + 1.5**2 / 4))


@pytest.mark.parametrize("name", OPERATORS)
def test_dps_and_diffpir_are_exact_where_nothing_is_known_beforehand(name):
    flat = Normals(SCHEDULES["rectified"](), covariances=1e8 * torch.eye(N).double()[None])
    seen = measured(name)
    for t in (0.1, 0.5, 0.9):
        for method in (DPS, DiffPIR):
            found = method(flat, seen)(start(), at(t, ROWS), Context())
            assert torch.allclose(found, flat.knowing(seen)(start(), at(t, ROWS), Context()), atol=1e-5)


def test_diffpir_by_hand():
    """sigma_y = 0.2, t = 0.6: the measurement counts 25 and the denoiser lambda (0.4 / 0.6)^2."""
    plain, t = GaussianDenoiser(SCHEDULES["rectified"](), 0.3, 0.6), at(0.6, 1)
    x_t, y = torch.full((1, 1, 1, 1), 0.8).double(), torch.full((1, 1, 1, 1), -1.0).double()
    m, trust = plain(x_t, t, Context()), 3 * (0.4 / 0.6) ** 2
    found = DiffPIR(plain, Measurement(Identity(), y, 0.2), strength=3.0)(x_t, t, Context())
    assert torch.allclose(found, (25 * y + trust * m) / (25 + trust))


def test_replacement_is_exact_where_the_measured_says_nothing_of_the_rest():
    alone = Normals(SCHEDULES["rectified"](), covariances=torch.diag(covariance().diag())[None])
    seen = measured(noise=0.0)
    found = Replacement(alone, seen)(start(), at(0.4, ROWS), Context())
    assert torch.allclose(found, alone.knowing(seen)(start(), at(0.4, ROWS), Context()), atol=1e-5)


def test_resampling_brings_the_rest_to_what_was_measured():
    """On neighbours that say much of each other replacement alone is wrong; going back and forth makes it nearly right."""
    plain, one = Normals(SCHEDULES["rectified"]()), measured(noise=0.0, rows=1)
    n, times, errors = 400, torch.linspace(1, 0, 21).double(), []
    seen, random = Measurement(one.operator, one.y.expand(n, -1, -1, -1), 0.0), Random(3, 0, torch.arange(n))
    mean, spread = plain.knowing(seen).moments()
    fast = Normal(SCHEDULES["rectified"]())
    for repeats in (1, 12):
        sampler = Resampling(DDIM(), repeats=repeats)
        x = sampler(Replacement(fast, seen), random.normal("x", SHAPE).double(), times, Context(), random).flatten(1)
        errors.append(((x.mean(0) - mean).square().sum() / spread.trace()).sqrt())
    assert errors[1] < 0.25 < 0.5 < errors[0]


# What is measured exactly is met


@pytest.mark.parametrize("name", ["mask", "downsample"])
@pytest.mark.parametrize("word", WORDS)
def test_without_noise_the_samples_have_what_was_measured(word, name):
    means = torch.stack([MEAN, 1 - MEAN])
    plain = Normals(
        SCHEDULES["rectified"](), means, 0.3 * covariance().expand(2, -1, -1), torch.tensor([0.4, 0.6]).double()
    )
    seen = measured(name, noise=0.0)
    times, random = torch.linspace(1, 0, 31).double(), Random(0, 0, torch.arange(ROWS))
    x = DDIM()(WORDS[word]()(plain, seen), start(), times, Context(), random)
    off = (seen.operator(x) - seen.y).abs().max()
    assert off < 0.02, off
    assert (seen.operator(DDIM()(plain, start(), times, Context(), random)) - seen.y).abs().max() > 0.4


# Laws of every one


def noise_of(word):
    return 0.0 if word == "replacement" else 0.3


def batch(rows=4):
    x = torch.randn(rows, 2, 4, 4)
    mask = (torch.rand(rows, 1, 4, 4) < 0.5).float()
    return x, torch.full((rows,), 0.5), conditioned(rows), mask * torch.randn(rows, 2, 4, 4), mask


@pytest.mark.parametrize("schedule", ["cosine", "rectified", "exploding"])
@pytest.mark.parametrize("word", WORDS)
def test_infinite_noise_and_the_neutral_setting_are_the_identity(word, schedule):
    x, _, c, y, mask = batch()
    for t in (0.01, 0.5, 1.0):
        plain, time = Sees(schedule=schedule), torch.full((4,), t)
        silent = WORDS[word]()(plain, Measurement(Mask(mask), y, math.inf))
        assert torch.equal(silent(x, time, c), plain(x, time, c)) and silent.within(1.0, 0.5) is silent
        if silent.neutral:
            measurement = Measurement(Mask(mask), y, noise_of(word))
            neutral = WORDS[word]()(plain, measurement, **silent.neutral)
            assert torch.equal(neutral(x, time, c), plain(x, time, c))


@pytest.mark.parametrize("word", WORDS)
def test_rows_do_not_know_each_other(word):
    x, t, c, y, mask = batch()
    whole, part = (
        WORDS[word]()(Sees(), Measurement(Mask(mask[rows]), y[rows], noise_of(word)))(x[rows], t[rows], c[rows])
        for rows in (slice(None), slice(1, 3))
    )
    assert torch.equal(whole[1:3], part) and not torch.allclose(whole, Sees()(x, t, c))


@pytest.mark.parametrize("word", WORDS)
def test_it_stands_around_guidance_and_keeps_what_guidance_knows_of_a_step(word):
    """Guidance in an interval costs two rows inside and one outside, under a posterior as without one."""
    x, _, c, y, mask = batch()
    plain, times, random = Sees(shift=0.1), torch.linspace(1, 0, 21), Random(0, 0, torch.arange(4))
    guided = Interval(plain, functools.partial(ClassifierFree, scale=1.5), 0.45, 3.0)
    rows, found = [], []
    for noise in (noise_of(word), math.inf):
        plain.rows = 0
        known = WORDS[word]()(guided, Measurement(Mask(mask), y, noise))
        found.append(DDIM()(known, x, times, c, random))
        rows.append(plain.rows)
    plain.rows = 0
    assert torch.equal(found[1], DDIM()(guided, x, times, c, random))
    assert rows == [plain.rows] * 2 and plain.rows < 4 * 2 * 20
    assert not torch.allclose(found[0], found[1])


@pytest.mark.parametrize("word", WORDS)
def test_it_is_finite_from_pure_noise_to_hardly_any(word):
    x, _, c, y, mask = batch()
    for schedule in SCHEDULES:
        known = WORDS[word]()(Sees(schedule=schedule), Measurement(Mask(mask), y, 0.0))
        for t in (1.0, 1 - 1e-4, 1e-4):
            assert known(x, torch.full((4,), t), c).isfinite().all()


@pytest.mark.parametrize("schedule", ["rectified", "cosine", "exploding"])
def test_the_covariance_is_tweedies_and_at_pure_noise_that_of_the_data(schedule):
    plain = Normals(SCHEDULES[schedule]())
    v = torch.randn(2, *SHAPE, dtype=torch.float64)
    t = torch.cat([plain.schedule.time(torch.zeros(1).double()), torch.ones(1).double()])
    x_t = along(length(plain.schedule, t), v) * start(2)
    x, product = tweedie(plain, x_t, t, Context())
    (alpha, _), (sigma, _) = plain.schedule.alpha_sigma(t)
    exact = torch.linalg.inv(torch.linalg.inv(covariance()) + (alpha / sigma) ** 2 * torch.eye(N))
    assert torch.allclose(product(v)[0].flatten(), exact @ v[0].flatten())
    assert torch.allclose(x[0], plain(x_t, t, Context())[0])
    assert torch.allclose(product(v)[1].flatten(), covariance() @ v[1].flatten(), atol=20 / NOISIEST**2)
    # What is asked at another level than x_t's answers by a NOISIEST-th of the noise otherwise.
    assert (x[1] - plain(x_t, t, Context())[1]).abs().max() < 3 / NOISIEST


def test_replacement_says_what_it_cannot():
    x = torch.zeros(1, 1, 2, 2)
    with pytest.raises(ValueError, match=r"its noise is 0.1: say noise=0, or take diffusion/posterior=mmps"):
        Replacement(Sees(), Measurement(Identity(), x, 0.1))
    with pytest.raises(ValueError, match="pseudo-inverse of the measurement, which one through a decoder has not"):
        Replacement(Sees(), Measurement(Composed(Identity(), torch.tanh), x, 0.0))
