"""Flows of couplings invert, have the density that their Jacobian says, and learn a law that is known."""

import inspect
from functools import partial

import pytest
import torch

from ldm.bijection.network import ConvNet, Transformer
from ldm.bijection.transform.additive import Additive
from ldm.bijection.transform.spline import RationalQuadratic
from ldm.cost import context_on_meta, flops
from ldm.prior.base import Invertible, Latents, Likelihood
from ldm.prior.glow import Glow
from ldm.prior.normalizing_flow import NormalizingFlow
from ldm.prior.realnvp import RealNVP
from ldm.random import Random
from ldm.types import Context, ContextShape
from tests.bijection.laws import context, hold, stirred
from tests.prior import ring
from tests.prior.learning import gap, trained

FAMILIES = {"realnvp": RealNVP, "glow": Glow, "spline": partial(Glow, transform=RationalQuadratic())}
SMALL = partial(ConvNet, width=8, depth=1)
PLANE = (2, 1, 1)


def made(family: str, shape: tuple[int, int, int], tokens: int | None = 6, **options) -> NormalizingFlow:
    torch.manual_seed(0)
    if family != "realnvp":
        options = {"steps": 2} | options
    return FAMILIES[family](Latents(shape), ContextShape(tokens), **{"network": SMALL} | options)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("shape", [PLANE, (1, 4, 4), (3, 4, 4), (4, 4, 2)], ids=str)
def test_it_inverts_and_its_log_determinant_is_the_jacobians(family, shape):
    prior, c = stirred(made(family, shape), 0.3), context(2)
    hold(prior.bijection, torch.randn(2, *shape), c, atol=2e-4)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("shape", [(4, 8, 8), (1, 28, 28), (1, 32, 32), (3, 32, 32)], ids=str)
@pytest.mark.usefixtures("unchecked")
def test_latents_come_back_from_all_of_their_noise(family, shape):
    """Also from noise of 1.3 times the deviation that was trained, which is finite."""
    prior, c, z = stirred(made(family, shape), 0.1), context(4), torch.randn(4, *shape)
    with torch.no_grad():
        prior.begin([(z[:2], c[:2]), (z[2:], c[2:])])
        u = prior.to_noise(z, c)
        assert u.shape == z.shape
        torch.testing.assert_close(prior.from_noise(u, c), z, rtol=0, atol=2e-4)
        prior.temperature = 1.3
        far = prior.sample((4, *shape), c, Random(0, 0, torch.arange(4)))
    assert far.isfinite().all()


def test_a_transformer_couples_too():
    prior = stirred(made("glow", (2, 4, 4), network=partial(Transformer, width=8, depth=1, heads=2)), 0.3)
    hold(prior.bijection, torch.randn(2, 2, 4, 4), context(2), atol=2e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_density_is_the_noises_and_the_log_determinant(family):
    prior, c, z = stirred(made(family, (1, 4, 4)), 0.3), context(3), torch.randn(3, 1, 4, 4)
    assert isinstance(prior, Likelihood) and isinstance(prior, Invertible) and prior.kind == "exact"
    with torch.no_grad():
        u, log_det = prior.bijection(z, c)
        wanted = torch.distributions.Normal(0.0, 1.0).log_prob(u).flatten(1).sum(1) + log_det
        torch.testing.assert_close(prior.log_prob(z, c), wanted)
        torch.testing.assert_close(prior.loss(z, c)["nll per dimension"], -wanted.mean() / 16)


def test_temperature_is_the_noises():
    """A sample at half the temperature is made of half of the same noise."""
    prior, c, random = stirred(made("glow", (2, 2, 2)), 0.2), context(5), Random(3, 0, torch.arange(5))
    with torch.no_grad():
        warm = prior.to_noise(prior.sample((5, 2, 2, 2), c, random), c)
        prior.temperature = 0.5
        cold = prior.to_noise(prior.sample((5, 2, 2, 2), c, random), c)
    torch.testing.assert_close(warm, random.normal("prior", (2, 2, 2)), rtol=0, atol=1e-4)
    torch.testing.assert_close(cold, 0.5 * warm, rtol=0, atol=1e-4)


def test_it_begins_from_enough_latents_and_no_more():
    read = []

    def batches():
        for _ in range(100):
            read.append(200)
            yield 3 * torch.randn(200, 1, 4, 4) + 1, Context()

    prior = made("glow", (1, 4, 4), tokens=None)
    prior.begin(batches())
    assert sum(read) == 600
    with torch.no_grad():
        u = prior.to_noise(3 * torch.randn(2000, 1, 4, 4) + 1, Context())
    torch.testing.assert_close(u.var(), torch.tensor(1.0), rtol=0.1, atol=0)
    torch.testing.assert_close(u.mean(), torch.tensor(0.0), rtol=0, atol=0.05)


def test_it_begins_from_texts_of_any_length():
    """A batch has as many tokens as its longest text; what is added to a shorter one does not count."""
    prior, z = stirred(made("glow", (2, 2, 2))), torch.randn(40, 2, 2, 2)
    short, long = Context(tokens=torch.randn(20, 1, 6)), context(20)
    prior.begin([(z[:20], short), (z[20:], long)])
    padded = Context(torch.cat([short.tokens, torch.randn(20, 1, 6)], 1), torch.tensor([[True, False]]).expand(20, 2))
    with torch.no_grad():
        torch.testing.assert_close(prior.to_noise(z[:20], short), prior.to_noise(z[:20], padded))
        first = torch.cat([prior.bijection.parts[0](part, c)[0] for part, c in ((z[:20], short), (z[20:], long))])
    torch.testing.assert_close(first.mean((0, 2, 3)), torch.zeros(2), rtol=0, atol=1e-5)


def test_volumes_are_kept_by_additive_couplings():
    prior = made("glow", PLANE, transform=Additive(), tokens=None)
    with torch.no_grad():
        for name, p in prior.named_parameters():
            if "network" in name:
                p.add_(torch.randn_like(p))
        torch.testing.assert_close(
            prior.bijection(torch.randn(4, *PLANE), Context())[1], torch.zeros(4), rtol=0, atol=1e-5
        )


def test_shapes_that_do_not_serve_are_refused():
    with pytest.raises(ValueError, match=r"here is 1.*prior=realnvp"):
        made("glow", (1, 7, 7))
    with pytest.raises(ValueError, match="levels=5"):
        made("realnvp", (1, 8, 8), levels=5)
    with pytest.raises(ValueError, match="spatial"):
        Glow(Latents((4, 4, 4)), ContextShape(spatial=3))
    made("realnvp", (1, 7, 7)), made("glow", (3, 7, 7)), made("glow", (4, 8, 8), levels=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_its_networks_are_those_of_its_couplings(family):
    """Each is asked once for a sample, whatever the rows."""
    prior, asked = made(family, (1, 4, 4), tokens=None), []
    for network in prior.networks():
        network.register_forward_hook(lambda *_: asked.append(1))
    prior.sample((3, 1, 4, 4), Context(), Random(0, 0, torch.arange(3)))
    assert len(asked) == len(prior.networks()) == {"realnvp": 3 * 4 - 3, "glow": 2, "spline": 2}[family]


def test_what_a_density_costs():
    """Its networks once, and of each step the matrix of the convolution, made of three, times the channels of every pixel."""
    prior = made("glow", (2, 4, 4), levels=1, tokens=6)
    x, c = torch.empty(1, 4, 2, 2, device="meta"), context_on_meta(ContextShape(6), (2, 4, 4))
    networks = sum(flops(network, x, c)[0] for network in prior.networks())
    assert prior.flops() == networks + 2 * (2 * 2 * 8**3 + 2 * 8**2 * 4)


def test_arguments_reach_the_bijection():
    spline = made("spline", PLANE, transform=RationalQuadratic(bins=5), steps=3)
    assert len(spline.networks()) == 3 and spline.networks()[0].head.out_channels == 3 * 5 - 1
    for family in (RealNVP, Glow):
        assert "temperature" in inspect.signature(family).parameters and family.DRAWING == ("temperature",)


# What is learnt; longer, to the law's entropy, in test_learning.py


def named(count: int) -> tuple[torch.Tensor, Context]:
    """Draws of the ring with their mode as a context of one hot token."""
    mode = torch.randint(ring.MODES, (count,))
    return ring.draw(count, label=mode), Context(tokens=torch.eye(ring.MODES)[mode][:, None])


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("family", FAMILIES)
def test_a_density_that_is_learnt_integrates_to_1(family):
    """After a few updates, when it is no longer a Gaussian: one of the ring's moments takes 1.72 nats more than its entropy."""
    options = {"couplings": 4} if family == "realnvp" else {"steps": 2}
    prior = trained(made(family, PLANE, tokens=None, **options), 60, 0.02)
    assert ring.integral(lambda z: prior.log_prob(z, Context()), limit=3.5, side=121) == pytest.approx(1, abs=0.01)
    assert gap(prior) < 1.5


@pytest.mark.usefixtures("unchecked")
def test_labels_choose_the_modes():
    prior = trained(made("glow", PLANE, tokens=ring.MODES), 150, 0.03, batch=named)
    label = torch.arange(ring.MODES).repeat(40)
    c = Context(tokens=torch.eye(ring.MODES)[label][:, None])
    with torch.no_grad():
        z = prior.sample((len(label), *PLANE), c, Random(0, 0, torch.arange(len(label))))
    assert (ring.modes(z) == label).float().mean() > 0.8
