import torch

from ldm.backbone.mlp import MLP
from ldm.diffusion.grid import Uniform as Grid
from ldm.diffusion.guidance.classifier_free import ClassifierFree
from ldm.diffusion.parameterization import V
from ldm.diffusion.sampler.ddim import DDIM
from ldm.diffusion.schedule import Cosine
from ldm.diffusion.time import Uniform as Time
from ldm.diffusion.weighting import Prediction
from ldm.prior.diffusion import Diffusion
from ldm.random import Random
from ldm.types import Context, ContextShape


def prior(**options) -> Diffusion:
    torch.manual_seed(0)
    parts = (Cosine(), V(), Prediction(), Time(), DDIM(), Grid(), ClassifierFree)
    return Diffusion((3, 2, 2), ContextShape(), lambda **given: MLP(**given, sides=(2, 2), width=8), *parts, **options)


def test_offset_noise_shifts_whole_channels(monkeypatch):
    z, random, noises = torch.randn(5, 3, 2, 2), Random(0, 7, torch.arange(5)), []
    for offset in (0.0, 0.3):
        one = prior(offset_noise=offset)
        monkeypatch.setattr(one, "errors", lambda z, c, t, eps: noises.append(eps) or eps)
        one.loss(z, Context(), random)
    plain, shifted = noises
    assert torch.equal(plain, random.normal("noise", (3, 2, 2)))
    shift = random.normal("offset noise", (3, 1, 1))
    torch.testing.assert_close(shifted - plain, 0.3 * shift.expand(5, 3, 2, 2))


def test_offset_noise_is_off_unless_asked_for():
    z, random = torch.randn(5, 3, 2, 2), Random(0, 7, torch.arange(5))
    losses = [one.loss(z, Context(), random)["diffusion"] for one in (prior(), prior(offset_noise=0.0))]
    assert torch.equal(*losses)
    assert not torch.equal(losses[0], prior(offset_noise=0.1).loss(z, Context(), random)["diffusion"])
