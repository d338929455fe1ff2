"""Networks without normalisation: what they begin as, what sizes they take, and that nothing looks at other examples."""

import math

import pytest
import torch

from ldm.nn.fixup import LEAKY, SMOOTH, Convolution, Critic, Generator, Residual, sides
from ldm.types import Context, ContextShape

SHAPES = [(2, 1, 1), (2, 1, 6), (4, 8, 8), (1, 28, 28), (3, 6, 10)]
TOKENS = ContextShape(tokens=5)


def context(rows: int, seed: int = 0) -> Context:
    return Context(torch.randn(rows, 2, 5, generator=torch.Generator().manual_seed(seed)))


def shaken(module: torch.nn.Module) -> torch.nn.Module:
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return module


def test_levels_halve_while_both_sides_are_even_and_no_less_than_four():
    assert sides(32, 32) == [(32, 32), (16, 16), (8, 8), (4, 4)]
    assert sides(28, 28) == [(28, 28), (14, 14), (7, 7)]
    assert sides(6, 16) == [(6, 16)] and sides(1, 1) == [(1, 1)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_they_take_latents_of_any_size(shape):
    generator, critic = Generator(3, shape, TOKENS, width=8, blocks=1), Critic(shape, TOKENS, width=8, blocks=1)
    x = generator(torch.randn(2, 3), context(2))
    assert x.shape == (2, *shape) and critic(x, context(2)).shape == (2,)


@pytest.mark.parametrize("activation", [LEAKY, SMOOTH])
def test_gains_keep_the_second_moment(activation):
    x = torch.linspace(-8, 8, 20001, dtype=torch.float64)
    density = (-0.5 * x.square()).exp() / math.sqrt(2 * math.pi)
    moment = torch.trapezoid(density * activation.function(x).square(), x)
    assert activation.gain**2 * moment.item() == pytest.approx(1, rel=1e-3)


def test_a_block_begins_as_the_identity_and_with_weights_scaled_by_the_depth():
    block = Residual(64, (4, 4), 2, 16, LEAKY, depth=16)
    x = torch.randn(2, 64, 4, 4)
    assert torch.equal(block(x), x)
    assert block.first.weight.std().item() == pytest.approx(LEAKY.gain * 16**-0.25 / math.sqrt(64), rel=0.05)
    assert block.second.weight.shape == (128, 16, 3, 3), "in groups of 16 channels"
    assert block.second.weight.std().item() == pytest.approx(LEAKY.gain * 16**-0.25 / math.sqrt(16 * 9), rel=0.05)


def test_kernels_reach_no_further_than_the_map():
    """A map of one position is of channels alone, which are mixed at once; one of a single row has no rows beside it."""
    point, line = Residual(64, (1, 1), 2, 16, LEAKY, depth=1), Residual(64, (1, 6), 2, 16, LEAKY, depth=1)
    assert point.second.weight.shape == (128, 128, 1, 1)
    assert point.second.weight.std().item() == pytest.approx(LEAKY.gain / math.sqrt(128), rel=0.05)
    assert line.second.weight.shape == (128, 16, 1, 3)
    assert line(torch.randn(2, 64, 1, 6)).shape == (2, 64, 1, 6)


@pytest.mark.parametrize("groups", [1, 2])
def test_of_one_position_a_convolution_is_a_product_of_matrices(groups):
    """It gives what torch's convolution gives, and its gradient's gradient."""
    layer = Convolution(4, 6, (1, 1), groups)
    x = torch.randn(3, 4, 1, 1, requires_grad=True)
    found = []
    for y in (layer(x), torch.nn.functional.conv2d(x, layer.weight, groups=groups)):
        [gradient] = torch.autograd.grad(y.pow(3).sum(), x, create_graph=True)
        found.append((y, gradient, *torch.autograd.grad(gradient.pow(2).sum(), (x, layer.weight))))
    for ours, torchs in zip(*found, strict=True):
        torch.testing.assert_close(ours, torchs)


def test_first_samples_have_unit_variance():
    x = Generator(64, (4, 8, 8), ContextShape(), width=64)(torch.randn(400, 64), Context())
    assert x.std().item() == pytest.approx(1, rel=0.2)


@pytest.mark.parametrize("smooth", [False, True])
def test_a_number_is_of_its_example_alone(smooth):
    critic = shaken(Critic((4, 8, 8), TOKENS, width=8, smooth=smooth))
    x, c = torch.randn(5, 4, 8, 8), context(5)
    torch.testing.assert_close(critic(x[1:3], c[1:3]), critic(x, c)[1:3])


def test_projection_by_hand():
    """What a context changes is its embedding times the features of the map, and nothing else."""
    critic = shaken(Critic((4, 8, 8), TOKENS, width=8))
    seen = []
    critic.features.register_forward_hook(lambda module, inputs, output: seen.append(output))
    x = torch.randn(3, 4, 8, 8)
    one, other = context(3, 1), context(3, 2)
    difference = critic(x, one) - critic(x, other)
    weights = (one.tokens.mean(1) - other.tokens.mean(1)) @ critic.embed.weight.T
    torch.testing.assert_close(difference, (weights * seen[0]).sum(1))
    nothing = critic(x, Context(torch.zeros(3, 1, 5)))
    torch.testing.assert_close(nothing, (seen[0] @ critic.head.weight.T)[:, 0])


def test_tokens_that_a_mask_leaves_out_do_not_count():
    tokens = context(3).tokens
    mask = torch.tensor([[True, False]] * 3)
    critic, generator = Critic((4, 8, 8), TOKENS, width=8), Generator(3, (4, 8, 8), TOKENS, width=8)
    x, noise = torch.randn(3, 4, 8, 8), torch.randn(3, 3)
    for network, given in ((critic, x), (generator, noise)):
        torch.testing.assert_close(network(given, Context(tokens, mask)), network(given, Context(tokens[:, :1])))


def test_a_spectral_critic_has_layers_of_norm_one():
    torch.manual_seed(1)
    critic = Critic((4, 8, 8), TOKENS, width=8, spectral=True)
    for _ in range(50):  # of power iteration
        critic(torch.randn(2, 4, 8, 8), context(2))
    critic.eval()
    layers = [m for m in critic.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    assert len(layers) == 3 * 4 + 4
    for layer in layers:
        assert torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() == pytest.approx(1, rel=0.02)


def test_a_smooth_critic_has_a_second_derivative():
    x = torch.randn(1, 2, 1, 1, requires_grad=True)
    curved = []
    for smooth in (False, True):
        torch.manual_seed(3)
        critic = shaken(Critic((2, 1, 1), ContextShape(), width=8, smooth=smooth))
        hessian = torch.autograd.functional.hessian(lambda x, critic=critic: critic(x, Context()).sum(), x)
        curved.append(hessian.abs().max().item())
    assert curved[0] == 0 and curved[1] > 1e-3
