import pytest
import torch

from ldm.nn.attention import Attention, FeedForward, SpatialAttention, SpatialTransformer, TransformerBlock, masked_mean
from ldm.nn.norm import Rms


def by_formula(q, k, v, mask, heads):
    """softmax(q k^T / sqrt(d)) v, head by head; q (n, width), k and v (m, width)."""
    outs = []
    for q_h, k_h, v_h in zip(q.chunk(heads, -1), k.chunk(heads, -1), v.chunk(heads, -1), strict=True):
        scores = q_h @ k_h.T / q_h.shape[-1] ** 0.5
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        outs.append(scores.softmax(-1) @ v_h)
    return torch.cat(outs, -1)


def test_self_attention_is_its_formula():
    attention, x = Attention(8, heads=2, bias=True), torch.randn(2, 5, 8)
    q, k, v = attention.to_qkv(x).chunk(3, -1)
    wanted = torch.stack([attention.to_out(by_formula(q[i], k[i], v[i], None, 2)) for i in range(2)])
    torch.testing.assert_close(attention(x), wanted)


def test_cross_attention_with_a_mask_is_its_formula():
    attention, x, tokens = Attention(8, heads=2, context=6), torch.randn(2, 5, 8), torch.randn(2, 4, 6)
    mask = torch.tensor([[True, True, False, True], [True, False, False, False]])
    k, v = attention.to_kv(tokens).chunk(2, -1)
    q = attention.to_q(x)
    wanted = torch.stack([attention.to_out(by_formula(q[i], k[i], v[i], mask[i], 2)) for i in range(2)])
    torch.testing.assert_close(attention(x, tokens, mask), wanted)


def test_queries_and_keys_are_both_turned():
    """By a rotation whose one angle grows by one from place to place."""
    attention, x, angle = Attention(4, heads=2, bias=True), torch.randn(2, 5, 4), torch.arange(5.0)
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], -1).view(5, 2, 2)
    q, k, v = attention.to_qkv(x).chunk(3, -1)
    q, k = (torch.einsum("nij,bnhj->bnhi", turn, part.unflatten(-1, (2, 2))).flatten(2) for part in (q, k))
    wanted = torch.stack([attention.to_out(by_formula(q[i], k[i], v[i], None, 2)) for i in range(2)])
    rotation = torch.stack([angle.cos(), angle.sin()], -1)[None]
    torch.testing.assert_close(attention(x, rotation=rotation), wanted)


def test_queries_and_keys_have_each_their_own_weights_after_normalising():
    attention, x = Attention(8, heads=2, bias=True, qk_norm=True), torch.randn(2, 5, 8)
    torch.nn.init.normal_(attention.norm_q.weight)
    torch.nn.init.normal_(attention.norm_k.weight)

    def normed(part, weight):
        heads = part.unflatten(-1, (2, 4))
        return (heads / heads.square().mean(-1, keepdim=True).sqrt() * weight).flatten(2)

    q, k, v = attention.to_qkv(x).chunk(3, -1)
    q, k = normed(q, attention.norm_q.weight), normed(k, attention.norm_k.weight)
    wanted = torch.stack([attention.to_out(by_formula(q[i], k[i], v[i], None, 2)) for i in range(2)])
    torch.testing.assert_close(attention(x), wanted)


def test_a_block_is_three_residuals_each_behind_its_norm():
    block, x, tokens = TransformerBlock(8, 2, context=6), torch.randn(2, 5, 8), torch.randn(2, 4, 6)
    for norm in (block.self_norm, block.cross_norm, block.feed_norm):
        torch.nn.init.normal_(norm.weight)
    wanted = x + block.self_attention(block.self_norm(x))
    wanted = wanted + block.cross_attention(block.cross_norm(wanted), tokens)
    wanted = wanted + block.feed(block.feed_norm(wanted))
    torch.testing.assert_close(block(x, tokens), wanted)


def test_masked_tokens_are_not_read():
    block, x, tokens = TransformerBlock(8, 2, context=6), torch.randn(2, 5, 8), torch.randn(2, 4, 6)
    mask = torch.tensor([[True, True, False, False]]).expand(2, 4)
    other = torch.where(mask[..., None], tokens, 99.0)
    torch.testing.assert_close(block(x, tokens, mask), block(x, other, mask))
    torch.testing.assert_close(block(x, tokens, mask), block(x, tokens[:, :2]))


def test_a_mask_of_nothing_gives_no_nan():
    block, tokens = TransformerBlock(8, 2, context=6), torch.randn(2, 4, 6, requires_grad=True)
    y = block(torch.randn(2, 5, 8), tokens, torch.zeros(2, 4, dtype=torch.bool))
    y.sum().backward()
    assert y.isfinite().all() and tokens.grad.isfinite().all()


def test_geglu_is_its_formula():
    feed, x = FeedForward(4), torch.randn(1, 3, 4)
    hidden, gate = feed.to_hidden(x).chunk(2, -1)
    wanted = feed.to_out(hidden * 0.5 * gate * (1 + torch.erf(gate / 2**0.5)))
    torch.testing.assert_close(feed(x), wanted)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_pixels_are_tokens(memory_format):
    """A transformer over pixels commutes with any permutation of them, so no pixel lands in another's place."""
    transformer, attention = SpatialTransformer(8, 2, context=6, norm=Rms), SpatialAttention(8, norm=Rms)
    x, tokens = torch.randn(1, 8, 2, 3).contiguous(memory_format=memory_format), torch.randn(1, 4, 6)
    order = torch.randperm(6)
    for module in (lambda x: transformer(x, tokens), attention):
        moved = module(x.flatten(2)[..., order].unflatten(2, (2, 3)))
        torch.testing.assert_close(moved.flatten(2), module(x).flatten(2)[..., order])


def test_a_transformer_that_starts_as_the_identity():
    transformer, x = SpatialTransformer(8, 2), torch.randn(1, 8, 2, 3)
    assert not torch.allclose(transformer(x), x)
    transformer.start_as_identity()
    assert torch.equal(transformer(x), x)


def test_masked_mean():
    tokens = torch.tensor([[[1.0], [3.0], [8.0]], [[1.0], [3.0], [8.0]], [[1.0], [3.0], [8.0]]])
    mask = torch.tensor([[True, True, False], [True, True, True], [False, False, False]])
    assert masked_mean(tokens, mask).flatten().tolist() == [2, 4, 0]
    assert masked_mean(tokens, None).flatten().tolist() == [4, 4, 4]


def test_heads_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="10 channels cannot have 4 heads"):
        Attention(10, heads=4)
