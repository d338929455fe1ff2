import math
from functools import partial

import jaxtyping
import pytest
import torch

from ldm.backbone.dit import DiT
from ldm.backbone.position import Nowhere, Rotary, SinCos
from ldm.backbone.routing import Routing
from ldm.types import Context, ContextShape
from tests.pieces import pieces

tiny = partial(DiT, width=16, depth=2, heads=2)
TOKENS = Context(torch.randn(2, 5, 6), torch.tensor([[True] * 5, [True] * 2 + [False] * 3]))
LOG_SNR = torch.tensor([1.0, -3.0])


def awake(dit):
    """The network past its start at zero."""
    for parameter in dit.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return dit


CASES = {
    "no context": ({}, Context()),
    "tokens": ({}, TOKENS),
    "pooled": ({"pooled_context": True}, TOKENS),
    "pooled alone": ({"pooled_context": True, "cross_attention": False}, TOKENS),
    "spatial": ({}, Context(spatial=torch.randn(2, 3, 8, 8))),
    "both": ({"patch": 4}, Context(TOKENS.tokens, TOKENS.mask, torch.randn(2, 3, 8, 8))),
    "rotary": ({"position": Rotary, "qk_norm": True}, TOKENS),
    "nowhere": ({"position": Nowhere, "patch": 1}, TOKENS),
    "checkpointing": ({"checkpointing": True}, TOKENS),
    "routing": ({"depth": 3, "routing": Routing(), "position": Rotary}, TOKENS),
}


@pytest.mark.parametrize("case", CASES)
def test_shape_kept_and_gradients_reach_every_parameter(case):
    options, c = CASES[case]
    dit, z = awake(tiny(4, c.shape, **options)), torch.randn(2, 4, 8, 8)
    y = dit(z, LOG_SNR, c)
    assert y.shape == z.shape
    y.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in dit.parameters())


@pytest.mark.parametrize("case", ["tokens", "pooled alone", "spatial"])
def test_time_and_context_matter(case):
    options, c = CASES[case]
    dit, z = awake(tiny(4, c.shape, **options)).eval(), torch.randn(2, 4, 8, 8)
    y = dit(z, LOG_SNR, c)
    assert not torch.allclose(y, dit(z, LOG_SNR + 1, c))
    other = Context(*(None if p is None else p.flip(0) for p in (c.tokens, c.mask, c.spatial)))
    assert not torch.allclose(y, dit(z, LOG_SNR, other))
    torch.testing.assert_close(y[:1], dit(z[:1], LOG_SNR[:1], c[:1]))  # examples do not mix


def test_masked_tokens_are_not_read():
    c = TOKENS
    dit, z = awake(tiny(4, c.shape, pooled_context=True)), torch.randn(2, 4, 8, 8)
    other = Context(torch.where(c.mask[..., None], c.tokens, 9.0), c.mask)
    torch.testing.assert_close(dit(z, LOG_SNR, c), dit(z, LOG_SNR, other))


def test_starts_at_zero_and_every_block_as_the_identity():
    dit, z = tiny(4, ContextShape(6)), torch.randn(2, 4, 8, 8)
    assert dit(z, LOG_SNR, TOKENS).abs().max() == 0
    x = torch.randn(2, 16, 16)
    conditioning = (torch.randn(2, 16), TOKENS.tokens, TOKENS.mask)
    assert all(torch.equal(block(x, None, conditioning), x) for block in dit.blocks)
    infinite = torch.tensor([math.inf, -math.inf])
    assert awake(dit)(z, infinite, TOKENS).isfinite().all()


def test_patches_are_where_they_were():
    """With blocks that do nothing, a patch of the output depends on the same patch of the input alone."""
    dit, z = tiny(3, ContextShape(), patch=2), torch.randn(1, 3, 4, 6)
    torch.nn.init.normal_(dit.head.weight)
    other = z.clone()
    other[:, :, 2:4, 4:6] += 1
    changed = (dit(z, LOG_SNR[:1], Context()) - dit(other, LOG_SNR[:1], Context())).abs().amax((0, 1)) > 0
    wanted = torch.zeros(4, 6, dtype=torch.bool)
    wanted[2:4, 4:6] = True
    assert torch.equal(changed, wanted)


@pytest.mark.parametrize("position", pieces("backbone/position"))
def test_only_without_positions_are_pixels_a_set(position):
    """F(permuted z) = permuted F(z) with patch 1 where nothing tells a pixel's place."""
    torch.manual_seed(0)
    dit = awake(tiny(4, ContextShape(6), patch=1, position=pieces("backbone/position")[position]()))
    z, order = torch.randn(2, 4, 3, 4), torch.randperm(12)

    def permuted(x):
        return x.flatten(2)[..., order].unflatten(2, (3, 4))

    moved, wanted = dit(permuted(z), LOG_SNR, TOKENS), permuted(dit(z, LOG_SNR, TOKENS))
    error = ((moved - wanted).norm() / wanted.norm()).item()
    assert error < 1e-5 if position == "none" else error > 1e-2


def test_routing_is_nothing_out_of_training_and_repeats_in_it():
    routed = awake(tiny(4, ContextShape(6), depth=3, routing=Routing(), position=Rotary))
    plain = tiny(4, ContextShape(6), depth=3, position=Rotary)
    plain.load_state_dict(routed.state_dict())
    z, state = torch.randn(2, 4, 8, 8), torch.get_rng_state()
    assert torch.equal(routed.eval()(z, LOG_SNR, TOKENS), plain(z, LOG_SNR, TOKENS))
    assert torch.equal(torch.get_rng_state(), state), "no random number is drawn"
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(routed.train()(z, LOG_SNR, TOKENS))
    assert torch.equal(drawn[0], drawn[1]) and not torch.allclose(drawn[0], drawn[2])


def test_routed_tokens_are_those_that_the_middle_does_not_see():
    """The middle block works on half of the tokens; with it doing nothing, routing changes nothing."""
    dit, seen = awake(tiny(4, ContextShape(), depth=3, routing=Routing(skipped=0.5))), []
    dit.blocks[1].register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].shape[1]))
    z = torch.randn(2, 4, 8, 8)
    dit(z, LOG_SNR, Context())
    dit.blocks[1].start_as_identity()
    torch.testing.assert_close(dit(z, LOG_SNR, Context()), dit.eval()(z, LOG_SNR, Context()))
    assert seen == [8, 8, 16]


@pytest.mark.parametrize("position", [SinCos, Rotary])
def test_checkpointing_changes_memory_and_nothing_else(position):
    z, results, kept = torch.randn(2, 4, 8, 8), [], []
    for checkpointing in (False, True):
        dit, sizes = tiny(4, ContextShape(6), position=position, dropout=0.5, checkpointing=checkpointing), []
        torch.manual_seed(0)
        awake(dit)

        def count(x, sizes=sizes):
            sizes.append(x.numel())
            return x

        with torch.autograd.graph.saved_tensors_hooks(count, lambda x: x):
            y = dit(z, LOG_SNR, TOKENS)
        kept.append(sum(sizes))
        y.square().sum().backward()
        results.append([y.detach(), *(p.grad for p in dit.parameters())])
    torch.testing.assert_close(results[0], results[1])
    assert kept[1] < 0.5 * kept[0]


@pytest.mark.parametrize("position", [SinCos, Rotary])
def test_odd_channels_and_other_sizes(position):
    for channels in (1, 3, 5):
        dit = awake(tiny(channels, ContextShape(), position=position))
        z = torch.randn(1, channels, 6, 10)
        assert dit(z, LOG_SNR[:1], Context()).shape == z.shape


def test_half_precision_runs():
    options = {"pooled_context": True, "qk_norm": True, "position": Rotary, "routing": Routing(), "depth": 3}
    dit, z = awake(tiny(4, ContextShape(6), **options)), torch.randn(2, 4, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        dit(z, LOG_SNR, TOKENS).sum().backward()
        y = dit.eval()(z, LOG_SNR, TOKENS)
    torch.testing.assert_close(y.float(), dit(z, LOG_SNR, TOKENS), atol=0.1 * y.abs().max().item(), rtol=0.1)


def test_it_is_one_graph(monkeypatch):
    """No Python that depends on data, in training with routing and out of it; a hook on the inner block is in it."""
    # Checks of annotations, which only tests make, are no graph; nor is a data class that they have wrapped.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    monkeypatch.setattr(DiT, "check_context", lambda self, c: None)
    dit = awake(tiny(4, ContextShape(6), depth=3, position=Rotary, qk_norm=True, routing=Routing()))
    activations = []
    dit.inner.layer.register_forward_hook(lambda block, inputs, output: activations.append(output))
    z, compiled = torch.randn(2, 4, 8, 8), torch.compile(dit, backend="eager", fullgraph=True)
    assert compiled(z, LOG_SNR, TOKENS).shape == z.shape
    assert len(activations) == 1 and activations[0].requires_grad
    torch.testing.assert_close(compiled.eval()(z, LOG_SNR, TOKENS), dit.eval()(z, LOG_SNR, TOKENS))


def test_what_cannot_be_is_refused_with_what_to_do():
    dit = tiny(4, ContextShape(6), patch=4)
    with pytest.raises(
        ValueError, match=r"DiT takes .* multiples of 4 \(patch\); got \(2, 4, 10, 8\); nearest sides: 8 or 12"
    ):
        dit(torch.randn(2, 4, 10, 8), LOG_SNR, TOKENS)
    with pytest.raises(ValueError, match=r"takes \(b, 4, h, w\)"):
        dit(torch.randn(2, 3, 8, 8), LOG_SNR, TOKENS)
    with pytest.raises(ValueError, match=r"tokens=6.*tokens=None"):
        dit(torch.randn(2, 4, 8, 8), LOG_SNR, Context())
    with pytest.raises(ValueError, match="would ignore its context"):
        tiny(4, ContextShape(6), cross_attention=False)
    with pytest.raises(ValueError, match="there are only 2"):
        tiny(4, ContextShape(), routing=Routing())


@pytest.mark.parametrize("depth, before, after", [(12, None, None), (24, None, None), (4, 1, 1), (6, 2, 0), (5, 0, 2)])
def test_the_inner_block_ends_the_first_third_or_is_the_nearest_that_all_tokens_pass(depth, before, after):
    routing = None if before is None else Routing(before=before, after=after)
    dit = awake(tiny(4, ContextShape(), depth=depth, routing=routing))
    expected = {(12, None): 3, (24, None): 7, (4, 1): 0, (6, 2): 1, (5, 0): 3}[depth, before]
    assert dit.inner.layer is dit.blocks[expected]
    given = []
    dit.inner.layer.register_forward_hook(lambda block, inputs, output: given.append(output))
    dit(torch.randn(2, 4, 8, 8), LOG_SNR, Context())
    assert given[0].shape == (2, 64 // (dit.inner.stride[0] * dit.inner.stride[1]), dit.inner.width)


def test_without_a_block_that_all_tokens_pass_there_is_no_inner_one():
    with pytest.raises(ValueError, match=r"backbone\.routing\.before=1"):
        _ = tiny(4, ContextShape(), depth=3, routing=Routing(before=0, after=0)).inner


def test_routed_tokens_stand_where_they_stood(monkeypatch):
    """The middle block alone on the kept tokens, each turned by the angles of its own place, by hand."""
    torch.manual_seed(0)
    dit = awake(tiny(4, ContextShape(), depth=3, routing=Routing(skipped=0.5), position=Rotary))
    kept = torch.tensor([[9, 2, 15, 4, 0, 7, 11, 6], [3, 1, 14, 12, 8, 5, 10, 13]])
    monkeypatch.setattr(dit.routing, "kept", lambda x: kept)
    z, seen = torch.randn(2, 4, 8, 8), {}
    for i, block in enumerate(dit.blocks):
        block.register_forward_hook(lambda _, given, output, i=i: seen.update({i: (given[0], output, given[2])}))
    dit(z, LOG_SNR, Context())
    rotation, conditioning = dit.places.rotation(4, 4, z.device)[0], seen[1][2]
    wanted = seen[0][1].clone()
    for example in range(2):
        part = wanted[example : example + 1, kept[example]]
        alone = dit.blocks[1]._forward(
            part, rotation[kept[example]][None], conditioning[0][example : example + 1], None, None
        )
        wanted[example, kept[example]] = alone[0]
    torch.testing.assert_close(seen[2][0], wanted)


def test_without_tokens_there_is_nothing_to_pool():
    """The word of an experiment with captions does not stand in the way of condition=none."""
    torch.manual_seed(0)
    plain = awake(tiny(4, ContextShape()))
    torch.manual_seed(0)
    asked = awake(tiny(4, ContextShape(), **{"pooled_context": True}))
    z = torch.randn(2, 4, 8, 8)
    assert asked.state_dict().keys() == plain.state_dict().keys()
    assert torch.equal(asked(z, LOG_SNR, Context()), plain(z, LOG_SNR, Context()))
