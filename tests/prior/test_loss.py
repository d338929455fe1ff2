"""What a diffusion tells its weighting, and how it samples: by the pieces it was given."""

import pytest
import torch

from ldm.backbone.mlp import MLP
from ldm.diffusion.grid import Uniform as Grid
from ldm.diffusion.guidance.base import Guidance
from ldm.diffusion.guidance.classifier_free import ClassifierFree
from ldm.diffusion.likelihood import Exact, Flow
from ldm.diffusion.parameterization import Noise, V
from ldm.diffusion.sampler.ddim import DDIM
from ldm.diffusion.schedule import Cosine, Rectified
from ldm.diffusion.time import LogitNormal
from ldm.diffusion.weighting import Weighting
from ldm.ode import RungeKutta
from ldm.prior.base import Latents
from ldm.prior.diffusion import Diffusion
from ldm.types import Context, ContextShape


class Told(Weighting):
    """Keeps what it is told; the loss is the error of x."""

    def forward(self, errors, log_snr, density):
        self.errors, self.log_snr, self.density = errors, log_snr, density()
        return errors.x


def prior(guidance=ClassifierFree, schedule=None, parameterization=None, **options) -> Diffusion:
    torch.manual_seed(0)
    parts = (schedule or Cosine(), parameterization or V(), Told(), LogitNormal(0.4, 0.8), DDIM(), Grid(), guidance)
    one = Diffusion(
        Latents((3, 2, 2)), ContextShape(), lambda **given: MLP(**given, sides=(2, 2), width=8), *parts, **options
    )
    with torch.no_grad():
        for p in one.denoiser.parameters():  # those too that begin at zero
            p.add_(0.3 * torch.randn_like(p))
    return one


def test_a_weighting_is_told_the_noise_level_and_how_often_it_is_visited():
    """t = sigmoid(0.4 + 0.8 quantile(u)); log-SNR -2 log tan; the density of it by the slope of its quantile in u."""
    one, u = prior(), torch.tensor([0.1, 0.35, 0.8])
    z, eps = torch.randn(2, 3, 3, 2, 2, generator=torch.Generator().manual_seed(1))

    def log_snr(u):
        t = torch.sigmoid(0.4 + 0.8 * torch.distributions.Normal(0.0, 1.0).icdf(u.double()))
        return one.denoiser.schedule.log_snr(t)

    found = one.errors(z, Context(), u, eps)
    torch.testing.assert_close(one.weighting.log_snr.double(), log_snr(u), rtol=1e-4, atol=1e-4)
    slope = (log_snr(u.double() + 1e-5) - log_snr(u.double() - 1e-5)) / 2e-5
    torch.testing.assert_close(one.weighting.density.double(), 1 / slope.abs(), rtol=1e-3, atol=1e-5)
    assert torch.equal(found, one.weighting.errors.x)


def test_a_sample_follows_the_schedule_that_it_is_to(monkeypatch):
    """On another schedule than that of training: its grid, its beginning, and the network told the same log-SNR."""
    one, seen = prior(sampling_schedule=Rectified(), steps=4), []
    monkeypatch.setattr(
        one.denoiser.backbone, "forward", lambda z, log_snr, c: seen.append(log_snr) or torch.zeros_like(z)
    )
    one.sample((2, 3, 2, 2), Context())
    t = torch.tensor([1 - 1e-5, 0.75, 0.5, 0.25])
    wanted = (2 * ((1 - t) / t).log()).clamp(min=one.denoiser.schedule.log_snr(torch.ones(1)).item())
    assert len(seen) == 4
    for found, level in zip(seen[1:], wanted[1:], strict=True):
        torch.testing.assert_close(found, level.expand(2), rtol=1e-3, atol=1e-3)


def test_a_prediction_that_says_nothing_where_a_sample_begins_is_refused():
    with pytest.raises(ValueError, match="noise prediction says nothing of x at t = 1 of Rectified"):
        prior(schedule=Rectified(), parameterization=Noise())


class Zero(Guidance):
    """Guided to zero, whatever the plain answer."""

    def pair(self, x_t, t, c):
        return torch.zeros_like(x_t), self.around(x_t, t, c)


def test_a_sample_is_guided_and_a_density_is_not():
    """The last step of a sampler is the guided denoiser's answer; a density is of the model as it was trained."""
    parts = {"steps": 2, "likelihood": Flow(Exact(), RungeKutta(3), 0.1)}
    plain, guided = prior(**parts), prior(guidance=Zero, **parts)
    assert plain.sample((2, 3, 2, 2), Context()).abs().min() > 0
    assert (guided.sample((2, 3, 2, 2), Context()) == 0).all()
    z = torch.randn(2, 3, 2, 2, generator=torch.Generator().manual_seed(2))
    assert torch.equal(plain.log_prob(z, Context()), guided.log_prob(z, Context()))
