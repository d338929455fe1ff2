"""Samplers: the laws of tests/diffusion/laws.py, what is said of single ones, and that a newcomer needs one file and one yaml."""

import shutil

import pytest
import torch

import ldm.diffusion.sampler
import tests.pieces
from ldm.diffusion.sampler.adaptive import Adaptive
from ldm.diffusion.sampler.base import Sampler
from ldm.diffusion.sampler.ddim import DDIM
from ldm.diffusion.sampler.ddpm import DDPM
from ldm.diffusion.sampler.dpmpp import DPMpp
from ldm.diffusion.sampler.euler import Euler
from ldm.diffusion.sampler.heun import Heun
from ldm.diffusion.sampler.langevin import Langevin
from ldm.diffusion.sampler.predictor_corrector import PredictorCorrector
from ldm.diffusion.sampler.unipc import UniPC
from ldm.random import Random
from ldm.types import Context
from tests.diffusion import laws
from tests.diffusion.gaussian import GaussianDenoiser
from tests.diffusion.mixture import MixtureDenoiser
from tests.pieces import CONF, pieces

SCHEDULES, SAMPLERS = pieces("diffusion/schedule"), pieces("diffusion/sampler")
SETTINGS = {
    "ddpm large": lambda: DDPM(large=True),
    "ddim eta 0.5": lambda: DDIM(0.5),
    "heun churned": lambda: Heun(5.0),
    "heun churned between": lambda: Heun(5.0, 0.1, 10.0),
    "dpmpp 3m": lambda: DPMpp(points=3),
    "2m corrected": lambda: PredictorCorrector(DPMpp(), Langevin(0.16)),
}
SOME = {name: SCHEDULES[name] for name in ("rectified", "scaled_linear")}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("sampler", "schedule", "law"), laws.cases(SAMPLERS, SCHEDULES))
def test_law(sampler, schedule, law):
    getattr(laws, law)(SAMPLERS[sampler](), SCHEDULES[schedule]())


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("sampler", "schedule", "law"), laws.cases(SETTINGS, SOME))
def test_law_with_other_settings(sampler, schedule, law):
    getattr(laws, law)(SETTINGS[sampler](), SCHEDULES[schedule]())


@pytest.mark.parametrize("name", SAMPLERS)
def test_with_shapes_checked(name):
    assert (
        sampled(SAMPLERS[name](), SCHEDULES["scaled_linear"](), laws.times_between(1, 0, 5), dtype=torch.float32)
        .isfinite()
        .all()
    )


TOY = '''
from ldm.diffusion.denoiser import along
from ldm.diffusion.sampler.base import Sampler


class Toy(Sampler):
    """x_s = alpha_s x + {wrong} sigma_s eps."""

    order = {order}

    def step(self, denoiser, x_t, t, s, c, noise, memory):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = denoiser.schedule.alpha_sigma(t), denoiser.schedule.alpha_sigma(s)
        x = denoiser(x_t, t, c)
        eps = (x_t - along(alpha_t, x) * x) / along(sigma_t, x)
        return along(alpha_s, x) * x + {wrong} * along(sigma_s, x) * eps, None
'''


def _newcomer(name, order, wrong, folder, monkeypatch):
    """One file beside the samplers, one yaml beside theirs."""
    shutil.copytree(CONF / "diffusion", folder / "conf" / "diffusion", dirs_exist_ok=True)
    (folder / f"{name}.py").write_text(TOY.format(order=order, wrong=wrong))
    yaml = folder / "conf" / "diffusion" / "sampler" / f"{name}.yaml"
    yaml.write_text(f"_target_: ldm.diffusion.sampler.{name}.Toy\n")
    monkeypatch.setattr(ldm.diffusion.sampler, "__path__", [*ldm.diffusion.sampler.__path__, str(folder)])
    monkeypatch.setattr(tests.pieces, "CONF", folder / "conf")
    samplers = pieces("diffusion/sampler")
    return samplers, [case for case in laws.cases(samplers, SOME) if case[0] == name]


def test_a_newcomer_is_judged_for_one_file_and_one_yaml(tmp_path, monkeypatch):
    samplers, cases = _newcomer("toy_of_a_test", 1, 1.0, tmp_path, monkeypatch)
    assert {law for _, _, law in cases} == {"converges", "arrives", "keeps_up", "is_a_function", "inverts"}
    for name, schedule, law in cases:
        getattr(laws, law)(samplers[name](), SCHEDULES[schedule]())


@pytest.mark.parametrize(("order", "wrong"), [(2, 1.0), (1, 0.99)])
def test_a_newcomer_that_claims_too_much_is_caught(order, wrong, tmp_path, monkeypatch):
    samplers, _ = _newcomer(f"toy_{order}_{wrong == 1}", order, wrong, tmp_path, monkeypatch)
    sampler = samplers[f"toy_{order}_{wrong == 1}"]()
    with pytest.raises(AssertionError):
        laws.converges(sampler, SCHEDULES["cosine"]())


def sampled(sampler, schedule, times, n=16, dtype=torch.float64):
    random = Random(0, 0, torch.arange(n))
    x = random.normal("start", (1, 2, 2)).to(dtype)
    return sampler(GaussianDenoiser(schedule, 0.3, 0.6), x, times.to(dtype), Context(), random)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_one_rule_with_several_names(schedule):
    schedule, times = SCHEDULES[schedule](), laws.times_between(0.95, 0, 12)
    ancestral = sampled(DDPM(), schedule, times)
    assert torch.allclose(ancestral, sampled(DDIM(1.0), schedule, times), atol=1e-7)
    one_point = laws.times_between(0.95, 0.5, 1)  # a first step has no past
    assert torch.allclose(
        sampled(DPMpp(sde=True), schedule, one_point), sampled(DDPM(), schedule, one_point), atol=1e-7
    )
    assert torch.allclose(sampled(DPMpp(), schedule, one_point), sampled(DDIM(), schedule, one_point), atol=1e-7)


def test_euler_is_ddim_on_straight_paths_and_nowhere_else():
    times = laws.times_between(1, 0, 12)
    for name, straight in (("rectified", True), ("shifted", False), ("cosine", False)):
        pair = [sampled(sampler, SCHEDULES[name](), times) for sampler in (Euler(), DDIM())]
        assert torch.allclose(*pair, atol=1e-9) == straight


DETERMINISTIC = [name for name in SAMPLERS if not SAMPLERS[name]().stochastic]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_the_ode_of_a_mixture(name):
    """Not affine and with curvature; the solution is the adaptive solver's at a tolerance out of the others' reach."""
    denoiser, random = MixtureDenoiser(SCHEDULES["cosine"]()), Random(1, 0, torch.arange(32))
    sampler, x = SAMPLERS[name](), random.normal("x", (2, 1, 1)).double()
    exact = Adaptive(1e-10)(denoiser, x, laws.times_between(0.99, 0.1, 1), Context(), random)
    coarse, fine = (
        (sampler(denoiser, x, laws.times_between(0.99, 0.1, steps), Context(), random) - exact).abs().mean().item()
        for steps in (40, 80)
    )
    assert fine < max(coarse / (0.7 * 2**sampler.order), sampler.floor)


def test_adaptive_counts_evaluations_and_keeps_its_tolerance():
    schedule, x = SCHEDULES["rectified"](), Random(2, 0, torch.arange(5)).normal("x", (2, 1, 1)).double()
    denoiser, t = MixtureDenoiser(schedule), torch.ones(5, dtype=torch.float64)
    found = []
    for tolerance in (1e-3, 1e-6, 1e-10):
        sampler = Adaptive(tolerance)
        found.append(sampler.step(denoiser, x, t, 0.01 * t, Context(), lambda: x, None))
    exact, counts = found[-1][0], [progress.evaluations for _, progress in found]
    # The tolerance is of a single step; the way is some tens of them.
    assert ((found[0][0] - exact).abs() < 3e-2).all() and ((found[1][0] - exact).abs() < 3e-5).all()
    assert (counts[0] < counts[1]).all() and (counts[1] < counts[2]).all() and (counts[0] % 6 == 1).all()


def test_several_draws_of_a_step_are_different_numbers():
    drawn = []

    class Twice(DDIM):
        def step(self, denoiser, x_t, t, s, c, noise, memory):
            drawn.extend([noise(), noise()])
            return x_t, None

    sampled(Twice(), SCHEDULES["cosine"](), laws.times_between(1, 0.5, 2))
    assert len({tuple(z.flatten().tolist()) for z in drawn}) == 4


def test_what_adds_noise_does_not_invert():
    with pytest.raises(ValueError, match="adds noise"):
        sampled(DDPM(), SCHEDULES["cosine"](), laws.times_between(0, 0.5, 2))


def test_no_device_is_waited_for():
    """On the 'meta' device nothing has a value, so a look at one is an error; adaptive says in its docstring that it looks."""

    class Blind(GaussianDenoiser):
        def forward(self, x_t, t, c):
            return x_t

    times, rows = laws.times_between(1, 0, 4).float(), torch.arange(3, device="meta")
    for name in SAMPLERS:
        schedule = SCHEDULES["cosine"]().to("meta")
        x = torch.zeros(3, 1, 2, 2, device="meta")
        if isinstance(SAMPLERS[name](), Adaptive):
            continue
        assert SAMPLERS[name]()(Blind(schedule, 0.0, 1.0), x, times, Context(), Random(0, 0, rows)).shape == x.shape


def test_unipc_corrects_what_2m_predicts():
    """The same evaluations, a tenth of the error."""
    schedule, times = SCHEDULES["cosine"](), laws.times_between(0.9, 0.1, 60)
    assert laws.error(UniPC(), schedule, times) < 0.2 * laws.error(DPMpp(), schedule, times)


class Kept(Sampler):
    """Keeps what it is asked: times and memory; its memory counts."""

    order = 1

    def __init__(self):
        self.asked = []

    def step(self, denoiser, x_t, t, s, c, noise, memory):
        self.asked.append((t[0].item(), s[0].item(), memory))
        return x_t + 1, (memory or 0) + 1


def test_the_ends_are_not_the_samplers():
    """To the data by E[x | x_t], from it by alpha x; `step` sees what is between, and gives its memory to itself."""
    schedule, x = SCHEDULES["cosine"](), torch.full((2, 1, 1, 1), 0.4).double()
    denoiser, sampler = GaussianDenoiser(schedule, 0.3, 0.6), Kept()
    found = sampler(denoiser, x, torch.tensor([0.75, 0.5, 0.25, 0]).double(), Context(), Random(0, 0, torch.arange(2)))
    assert sampler.asked == [(0.75, 0.5, None), (0.5, 0.25, 1)]
    assert torch.equal(found, denoiser(x + 2, torch.full((2,), 0.25).double(), Context()))
    found = sampler(denoiser, x, torch.tensor([0, 0.25]).double(), Context(), Random(0, 0, torch.arange(2)))
    assert torch.allclose(found, schedule.alpha_sigma(torch.tensor([0.25]).double())[0] * x) and len(sampler.asked) == 2


def test_each_step_asks_what_answers_within_its_own_times():
    asked = []

    class Noted(GaussianDenoiser):
        def within(self, t, s):
            asked.append((t, s))
            return self

    x, times = torch.ones(2, 1, 1, 1).double(), torch.tensor([0.75, 0.5, 0.25, 0]).double()
    Kept()(Noted(SCHEDULES["cosine"](), 0.3, 0.6), x, times, Context(), Random(0, 0, torch.arange(2)))
    assert asked == [(0.75, 0.5), (0.5, 0.25), (0.25, 0)]


def test_a_corrector_stays_at_the_predictors_end_and_both_remember():
    predictor, corrector = Kept(), Kept()
    sampled(PredictorCorrector(predictor, corrector), SCHEDULES["rectified"](), torch.tensor([0.75, 0.5, 0.25, 0]))
    assert predictor.asked == [(0.75, 0.5, None), (0.5, 0.25, 1)]
    assert corrector.asked == [(0.5, 0.5, None), (0.25, 0.25, 1)]


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_a_step_of_ddim_by_hand(eta):
    """On the straight path from t = 0.75 to 0.5, x_t = 2 and E[x | x_t] = 3: exp(-h) = 1/3."""
    schedule, t = SCHEDULES["rectified"](), torch.tensor([0.75]).double()
    x, one = torch.full((1, 1, 1, 1), 2.0).double(), torch.ones(1, 1, 1, 1).double()
    said = GaussianDenoiser(schedule, 3.0, 1e-9)
    up = eta * 0.5 * (1 - 1 / 9) ** 0.5
    eps = (2 - 0.25 * 3) / 0.75
    found, _ = DDIM(eta).step(said, x, t, t - 0.25, Context(), lambda: 0.7 * one, None)
    assert found.item() == pytest.approx(0.5 * 3 + (0.25 - up**2) ** 0.5 * eps + 0.7 * up)


def test_unipc_corrects_its_first_step_by_the_trapezoid():
    """x_s = keep x_t + (alpha_s - alpha_t sigma_s / sigma_t) (D_t + D_s) / 2, with D_s at what was predicted."""
    schedule, x = SCHEDULES["rectified"](), torch.full((1, 1, 1, 1), 2.0).double()
    t, s, r = (torch.tensor([each]).double() for each in (0.75, 0.5, 0.25))
    denoiser, sampler = GaussianDenoiser(schedule, 0.3, 0.6), UniPC()
    predicted, memory = sampler.step(denoiser, x, t, s, Context(), lambda: x, None)
    _, (_, corrected, *_) = sampler.step(denoiser, predicted, s, r, Context(), lambda: x, memory)
    ends = denoiser(x, t, Context()), denoiser(predicted, s, Context())
    assert predicted.item() == pytest.approx((2 / 3 * x + 1 / 3 * ends[0]).item())
    assert corrected.item() == pytest.approx((2 / 3 * x + 1 / 3 * (ends[0] + ends[1]) / 2).item())


def test_adaptive_counts_all_its_steps():
    schedule, x = SCHEDULES["rectified"](), Random(2, 0, torch.arange(5)).normal("x", (2, 1, 1)).double()
    denoiser, t, sampler = MixtureDenoiser(schedule), torch.ones(5, dtype=torch.float64), Adaptive(1e-3)
    half, first = sampler.step(denoiser, x, t, 0.5 * t, Context(), lambda: x, None)
    _, both = sampler.step(denoiser, half, 0.5 * t, 0.1 * t, Context(), lambda: x, first)
    assert (both.evaluations >= first.evaluations + 7).all()  # a step of the pair is six, and one to begin with


def test_adaptive_goes_on_with_the_step_that_it_came_to():
    schedule, x = SCHEDULES["rectified"](), Random(2, 0, torch.arange(5)).normal("x", (2, 1, 1)).double()
    denoiser, t, sampler, tried = MixtureDenoiser(schedule), torch.ones(5).double(), Adaptive(1e-3), []
    solver = sampler.solver

    def noted(f, y, start, end, first):
        tried.append(first)
        return solver(f, y, start, end, first)

    sampler.solver = noted
    half, memory = sampler.step(denoiser, x, t, 0.5 * t, Context(), lambda: x, None)
    sampler.step(denoiser, half, 0.5 * t, 0.1 * t, Context(), lambda: x, memory)
    assert tried[0] is None and tried[1] is memory.step
