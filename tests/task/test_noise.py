"""Noise, arcs, edits and draws on data of which everything is known: N(m, s^2), for which the ODE is (z - m) / s = u."""

import PIL.Image
import pytest
import torch

from ldm.data.inputs import Inputs
from ldm.diffusion.sampler.ddim import DDIM
from ldm.metric.path_length import slerp
from ldm.prior.base import Invertible
from ldm.random import Random
from ldm.task.base import Found
from ldm.task.edit import Edit
from ldm.task.interpolate import Interpolate, Line
from ldm.task.tools.inversion import Inversion
from ldm.task.tools.partway import cleaned
from ldm.task.tools.rows import Rows
from ldm.task.uncertainty import Uncertainty, rank_correlation
from ldm.types import Context
from tests.task.toy import MEAN, SHAPE, STD, built, gaussian, images

pytestmark = pytest.mark.usefixtures("unchecked")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return gaussian(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def flow(tmp_path_factory):
    return built(tmp_path_factory.mktemp("flow"), "prior=realnvp")


def answer(task, model, x):
    rows = Rows(task, model, Inputs(x, SHAPE), seed=2)
    return next(rows.answers(range(len(rows)), 1000))[1]


def test_a_diffusions_noise_is_the_odes(model):
    """(z - m) / s, with an error that halves as steps double, both ways."""
    z, c = images(16), Context()
    errors, backs = [], []
    for steps in (50, 100):
        inversion = Inversion(steps)
        errors.append((inversion.to_noise(model, z, c) - (z - MEAN) / STD).square().mean().sqrt())
        backs.append((inversion.from_noise(model, (z - MEAN) / STD, c) - z).square().mean().sqrt())
    for first, second in (errors, backs):
        assert second < 0.1 and 1.6 < first / second < 2.4


def test_a_bijections_noise_is_its_own(flow):
    z = images(2)
    u = Inversion().to_noise(flow, z, Context())
    assert isinstance(flow.prior, Invertible) and torch.equal(u, flow.prior.to_noise(z, Context()))
    torch.testing.assert_close(Inversion().from_noise(flow, u, Context()), z, atol=1e-4, rtol=1e-4)


def test_what_adds_noise_cannot_go_back():
    with pytest.raises(ValueError, match="DDIM adds noise and cannot go back"):
        Inversion(sampler=DDIM(eta=1))


def test_the_middle_of_an_arc_and_of_a_line(model):
    x = images(3)
    arc, line = (answer(Interpolate(route, frames=3), model, x) for route in (None, Line()))
    u, half = (x - MEAN) / STD, torch.full((2,), 0.5)
    torch.testing.assert_close(arc.pictures["0.50"], MEAN + STD * slerp(u[:-1], u[1:], half), atol=0.08, rtol=0)
    torch.testing.assert_close(line.pictures["0.50"], (x[:-1] + x[1:]) / 2)
    torch.testing.assert_close(line.pictures["0.00"], x[:-1])
    torch.testing.assert_close(line.numbers["detour"], torch.ones(2, dtype=torch.float64), atol=1e-4, rtol=0)
    assert (arc.numbers["detour"] > 1.02).all() and (arc.numbers["round_trip"] < 0.02).all()
    assert not line.numbers["round_trip"].any()
    short, long = (each.pictures["0.50"].std() for each in (line, arc))
    assert short < 0.8 * long, "a straight line is too short in the middle"


def test_the_middles_distance_to_the_nearest_real_image(flow, tmp_path):
    """Of two grey images 0.2 apart, both 0.1 from the middle, and a real one 0.3 above it."""
    PIL.Image.new("RGB", (8, 8), (166,) * 3).save(tmp_path / "real.png")
    x = torch.tensor([-0.1, 0.1]).view(2, 1, 1, 1).expand(2, *SHAPE)
    found = answer(Interpolate(Line(), frames=3, real=tmp_path), flow, x).numbers
    wanted = torch.tensor([166 / 127.5 - 1])
    for name in ("to_real", "crossfade_to_real"):
        torch.testing.assert_close(found[name].float(), wanted, atol=1e-5, rtol=0)


def test_a_walk_is_an_animation(flow, tmp_path):
    shown = {
        name: torch.full((3, 8, 8), value, dtype=torch.uint8)
        for name, value in zip("abcd", (0, 80, 160, 240), strict=True)
    }
    [file] = Interpolate().write(flow, Found(["x", "y"], 2, {}, {}, lambda row: shown), tmp_path)
    with PIL.Image.open(file) as animation:
        assert animation.n_frames == 4 and animation.size == (128, 128)
        animation.seek(3)
        assert animation.convert("RGB").getpixel((5, 5)) == (160, 160, 160)


@pytest.mark.parametrize("strength", [0.3, 0.7])
def test_an_edit_follows_the_ode_from_the_noise_drawn(model, strength):
    x = images(8)
    found = answer(Edit(strength), model, x)
    x_t = (1 - strength) * x + strength * Random(2, 0, torch.arange(8)).normal("partway", SHAPE)
    spread = (((1 - strength) * STD) ** 2 + strength**2) ** 0.5
    wanted = MEAN + STD / spread * (x_t - (1 - strength) * MEAN)
    torch.testing.assert_close(found.pictures["edited"], wanted.clamp(-1, 1), atol=0.06, rtol=0)
    changed = (found.pictures["edited"] - x).square().flatten(1).mean(1).sqrt()
    torch.testing.assert_close(found.numbers["changed"], changed)
    assert "round_trip" not in found.numbers


def test_an_edit_from_found_noise_gives_the_image_where_nothing_else_is_asked_for(model):
    x = images(8)
    coarse, fine = (answer(Edit(0.8, Inversion(steps)), model, x).numbers for steps in (20, 80))
    assert fine["round_trip"].mean() < 0.015 and fine["changed"].mean() < 0.03
    assert coarse["round_trip"].mean() > 2.5 * fine["round_trip"].mean()


def test_a_source_is_of_inversion(model):
    with pytest.raises(ValueError, match="take task=edit_inversion"):
        Edit(source="a star")
    with pytest.raises(ValueError, match="task.source= is given, but this model has no condition"):
        Rows(Edit(0.5, Inversion(), "a star"), model, Inputs(images(1), SHAPE))


def test_sampling_from_partway_takes_the_grids_times_below(model):
    seen = []

    class Seen(DDIM):
        def __call__(self, denoiser, x_t, times, c, random):
            seen.append(times)
            return super().__call__(denoiser, x_t, times, c, random)

    cleaned(model.prior, images(1), 0.55, Context(), Random(0, 0, torch.arange(1)), Seen(), steps=10)
    torch.testing.assert_close(seen[0], torch.tensor([0.55, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0]), atol=1e-3, rtol=0)


def test_a_right_model_is_calibrated(model):
    """E (x - m)^2 = (1 + 1/k) E s^2, to the error of 48 images of 192 numbers; a model too sure of itself is above 1."""
    x = images(48)
    found = answer(Uncertainty(0.3, draws=6, steps=400), model, x).numbers["calibration"]
    assert abs(float(found.mean()) - 1) < 0.1
    model.prior.denoiser.std = STD / 2
    try:
        assert answer(Uncertainty(0.3, draws=6, steps=400), model, x).numbers["calibration"].mean() > 1.5
    finally:
        model.prior.denoiser.std = STD


def test_draws_of_one_are_refused():
    with pytest.raises(ValueError, match="DDIM adds no noise, so all draws were one"):
        Uncertainty(sampler=DDIM())


def test_rank_correlation_is_scipys():
    from scipy.stats import spearmanr

    x, y = torch.randn(2, 40), torch.randn(2, 40)
    y[0] += x[0]
    wanted = torch.tensor([spearmanr(a, b).statistic for a, b in zip(x, y, strict=True)])
    torch.testing.assert_close(rank_correlation(x, y), wanted, check_dtype=False)
    assert rank_correlation(x, torch.zeros(2, 40)).isnan().all()
