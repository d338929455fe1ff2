import math
from functools import partial

import pytest
import torch

from ldm.backbone.mlp import MLP
from ldm.types import Context, ContextShape

tiny = partial(MLP, width=16, depth=2)
TOKENS = Context(torch.randn(2, 5, 6), torch.tensor([[True] * 5, [True] * 2 + [False] * 3]))
LOG_SNR = torch.tensor([1.0, -3.0])


def awake(mlp):
    """The network past its start at zero."""
    for parameter in mlp.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return mlp


@pytest.mark.parametrize("c", [Context(), TOKENS, Context(spatial=torch.randn(2, 3, 2, 4))])
def test_shape_kept_gradients_everywhere_and_everything_matters(c):
    mlp, z = awake(tiny(4, c.shape, sides=(2, 4))), torch.randn(2, 4, 2, 4)
    y = mlp(z, LOG_SNR, c)
    assert y.shape == z.shape
    y.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in mlp.parameters())
    assert not torch.allclose(y, mlp(z, LOG_SNR + 1, c))
    other = Context(*(None if p is None else p.flip(0) for p in (c.tokens, c.mask, c.spatial)))
    assert torch.allclose(y, mlp(z, LOG_SNR, other)) == (c.shape == ContextShape())
    torch.testing.assert_close(y[:1], mlp(z[:1], LOG_SNR[:1], c[:1]))  # examples do not mix
    moved = z.clone()
    moved[0, 3, 1, 3] += 1
    assert ((y - mlp(moved, LOG_SNR, c))[0].abs() > 0).all(), "every number depends on every number"


def test_starts_at_zero_and_takes_infinite_log_snr():
    mlp, z = tiny(2, ContextShape()), torch.randn(2, 2, 1, 1)
    assert mlp(z, LOG_SNR, Context()).abs().max() == 0
    assert awake(mlp)(z, torch.tensor([math.inf, -math.inf]), Context()).isfinite().all()


def test_without_normalisation_a_long_vector_stays_long():
    """Blocks begin as the identity, so the first field is head(silu(stem(z))), by hand; normalised, no scale of z is left."""
    torch.manual_seed(0)
    for normalise in (False, True):
        mlp, z = tiny(2, ContextShape(), normalise=normalise), torch.randn(2, 2, 1, 1)
        torch.nn.init.normal_(mlp.head.weight)
        torch.nn.init.zeros_(mlp.stem.bias)
        x = z.flatten(1) @ mlp.stem.weight.T
        x = (x - x.mean(1, keepdim=True)) / (x.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt() if normalise else x
        wanted = (x * x.sigmoid()) @ mlp.head.weight.T
        torch.testing.assert_close(mlp(z, LOG_SNR, Context()).flatten(1), wanted)


def test_it_learns_a_function_of_point_and_noise_level():
    """F(z, log_snr) = z for one level and -z for the other, from scratch in a second."""
    torch.manual_seed(0)
    mlp, level = tiny(2, ContextShape(), width=32), torch.tensor([4.0, -4.0]).repeat(64)
    optimizer, z = torch.optim.Adam(mlp.parameters(), 1e-2), torch.randn(128, 2, 1, 1)
    for _ in range(100):
        error = (mlp(z, level, Context()) - z * level.sign().view(-1, 1, 1, 1)).square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
    assert error < 0.01


def test_half_precision_runs():
    mlp, z = awake(tiny(4, ContextShape(6))), torch.randn(2, 4, 1, 1)
    with torch.autocast("cpu", torch.bfloat16):
        y = mlp(z, LOG_SNR, TOKENS)
    torch.testing.assert_close(y.float(), mlp(z, LOG_SNR, TOKENS), atol=0.1 * y.abs().max().item(), rtol=0.1)


def test_wrong_shapes_are_refused_with_what_to_do():
    with pytest.raises(ValueError, match=r"takes \(4, 1, 1\) and got \(4, 8, 8\).*backbone.sides=\[8,8\]"):
        tiny(4, ContextShape())(torch.randn(2, 4, 8, 8), LOG_SNR, Context())
    with pytest.raises(ValueError, match=r"tokens=6.*tokens=None"):
        tiny(4, ContextShape(6))(torch.randn(2, 4, 1, 1), LOG_SNR, Context())
    with pytest.raises(ValueError, match=r"spatial=3.*spatial=None"):
        tiny(4, ContextShape(spatial=3))(torch.randn(2, 4, 1, 1), LOG_SNR, Context())


def test_the_whole_is_stem_blocks_and_a_head_behind_norm_and_silu():
    mlp, z = awake(tiny(4, TOKENS.shape, sides=(2, 4))), torch.randn(2, 4, 2, 4)
    pooled = torch.stack([TOKENS.tokens[0].mean(0), TOKENS.tokens[1, :2].mean(0)])
    embedding = torch.nn.functional.silu(mlp.embed_time(mlp.time(LOG_SNR)) + mlp.embed_context(pooled))
    x = mlp.stem(z.flatten(1))
    for block in mlp.blocks:
        x = block(x, embedding)
    wanted = mlp.head(torch.nn.functional.silu(mlp.norm(x))).view(2, 4, 2, 4)
    torch.testing.assert_close(mlp(z, LOG_SNR, TOKENS), wanted)


def test_a_block_is_its_formula():
    """x + out(silu(hidden(norm(x) (1 + scale) + shift)))."""
    block = awake(tiny(2, ContextShape())).blocks[0]
    x, embedding = torch.randn(3, 16), torch.randn(3, 16)
    scale, shift = torch.nn.functional.linear(embedding, block.modulation.weight, block.modulation.bias).chunk(2, 1)
    normed = (x - x.mean(1, keepdim=True)) / (x.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    wanted = x + block.out(torch.nn.functional.silu(block.hidden(normed * (1 + scale) + shift)))
    torch.testing.assert_close(block(x, embedding), wanted)
