import math
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn

from ldm.autoencoder.bottleneck import Posterior
from ldm.loss.adaptive import AdaptiveWeight
from ldm.loss.adversarial import Adversarial
from ldm.loss.first_stage import FirstStageLoss
from ldm.loss.importance_weighted import ImportanceWeighted
from ldm.loss.perceptual import LaplacianPyramid
from ldm.loss.reconstruction import Blend, Gaussian, Laplace
from ldm.nn.patchgan import PatchGAN


@dataclass
class Pass:
    image: Tensor
    terms: dict[str, Tensor] = field(default_factory=dict)
    z: Tensor | None = None
    posterior: Posterior | None = None


class Decoder(nn.Module):
    """y = last(x), with a layer before so that there are other weights."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 3, 1)

    def forward(self, x):
        return self.last(self.first(x))

    @property
    def adaptive(self):
        return AdaptiveWeight(list(self.parameters()), self.last.weight)


@pytest.fixture
def x():
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


def adversarial_loss(start=20, critic_start=10):
    torch.manual_seed(0)
    critic = PatchGAN(width=8, layers=1)
    return FirstStageLoss(
        Laplace(), perceptual=LaplacianPyramid(), adversarial=Adversarial(critic, 0.5, start, critic_start)
    )


def test_with_the_gaussian_and_weight_one_it_is_the_negative_evidence_bound(x):
    y, kl = x + 0.1, torch.tensor(7.0)
    terms, logged = FirstStageLoss(Gaussian(log_variance=-1.0), kl_weight=1.0).generator(
        x, Pass(y, {"kl": kl}), 0, None
    )
    log_p = torch.distributions.Normal(y, math.exp(-0.5)).log_prob(x).flatten(1).sum(1).mean()
    torch.testing.assert_close(sum(terms.values()) * x[0].numel(), kl - log_p)
    assert logged["kl (unweighted)"] == 7


def test_the_published_objective_but_for_one_constant(x):
    # CompVis, LPIPSWithDiscriminator: nll = sum((|x - y| + w p) / exp(v) + v) / b; nll + 1e-6 kl + d_weight g_loss
    decoder, loss = Decoder(), adversarial_loss()
    loss.likelihood, loss.perceptual_weight = Blend(square=0.0, log_variance=-0.7), 0.3
    y, kl, n = decoder(x), torch.tensor(50.0), x[0].numel()
    p = loss.perceptual(x, y)[:, None, None, None]
    nll = (((x - y).abs() + 0.3 * p) / math.exp(-0.7) - 0.7).sum() / len(x)
    g_loss = -loss.adversarial.critic(y).mean()
    a, b = (torch.autograd.grad(v, decoder.last.weight, retain_graph=True)[0].norm() for v in (nll / n, g_loss))
    expected = (nll + 1e-6 * kl) / n + 0.5 * a / (b + 1e-4) * g_loss
    terms, _ = loss.generator(x, Pass(y, {"kl": kl}), 20, decoder.adaptive)
    torch.testing.assert_close(sum(terms.values()), expected)


def test_the_terms_of_a_bottleneck_are_added(x):
    made = Pass(x, {"commitment": torch.tensor(3.0), "codebook": torch.tensor(5.0)})
    terms, logged = FirstStageLoss(Gaussian()).generator(x, made, 0, None)
    assert terms["commitment"] * x[0].numel() == 3 and terms["codebook"] * x[0].numel() == 5
    assert logged["commitment (unweighted)"] == 3 and not set(terms) & set(logged)


def test_what_is_logged_is_of_the_mean_image(x):
    y = x + torch.tensor([0.1, 0.3]).view(2, 1, 1, 1)
    loss = FirstStageLoss(Laplace(log_variance=-1.5), kl_weight=0.5, perceptual=LaplacianPyramid())
    terms, logged = loss.generator(x, Pass(y, {"kl": torch.tensor(4.0)}), 0, None)
    assert logged["mse"].item() == pytest.approx((0.1**2 + 0.3**2) / 2, rel=1e-4)
    assert logged["log variance"].item() == pytest.approx(-1.5) and logged["kl (unweighted)"] == 4
    torch.testing.assert_close(logged["perceptual"], loss.perceptual(x, y).mean())
    assert terms["kl"].item() == pytest.approx(0.5 * 4 / x[0].numel())


def test_the_perceptual_term_trains_the_autoencoder(x):
    decoder = Decoder()
    with_it, without = FirstStageLoss(Gaussian(), perceptual=LaplacianPyramid()), FirstStageLoss(Gaussian())
    gradients = []
    for loss in (with_it, without):
        decoder.zero_grad()
        sum(loss.generator(x, Pass(decoder(x)), 0, decoder.adaptive)[0].values()).backward()
        gradients.append(decoder.first.weight.grad.clone())
    assert not torch.allclose(*gradients, rtol=1e-2)


def test_the_critic_learns_before_it_is_heard_and_both_count_updates(x):
    decoder, loss = Decoder(), adversarial_loss(start=20, critic_start=10)
    weighted, learns = [], []
    for update in range(30):
        made = Pass(decoder(x))
        terms, _ = loss.generator(x, made, update, decoder.adaptive)
        weighted.append("adversarial" in terms)
        learns.append(bool(loss.critic(x, made.image.detach(), update)[0]))
    assert learns == [False] * 10 + [True] * 20
    assert weighted == [False] * 20 + [True] * 10


def test_each_side_moves_its_own_parameters_only(x):
    decoder, loss = Decoder(), adversarial_loss(start=1, critic_start=0)
    model = [*decoder.parameters(), *loss.model_parameters()]
    critic = list(loss.critic_parameters())
    assert not {id(p) for p in model} & {id(p) for p in critic}
    made = Pass(decoder(x))
    sum(loss.generator(x, made, 1, decoder.adaptive)[0].values()).backward()
    assert all(p.grad is not None for p in model) and all(p.grad is None for p in critic)
    before = [p.grad.clone() for p in model]
    sum(loss.critic(x, made.image, 1)[0].values()).backward()  # not even detached by its caller
    assert all(p.grad is not None for p in critic)
    assert all(torch.equal(p.grad, g) for p, g in zip(model, before, strict=True))


def test_without_a_critic_there_is_one_side(x):
    loss = FirstStageLoss(Gaussian())
    assert not list(loss.critic_parameters()) and loss.critic(x, x, 10**6) == ({}, {})
    assert [p.shape for p in loss.model_parameters()] == [()]


def test_a_frozen_spread_is_not_trained():
    assert not list(FirstStageLoss(Gaussian(learnt=False)).model_parameters())


def test_only_what_is_learnt_is_saved():
    names = set(adversarial_loss().state_dict())
    assert names and all(name.startswith(("likelihood.", "adversarial.critic.")) for name in names)


def test_an_autoencoder_of_the_house_fits_its_protocol(x):
    from functools import partial

    from ldm.autoencoder.autoencoder import Autoencoder
    from ldm.autoencoder.bottleneck import DiagonalGaussian
    from ldm.autoencoder.convnet import Decoder, Encoder

    parts = {"width": 8, "multipliers": (1, 1), "blocks": 1, "middle_attention": False}
    autoencoder = Autoencoder((3, 16, 16), partial(Encoder, **parts), partial(Decoder, **parts), DiagonalGaussian(2))
    made = autoencoder(x, torch.randn(2, 2, 8, 8))
    terms, _ = adversarial_loss(1, 0).generator(
        x, made, 1, AdaptiveWeight(list(autoencoder.parameters()), autoencoder.last_layer)
    )
    assert set(terms) == {"reconstruction", "kl", "adversarial"}
    sum(terms.values()).backward()
    assert all(p.grad.isfinite().all() for p in autoencoder.parameters() if p.requires_grad)


def test_every_config_composes_and_builds(tmp_path):
    import torchvision
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf
    from safetensors.torch import save_file

    from ldm.build import build, check
    from tests.pieces import CONF

    save_file(torchvision.models.squeezenet1_1().state_dict(), tmp_path / "w.safetensors")
    offline = {"kl_features": [f"loss.perceptual.maps.weights={tmp_path / 'w.safetensors'}"]}
    for file in sorted((CONF / "loss").glob("*.yaml")):
        with initialize_config_dir(str(CONF), version_base=None):
            config = compose("config", [f"loss={file.stem}", "data=shapes", *offline.get(file.stem, [])])
        node = OmegaConf.to_container(config.loss, resolve=True)
        check(node, "loss")
        if "lpips" not in file.stem:  # those download
            assert isinstance(build(node, "loss"), FirstStageLoss)


def test_the_importance_weighted_bound_is_of_several_draws_of_each_image(x):
    """log 1/2 (w_1 + w_2) of each of two images, per number, by torch's own densities."""
    y, noise = torch.rand(4, 3, 16, 16) * 2 - 1, torch.randn(4, 1, 2, 2)
    posterior = Posterior(torch.randn(4, 1, 2, 2), torch.rand(4, 1, 2, 2) + 0.5)
    z = posterior.sample(noise)
    loss = FirstStageLoss(Gaussian(log_variance=3.0), 1.0, importance=ImportanceWeighted(2))
    terms, _ = loss.generator(x, Pass(y, {"kl": torch.tensor(7.0)}, z, posterior), 0, None)
    normal = torch.distributions.Normal
    log_w = normal(y, math.exp(1.5)).log_prob(x[[0, 0, 1, 1]]).flatten(1).sum(1)
    log_w += (normal(0.0, 1.0).log_prob(z) - normal(posterior.mean, posterior.std).log_prob(z)).flatten(1).sum(1)
    bound = log_w.double().view(2, 2).logsumexp(1) - math.log(2)
    torch.testing.assert_close(sum(terms.values()), -bound.float().mean() / x[0].numel())
    assert loss.draws == 2 and FirstStageLoss(Gaussian()).draws == 1


def test_a_weighted_bound_has_no_other_terms():
    with pytest.raises(ValueError, match="loss=iwae"):
        FirstStageLoss(Gaussian(), 1e-6, importance=ImportanceWeighted(2))
    with pytest.raises(ValueError, match="perceptual"):
        FirstStageLoss(Gaussian(), 1.0, LaplacianPyramid(), importance=ImportanceWeighted(2))
