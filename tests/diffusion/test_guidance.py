"""Laws of every guidance in conf/diffusion/guidance, and what is said of single ones."""

import functools
import inspect
import math

import pytest
import torch

from ldm.diffusion.denoiser import Denoiser
from ldm.diffusion.guidance.autoguidance import Autoguidance
from ldm.diffusion.guidance.classifier_free import ClassifierFree
from ldm.diffusion.guidance.interval import Interval
from ldm.diffusion.guidance.projected import Projected
from ldm.diffusion.guidance.rescaled import Rescaled
from ldm.diffusion.sampler.ddim import DDIM
from ldm.random import Random
from ldm.types import Context
from tests.pieces import pieces

SCHEDULES, GUIDANCE = pieces("diffusion/schedule"), pieces("diffusion/guidance")


class Sees(Denoiser):
    """A denoiser whose answer is x_t times its token, channel by channel, plus `shift`; it counts calls and rows."""

    def __init__(self, shift=0.0, schedule="cosine"):
        super().__init__()
        self.schedule, self.shift, self.calls, self.rows = SCHEDULES[schedule](), shift, 0, 0

    def forward(self, x_t, t, c):
        self.calls, self.rows = self.calls + 1, self.rows + len(x_t)
        return c.tokens.mean(1)[..., None, None] * x_t + self.shift


def conditioned(n=3):
    empty = Context(tokens=torch.tensor([[[-1.0, 0.0]]]))
    return Context(tokens=torch.full((n, 1, 2), 2.0), empty=empty)


def batch(n=3, t=0.5):
    torch.manual_seed(0)
    return torch.randn(n, 2, 3, 3), torch.full((n,), t), conditioned(n)


def others(kind):
    """What a run has to give beside the denoiser: other denoisers."""
    needed = [name for name, p in inspect.signature(kind).parameters.items() if p.default is p.empty]
    return {name: Sees(shift=0.3) for name in needed if name not in ("denoiser", "guidance")}


@pytest.mark.parametrize("schedule", ["cosine", "rectified", "exploding"])
@pytest.mark.parametrize("name", GUIDANCE)
def test_the_neutral_setting_is_the_identity(name, schedule):
    piece = GUIDANCE[name]()
    for t in (0.01, 0.5, 1.0):
        x, time, c = batch(t=t)
        plain = Sees(schedule=schedule)
        guided = piece(plain, **others(piece.func), **piece.func.neutral)
        assert torch.equal(guided(x, time, c), guided.around(x, time, c))


@pytest.mark.parametrize("name", GUIDANCE)
def test_around_a_neutral_guidance_nothing_changes(name):
    piece, plain, (x, t, c) = GUIDANCE[name](), Sees(), batch()
    inner = {"guidance": ClassifierFree} if "guidance" in piece.keywords else piece.func.neutral
    assert torch.equal(piece(plain, **others(piece.func), **inner)(x, t, c), plain(x, t, c))


@pytest.mark.parametrize("name", GUIDANCE)
def test_the_default_does_something_and_keeps_the_plain_answer(name):
    piece, plain, (x, t, c) = GUIDANCE[name](), Sees(), batch()
    guided, kept = piece(plain, **others(piece.func)).pair(x, t, c)
    assert torch.equal(kept, plain(x, t, c)) and not torch.allclose(guided, kept)


@pytest.mark.parametrize("name", GUIDANCE)
def test_rows_do_not_know_each_other(name):
    piece, (x, t, c) = GUIDANCE[name](), batch(4)
    guided = piece(Sees(), **others(piece.func))
    whole = guided(x, t, c)
    assert torch.equal(whole[1:3], guided(x[1:3], t[1:3], c[1:3]))


def test_guidance_is_linear_and_one_call():
    plain, (x, t, c) = Sees(), batch()
    for scale, wanted in ((0.0, (-1.0, 0.0)), (1.0, (2.0, 2.0)), (3.0, (8.0, 6.0))):
        plain.calls = 0
        assert torch.allclose(ClassifierFree(plain, scale)(x, t, c), torch.tensor(wanted).view(2, 1, 1) * x)
        assert plain.calls == 1


def test_autoguidance_moves_away_from_its_guide():
    x, t, c = batch()
    assert torch.allclose(Autoguidance(Sees(), Sees(shift=0.5), 3.0)(x, t, c), 2 * x - 2 * 0.5)


def test_rescaled_gives_back_the_deviation():
    plain, (x, t, c) = Sees(), batch()
    guidance = functools.partial(ClassifierFree, scale=4.0)
    found = Rescaled(plain, guidance, 1.0)(x, t, c)
    assert torch.allclose(found.flatten(1).std(1), plain(x, t, c).flatten(1).std(1))
    half = Rescaled(plain, guidance, 0.5)(x, t, c)
    assert torch.allclose(half, (found + guidance(plain)(x, t, c)) / 2, atol=1e-5)
    assert Rescaled(plain, guidance)(0 * x, t, c).isfinite().all()


def test_projected_is_the_papers_algorithm():
    """Against the paper's algorithm 1 as written there, its threshold for u / (scale - 1)."""
    x, t, c = batch()
    good, worse, scale, eta, norm = Sees(), Sees(shift=0.5), 3.0, 0.25, 0.7
    plain, weak = good(x, t, c).double(), worse(x, t, c).double()
    diff = plain - weak
    diff = diff * (norm / diff.flatten(1).norm(dim=1)).clamp(max=1).view(-1, 1, 1, 1)
    along = torch.nn.functional.normalize(plain.flatten(1), dim=1).view_as(plain)
    parallel = (diff * along).sum((1, 2, 3), keepdim=True) * along
    wanted = plain + (scale - 1) * (diff - parallel + eta * parallel)
    guidance = functools.partial(Autoguidance, guide=worse, scale=scale)
    found = Projected(good, guidance, eta, norm * (scale - 1))(x, t, c)
    assert torch.allclose(found.double(), wanted, atol=1e-5)
    assert Projected(good, guidance)(0 * x, t, c).isfinite().all()


def test_the_interval_is_one_of_noise():
    schedule = SCHEDULES["rectified"]()
    plain, guidance = Sees(schedule="rectified"), functools.partial(ClassifierFree, scale=3.0)
    guided = Interval(plain, guidance, 0.5, 2.0)
    t = schedule.time(-2 * torch.tensor([0.1, 0.49, 0.51, 1.0, 1.99, 2.01, 50.0]).log())
    x, _, c = batch(7)
    wanted = torch.tensor([2.0, 2, 8, 8, 8, 2, 2]).view(-1, 1, 1) * x[:, 0]
    assert torch.allclose(guided(x, t, c)[:, 0], wanted)
    assert torch.allclose(Interval(plain, guidance, 0.0, math.inf)(x, t, c)[:, 0], 8 * x[:, 0])


@pytest.mark.parametrize("name", SCHEDULES)
def test_outside_its_interval_guidance_costs_nothing(name):
    """Two rows an image inside, one outside; and the samples are those of deciding by row everywhere."""
    plain, (x, _, c) = Sees(shift=0.1, schedule=name), batch()
    guided = Interval(plain, functools.partial(ClassifierFree, scale=1.5), 0.45, 3.0)
    times, random = torch.linspace(1, 0, 21), Random(0, 0, torch.arange(3))
    r = torch.exp(-plain.schedule.log_snr(times) / 2)
    inside = (r >= 0.45) & (r <= 3)
    # A step that crosses a border asks for both, though one of them would do.
    cost = 1 + (inside[:-1] | inside[1:]).long()
    plain.rows = 0
    found = DDIM()(guided, x, times, c, random)
    assert plain.rows == 3 * cost.sum() < 3 * 2 * 20

    class ByRow(Denoiser):
        def __init__(self):
            super().__init__()
            self.schedule, self.guided = plain.schedule, guided

        def forward(self, x_t, t, c):
            return self.guided(x_t, t, c)

    assert torch.equal(found, DDIM()(ByRow(), x, times, c, random))


def test_an_interval_waits_for_no_device():
    class Blind(Sees):
        def forward(self, x_t, t, c):
            return x_t + c.tokens.mean()

    guided = Interval(Blind(), functools.partial(ClassifierFree, scale=2.0), 0.4, 3.0).to("meta")
    c = Context(tokens=torch.zeros(3, 1, 2, device="meta"), empty=Context(tokens=torch.zeros(1, 1, 2, device="meta")))
    x, rows = torch.zeros(3, 2, 3, 3, device="meta"), torch.arange(3, device="meta")
    assert DDIM()(guided, x, torch.linspace(1, 0, 6), c, Random(0, 0, rows)).shape == x.shape
