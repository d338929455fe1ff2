"""The laws of one number after the other: they are the prior's own probability taken apart, and masses of cells."""

import math

import pytest
import torch
from scipy import stats

from ldm.prior.base import Latents
from ldm.prior.normal import Normal
from ldm.prior.stepwise import Grid, Stepwise, log_masses, mixture_laws
from ldm.random import Random
from ldm.task.base import having
from ldm.types import Context, ContextShape
from tests.prior.test_laws import made

DISCRETE = [
    ("categorical", "vq_f4_small", "label"),
    ("pixelcnn", "vq_f4_small", "label"),
    ("transformer", "vq_f4_small", "label"),
    ("transformer", "identity", "none"),
    ("pixelcnn", "identity prior/head=categorical", "label"),
]
CONTINUOUS = [
    ("normal", "kl_f4_small", "none"),
    ("mixture", "kl_f4_small", "label"),
    ("mixture", "kl_f4_small +prior.over=position", "label"),
    ("pixelcnn", "kl_f4_small", "label"),
]


def bits(laws, places, things) -> float:
    """-log2 of what stands at the places; each law is of so many things and sums to one."""
    total, law = 0.0, next(laws)
    for i, place in enumerate(places):
        assert law.shape == (things,) and float(law.sum()) == pytest.approx(1, abs=1e-5)
        total -= math.log2(float(law[place]))
        law = laws.send(place) if i < len(places) - 1 else law
    with pytest.raises(StopIteration):
        laws.send(places[-1])
    return total


def asked(model):
    """A latent, codes or an image, and its context, of one example."""
    torch.manual_seed(1)
    image = (torch.rand(1, *model.autoencoder.image_shape) * 255).round() / 127.5 - 1
    batch = {"image": image, "index": torch.zeros(1, dtype=torch.long), "label": torch.tensor([2])}
    return model.latent(batch, Random(0, 0, torch.zeros(1, dtype=torch.long))), model.condition(batch)


@pytest.mark.parametrize("word, first, condition", DISCRETE, ids=str)
def test_laws_of_codes_and_pixels_multiply_to_the_probability_of_the_whole(word, first, condition, tmp_path):
    """Which the prior computes at once, and not position by position."""
    model = made(word, first, condition, tmp_path)
    z, c = asked(model)
    with torch.no_grad():
        wanted = float(-model.prior.log_prob(z, c) / math.log(2))
        if model.prior.latents.codes is not None:
            places, things = z.flatten().tolist(), model.prior.latents.codes
        else:
            places, things = ((z + 1) * 127.5).round().long().permute(0, 2, 3, 1).flatten().tolist(), 256
        assert bits(model.prior.laws(c), places, things) == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("word, first, condition", CONTINUOUS, ids=str)
def test_laws_of_latents_multiply_to_the_density_times_the_cell(word, first, condition, tmp_path):
    model = made(word, first, condition, tmp_path)
    z, c = asked(model)
    step = 0.02
    grid = Grid(step, Grid.around(z, step).bound + 300)  # so that no number is in the cells at the ends
    places = grid.places(z)
    on_grid, places = grid.values(places).float(), places.permute(0, 2, 3, 1).flatten().tolist()
    model.prior.double()
    c = Context(None if c.tokens is None else c.tokens.double(), c.mask)
    with torch.no_grad():
        wanted = -float(model.prior.log_prob(on_grid.double(), c)) / math.log(2) - len(places) * math.log2(step)
        assert bits(model.prior.laws(c, grid), places, 2 * grid.bound + 1) == pytest.approx(wanted, rel=2e-3)


def test_a_normal_number_on_a_grid():
    """With step 1 and bound 1, the cells are (-inf, -1/2), (-1/2, 1/2), (1/2, inf)."""
    laws = Normal(Latents((1, 1, 2)), ContextShape()).laws(Context(), Grid(1.0, 1))
    wanted = torch.tensor([0.30853754, 0.38292492, 0.30853754]).double()
    for law in (next(laws), laws.send(0)):
        torch.testing.assert_close(law, wanted, atol=1e-8, rtol=0)


def test_what_was_seen_says_which_component_it_is():
    """Two components apart, at (-1, -1) and (1, 1): the first number tells the second."""
    means = torch.tensor([[-1.0, -1.0], [1.0, 1.0]]).double()
    laws = mixture_laws(torch.tensor([0.25, 0.75]).double().log(), means, torch.full_like(means, 0.1), Grid(1.0, 1))
    torch.testing.assert_close(next(laws), torch.tensor([0.25, 0, 0.75]).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(laws.send(2), torch.tensor([0, 0, 1.0]).double(), atol=1e-5, rtol=0)
    with pytest.raises(StopIteration) as end:
        laws.send(1)
    assert end.value.value.tolist() == [1.0, 0.0]


def test_masses_keep_their_digits_in_the_tails():
    edges = torch.tensor([-31.0, -30, -1, 2, 30, 31]).double()
    found = log_masses(edges, torch.zeros(1).double(), torch.ones(1).double())
    far = stats.norm.logcdf(-30) + math.log1p(-math.exp(stats.norm.logcdf(-31) - stats.norm.logcdf(-30)))
    middle = math.log(stats.norm.cdf(2) - stats.norm.cdf(-1))
    assert found[[0, 4]].tolist() == pytest.approx([far, far], rel=1e-12) and float(found[2]) == pytest.approx(middle)


def test_places_are_of_the_nearest_values():
    z = torch.tensor([-1.3, -0.24, 0.0, 0.26, 0.74]).view(1, 1, 1, 5)
    grid = Grid.around(z, 0.5)
    assert grid.bound == 3 and grid.places(z).flatten().tolist() == [0, 3, 3, 4, 4]
    assert grid.values(grid.places(z)).flatten().tolist() == [-1.5, 0, 0, 0.5, 0.5]
    assert Grid.around(torch.zeros(1, 1, 1, 1), 0.5).bound == 1, "a coder wants two things to choose from"


def test_who_has_laws(tmp_path):
    assert set(having(Stepwise)) == {"Autoregressive", "Categorical", "Mixture", "Normal"}
    assert made("pixelcnn", "vq_f4_small", "none", tmp_path).prior.lawless() is None
    without = made("transformer", "kl_f4_small prior/head=diffusion", "none", tmp_path).prior.lawless()
    assert without == "its head, DiffusionHead, has no law in closed form; train with another prior/head="
