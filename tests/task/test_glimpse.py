"""A sample that is watched is the sample that is not, and what is seen of it is what the sampler goes by."""

import dataclasses

import pytest
import torch

import ldm
from ldm.diffusion.sampler.ddim import DDIM
from ldm.diffusion.sampler.heun import Heun
from ldm.prior.base import Gradual
from ldm.task.inpaint import Inpaint
from ldm.task.interpolate import Interpolate
from ldm.task.tools.hole import Half
from tests.runs import saved, tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return ldm.load(saved(folder, tiny(folder)))


@pytest.mark.parametrize(("sampler", "calls"), [(DDIM, 3), (Heun, 5)])
def test_what_is_seen_is_each_answer_of_the_denoiser_and_last_the_sample(model, sampler, calls):
    """A step of Heun's asks twice, but for the last, which is E[x | x_t]."""
    seen = []
    words = {"captions": "a star", "n": 2, "steps": 3, "seed": 4, "tensors": True}
    words["prior"] = {"sampler": {"_target_": f"{sampler.__module__}.{sampler.__name__}"}}
    found = model.sample(**words, watch=seen.append)
    torch.testing.assert_close(found, model.sample(**words), rtol=0, atol=0)
    assert len(seen) == calls and [each.t for each in seen] == sorted((each.t for each in seen), reverse=True)
    assert seen[0].t == pytest.approx(1, abs=1e-3) and seen[-1].z.shape == (2, *model.model.prior.latents.shape)
    torch.testing.assert_close(seen[-1].images(), found)
    assert not torch.allclose(seen[0].images(), found, atol=1e-3)


def test_guidance_is_in_what_is_seen(model):
    """The first answer for pure noise of one seed differs with guidance, and is the plain one without."""

    def first(guidance):
        seen = []
        model.sample(captions="a star", guidance=guidance, steps=2, watch=seen.append)
        return seen[0].z

    plain, guided, null = (first(scale) for scale in (1, 3, 0))
    torch.testing.assert_close(guided, null + 3 * (plain - null), atol=1e-4, rtol=1e-4)


def test_a_task_is_watched_with_what_was_measured(model):
    """What is expected outside of the hole is nearer to the given image than it is without it."""
    given, seen, free = torch.rand(1, 3, 32, 32) * 2 - 1, [], []
    model.apply(Inpaint(Half()), given, steps=3, watch=seen.append)
    model.sample(steps=3, watch=free.append)
    kept = [(each[-1].images() - given)[..., :16].square().mean() for each in (seen, free)]
    assert len(seen) == 3 and kept[0] < kept[1]


def test_who_watches_may_end_it_and_nobody_watches_afterwards(model):
    class Enough(Exception):
        pass

    def watch(glimpse):
        raise Enough

    with pytest.raises(Enough):
        model.sample(captions="a star", watch=watch)
    assert model.model.prior.watch is None
    assert len(model.sample(captions="a star")) == 1


def test_a_prior_that_draws_at_once_is_not_seen(tmp_path):
    gan, seen = ldm.load(saved(tmp_path, tiny(tmp_path, "prior=gan"))), []
    assert not isinstance(gan.model.prior, Gradual)
    assert len(gan.sample(captions="a star", watch=seen.append)) == 1 and seen == []


def test_a_glimpse_needs_no_gradient(model):
    seen = []
    model.apply(Inpaint(Half()), torch.zeros(1, 3, 32, 32), steps=2, watch=seen.append)
    assert not dataclasses.replace(seen[0], z=seen[0].z.clone().requires_grad_()).images().requires_grad
    with pytest.raises(ValueError, match="wants 2 images at least"):
        model.apply(Interpolate(), torch.zeros(1, 3, 32, 32), watch=seen.append)
