"""TarFlow: inverse, determinant, integral, order, noise, the denoising step and guidance, by autograd and closed forms."""

import math

import pytest
import torch

from ldm.bijection.transform.affine import Affine
from ldm.bijection.transform.sigmoidal import Sigmoidal
from ldm.bijection.transform.spline import RationalQuadratic
from ldm.prior.base import Latents
from ldm.prior.tarflow import TarFlow
from ldm.random import Random
from ldm.types import Context, ContextShape


def made(shape: tuple[int, int, int] = (2, 4, 2), moved: float = 0.12, **options) -> TarFlow:
    """Of a few weights, none of which is zero; they are moved by noise of that deviation."""
    small = {"patch": 1, "layers": 3, "width": 16, "depth": 1, "heads": 2, **options}
    prior = TarFlow(Latents(shape), ContextShape(tokens=2), **small).eval()
    with torch.no_grad():
        for p in prior.parameters():
            p.add_(moved * torch.randn_like(p))
    return prior


def context(rows: int) -> Context:
    return Context(torch.randn(rows, 1, 2), empty=Context(torch.full((1, 1, 2), 0.5)))


CASES = {
    "affine": {},
    "patches": {"patch": 2},
    "groups": {"groups": 2},
    "spline": {"transform": RationalQuadratic(5), "moved": 0.08},
    "sigmoidal": {"patch": 2, "transform": Sigmoidal(3)},
}


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
@torch.no_grad()
def test_it_inverts_token_by_token(options):
    """Also at 1.3 times the deviation, finitely."""
    prior, c = made(**options), context(16)
    for scale in (1.0, 1.3):
        u = scale * torch.randn(16, 2, 4, 2)
        z = prior.from_noise(u, c)
        torch.testing.assert_close(prior.to_noise(z, c)[0], u, rtol=0, atol=1e-4)
        torch.testing.assert_close(prior.from_noise(prior.to_noise(u, c)[0], c), u, rtol=0, atol=1e-4)
        assert (z - u).abs().mean() > 0.1, "the flow does something"


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_the_determinant_is_autograds(options):
    prior, c, z = made(**options), context(1), torch.randn(1, 2, 4, 2)
    jacobian = torch.autograd.functional.jacobian(lambda z: prior.to_noise(z, c)[0].flatten(), z).view(16, 16)
    u, log_det = prior.to_noise(z, c)
    torch.testing.assert_close(log_det[0].detach(), torch.linalg.slogdet(jacobian)[1], rtol=1e-4, atol=1e-4)
    normal = torch.distributions.Normal(0.0, 1.0).log_prob(u).sum()
    torch.testing.assert_close(prior.log_prob(z, c)[0], normal + log_det[0])


def test_layers_have_the_tokens_in_alternating_order():
    prior, c, x = made(), context(1), torch.randn(1, 8, 2)
    for i, layer in enumerate(prior.layers):
        places = prior._places(torch.zeros(1, 2, 4, 2))
        jacobian = torch.autograd.functional.jacobian(lambda x, i=i, at=places: prior.layers[i](x, at, c)[0][0], x)
        depends = jacobian[:, :, 0].abs().amax((1, 3)) > 0
        every = torch.ones(8, 8, dtype=torch.bool)
        assert torch.equal(depends, every.triu() if layer.backwards else every.tril())
    assert [layer.backwards for layer in prior.layers] == [False, True, False]


@pytest.mark.parametrize(
    ("transform", "limit", "side"),
    [(Affine(1.0), 9, 151), (RationalQuadratic(4, 2.0), 6, 401)],
    ids=["affine", "spline"],
)
@torch.no_grad()
def test_a_density_of_two_numbers_integrates_to_one(transform, limit, side):
    """One position: its two channels are two tokens."""
    prior = made((2, 1, 1), 0.08, groups=2, transform=transform)
    axis, c = torch.linspace(-limit, limit, side), context(1)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), dim=-1).view(-1, 2, 1, 1)
    log_p = prior.log_prob(grid, Context(c.tokens.expand(len(grid), -1, -1)))
    torch.testing.assert_close(log_p.exp().sum() * (axis[1] - axis[0]) ** 2, torch.tensor(1.0), rtol=0, atol=0.01)


@pytest.mark.parametrize(("transform", "parameters"), [(None, 2), (RationalQuadratic(5), 14)], ids=["affine", "spline"])
def test_it_begins_as_the_identity(transform, parameters):
    prior = TarFlow(Latents((2, 2, 2)), ContextShape(), layers=2, width=16, depth=1, heads=2, transform=transform)
    assert prior.layers[1].transformer.head.out_features == parameters * 8
    z = torch.randn(3, 2, 2, 2)
    u, log_det = prior.to_noise(z, Context())
    torch.testing.assert_close(u, z, rtol=0, atol=0 if transform is None else 1e-5)
    torch.testing.assert_close(log_det, torch.zeros(3), rtol=0, atol=0 if transform is None else 1e-5)


@torch.no_grad()
def test_parameters_of_a_patch_stand_one_kind_behind_the_other():
    """Of two numbers of the only token, with the bias (r_1, r_2, t_1, t_2): z = u exp(3 tanh(r / 3)) + t."""
    prior = TarFlow(Latents((2, 1, 1)), ContextShape(), patch=1, layers=1, width=8, depth=1, heads=2)
    prior.layers[0].transformer.head.bias.copy_(torch.tensor([0.3, -9.0, 1.0, 2.0]))
    u = torch.randn(4, 2, 1, 1)
    slope = torch.tensor([3 * math.tanh(0.1), 3 * math.tanh(-3.0)]).exp().view(2, 1, 1)
    torch.testing.assert_close(prior.from_noise(u, Context()), u * slope + torch.tensor([1.0, 2.0]).view(2, 1, 1))


@torch.no_grad()
def test_a_function_whose_inverse_is_searched_for_goes_from_data_to_noise():
    """So that a density, and training, takes its formula."""
    function, parameters = Sigmoidal(2), torch.randn(6)
    prior = TarFlow(
        Latents((1, 1, 1)), ContextShape(), patch=1, layers=1, width=8, depth=1, heads=2, transform=function
    )
    prior.layers[0].transformer.head.bias.copy_(parameters)
    z = torch.randn(5, 1, 1, 1)
    u, log_det = prior.to_noise(z, Context())
    wanted, log_slope = function.forward(z, parameters.view(6, 1, 1, 1, 1).expand(6, 5, 1, 1, 1))
    torch.testing.assert_close(u, wanted)
    torch.testing.assert_close(log_det, log_slope.flatten())


def affine(shift: float, log_scale: float, **options) -> TarFlow:
    """One layer with the same shift and scale everywhere."""
    prior = TarFlow(Latents((1, 2, 1)), ContextShape(), patch=1, layers=1, width=8, depth=1, heads=2, **options)
    raw = 3 * math.atanh(log_scale / 3)
    with torch.no_grad():
        prior.layers[0].transformer.head.bias.copy_(torch.tensor([raw, shift]))
    return prior


def test_training_adds_noise_of_its_own_and_sampling_takes_it_off():
    """Latents N(m, s^2 - sigma^2) are N(m, s^2) under noise, and the mean of what was there is y - sigma^2 (y - m) / s^2."""
    m, s, sigma = 0.7, math.exp(-0.4), 0.3
    prior, random, z = affine(m, -0.4, noise=sigma), Random(0, 0, torch.arange(5)), torch.randn(5, 1, 2, 1)
    y = z + sigma * random.normal("noise", (1, 2, 1))
    wanted = -torch.distributions.Normal(m, s).log_prob(y).mean()
    torch.testing.assert_close(prior.loss(z, Context(), random)["nll per dimension"], wanted)
    y = m + s * random.normal("prior", (1, 2, 1))
    torch.testing.assert_close(prior.sample((5, 1, 2, 1), Context(), random), y - sigma**2 * (y - m) / s**2)
    prior.denoise, prior.temperature = False, 0.5
    noisy = prior.sample((5, 1, 2, 1), Context(), random)
    torch.testing.assert_close(noisy, m + 0.5 * (y - m))


@torch.no_grad()
def test_guidance_moves_what_the_network_says():
    """Of one token, it is a function of the context alone: raw log-scales, and shifts."""
    prior, c = made((2, 1, 1), layers=1, guidance=3.0, denoise=False), context(4)
    layer, places = prior.layers[0], prior._places(torch.zeros(1, 2, 1, 1))

    def told(c: Context) -> torch.Tensor:
        return layer.transformer(torch.zeros(4, 1, 2), places, c)[:, 0]

    null = told(c.null())
    raw, shift = (null + 3 * (told(c) - null)).chunk(2, dim=1)
    u = torch.randn(4, 2, 1, 1)
    wanted = u[..., 0, 0] * (3 * (raw / 3).tanh()).exp() + shift
    torch.testing.assert_close(prior.from_noise(u, c, 3.0)[..., 0, 0], wanted)
    assert prior.asks_null() and not made().asks_null()
    prior.check_negative()
    with pytest.raises(ValueError, match="guidance above 1 moves away from; here guidance=1"):
        made().check_negative()


def test_groups_divide_the_channels():
    with pytest.raises(ValueError, match="3 channels cannot be divided into groups=2; take a divisor of 3"):
        TarFlow(Latents((3, 2, 2)), ContextShape(), groups=2)
