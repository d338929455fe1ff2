"""The first stage's terms and numbers, each worked out by torch's own distributions or by hand."""

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from ldm.autoencoder.bottleneck import DiagonalGaussian, Identity
from ldm.loss.adversarial import Adversarial
from ldm.loss.first_stage import FirstStageLoss
from ldm.loss.reconstruction import Gaussian as GaussianLikelihood
from ldm.nn.patchgan import PatchGAN
from ldm.random import Random
from ldm.stage.first import First
from ldm.stage.means import Means
from tests.stage.tiny import autoencoder, recipe


def first(adversarial=None):
    """Its latents are whitened by other numbers than 0 and 1, which training must not see."""
    torch.manual_seed(0)
    own = autoencoder(DiagonalGaussian(2))
    own.set_statistics(torch.tensor([0.5, -1.0]), torch.tensor([2.0, 3.0]))
    return First(own, FirstStageLoss(GaussianLikelihood(-1.0), 0.25, adversarial=adversarial), recipe())


@pytest.fixture
def batch():
    return {"image": torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1}


def random():
    return Random(7, 5, torch.tensor([4, 5, 9]))


def test_the_autoencoders_terms_are_of_a_draw_from_the_posterior(batch):
    stage, x, shared = first(), batch["image"], {}
    terms, logged = stage._reconstruct(batch, random(), shared)
    mean, log_variance = stage.autoencoder.encoder(x).chunk(2, dim=1)
    std = (log_variance / 2).exp()
    y = stage.autoencoder.decoder(mean + std * random().normal("posterior", (2, 4, 4)))
    nats = -Normal(y, torch.tensor(-1.0).exp().sqrt()).log_prob(x).flatten(1).sum(1).mean()
    kl = kl_divergence(Normal(mean, std), Normal(0.0, 1.0)).flatten(1).sum(1).mean()
    torch.testing.assert_close(terms, {"reconstruction": nats / 192, "kl": 0.25 * kl / 192})
    assert torch.equal(shared["made"], y) and not shared["made"].requires_grad
    torch.testing.assert_close(logged, {
        "mse": (x - y).square().mean(), "log variance": torch.tensor(-1.0), "kl (unweighted)": kl,
    })  # fmt: skip


def test_the_critic_is_shown_images_and_reconstructions_from_its_start_on(batch):
    stage = first(Adversarial(PatchGAN(3, 4, 1), start=4, critic_start=3))
    made = -batch["image"]
    for stage.updates, learns in ((0, False), (2, False), (3, True)):
        terms, logged = stage._criticise(batch, random(), {"made": made})
        assert bool(terms) is learns
    real, fake = (stage.loss.adversarial.critic(x) for x in (batch["image"], made))
    hinge = 0.5 * ((1 - real).clamp(min=0).mean() + (1 + fake).clamp(min=0).mean())
    torch.testing.assert_close(terms, {"critic": hinge})
    torch.testing.assert_close(logged, {"logits real": real.mean(), "logits fake": fake.mean()})


def test_the_players_have_all_that_is_learnt_between_them():
    stage = first(Adversarial(PatchGAN(3, 4, 1)))
    own, critic = (player.parameters for player in stage.players())
    assert {id(p) for p in own} == {
        *map(id, stage.autoencoder.parameters()), id(stage.loss.likelihood.scaled_log_variance),
    }  # fmt: skip
    assert {id(p) for p in critic} == {*map(id, stage.loss.adversarial.critic.parameters())}


@torch.no_grad()
def test_held_out_numbers_are_of_the_posteriors_mean(batch):
    stage, x = first(), batch["image"]
    stage.autoencoder.decoder.head.bias.fill_(0.9)  # some of what is decoded is above 1
    terms = stage.validation_terms(batch, random())
    mean, log_variance = stage.autoencoder.encoder(x).chunk(2, dim=1)
    y = stage.autoencoder.decoder(mean)
    assert y.max() > 1
    mse = (y.clamp(-1, 1) - x).square().flatten(1).mean(1)
    kl = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0)).flatten(1).sum(1)
    torch.testing.assert_close(terms, {"mse": mse, "psnr": 10 * (4 / mse).log10(), "kl (unweighted)": kl})


@torch.no_grad()
def test_an_error_of_a_tenth_of_the_range_is_twenty_decibel():
    """Peak 2 of [-1, 1]; and without a spread there is no divergence."""
    stage = First(autoencoder(Identity(2)), FirstStageLoss(GaussianLikelihood()), recipe())
    stage.autoencoder.decoder.head.weight.zero_()
    stage.autoencoder.decoder.head.bias.fill_(0.5)
    terms = stage.validation_terms({"image": torch.full((2, 3, 8, 8), 0.3)}, random())
    torch.testing.assert_close(terms, {"mse": torch.full((2,), 0.04), "psnr": torch.full((2,), 20.0)})


def test_a_mean_is_over_the_updates_that_had_the_number():
    """A critic that begins in the fourth of five updates; each of two micro-batches."""
    means, beside = Means(), torch.tensor([7.0])
    for update in range(5):
        for half in (0.0, 1.0):
            values = {"loss": torch.tensor(update + half)}
            means.add(values | ({"critic": torch.tensor(4.0 * half)} if update > 2 else {}), 0.5)
        means.add({"gradient": torch.tensor(float(update))})
        means.end_update()
    assert means.updates == 5
    again = Means()
    again.load_state_dict(means.state_dict())
    for each in (means, again):
        assert each.take(beside) == ({"critic": 2.0, "gradient": 2.0, "loss": 2.5}, [7.0])
    means.add({"critic": torch.tensor(3.0)})
    means.end_update()
    assert means.take(beside) == ({"critic": 3.0}, [7.0])
