import math
from functools import partial

import pytest
import torch

from ldm.backbone.unet import UNet
from ldm.nn.norm import Rms, Unnormalised
from ldm.nn.resnet import Shuffle, Unshuffle
from ldm.types import Context, ContextShape

tiny = partial(UNet, width=8, multipliers=(1, 2), blocks=1, attention=(False, True), head_width=8)
TOKENS = Context(torch.randn(2, 5, 6), torch.tensor([[True] * 5, [True] * 2 + [False] * 3]))
LOG_SNR = torch.tensor([1.0, -3.0])


def awake(unet):
    """The network past its start at zero."""
    for parameter in unet.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return unet


CASES = {
    "no context": ({}, Context()),
    "tokens": ({}, TOKENS),
    "pooled": ({"pooled_context": True}, TOKENS),
    "drawn": ({"drawn_context": 3}, TOKENS),
    "spatial": ({}, Context(spatial=torch.randn(2, 3, 8, 8))),
    "both": ({"patch": 2}, Context(TOKENS.tokens, TOKENS.mask, torch.randn(2, 3, 8, 8))),
    "rms": ({"norm": Rms, "scale_shift": True}, TOKENS),
    "none": ({"norm": Unnormalised, "middle_attention": False}, TOKENS),
    "shuffles": ({"down": Unshuffle, "up": Shuffle, "blocks": (1, 2)}, TOKENS),
    "checkpointing": ({"checkpointing": True}, TOKENS),
    "deep": ({"depth": 2, "heads": 4}, TOKENS),
}


@pytest.mark.parametrize("case", CASES)
def test_shape_kept_and_gradients_reach_every_parameter(case):
    options, c = CASES[case]
    unet, z = awake(tiny(4, c.shape, **options)), torch.randn(2, 4, 8, 8)
    y = unet(z, LOG_SNR, c)
    assert y.shape == z.shape
    y.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in unet.parameters())


@pytest.mark.parametrize("case", ["tokens", "pooled", "drawn", "spatial"])
def test_time_and_context_matter(case):
    options, c = CASES[case]
    unet, z = awake(tiny(4, c.shape, **options)).eval(), torch.randn(2, 4, 8, 8)
    y = unet(z, LOG_SNR, c)
    assert not torch.allclose(y, unet(z, LOG_SNR + 1, c))
    other = Context(*(None if p is None else p.flip(0) for p in (c.tokens, c.mask, c.spatial)))
    assert not torch.allclose(y, unet(z, LOG_SNR, other))
    torch.testing.assert_close(y[:1], unet(z[:1], LOG_SNR[:1], c[:1]))  # examples do not mix


def test_masked_tokens_are_not_read():
    c = TOKENS
    options = {"pooled_context": True, "drawn_context": 3}
    unet, z = awake(tiny(4, c.shape, **options)), torch.randn(2, 4, 8, 8)
    other = Context(torch.where(c.mask[..., None], c.tokens, 9.0), c.mask)
    torch.testing.assert_close(unet(z, LOG_SNR, c), unet(z, LOG_SNR, other))


def test_starts_at_zero_and_takes_infinite_log_snr():
    unet, z = tiny(4, ContextShape()), torch.randn(2, 4, 8, 8)
    assert unet(z, LOG_SNR, Context()).abs().max() == 0
    assert awake(unet)(z, torch.tensor([math.inf, -math.inf]), Context()).isfinite().all()


def test_checkpointing_changes_memory_and_nothing_else():
    z, results, kept = torch.randn(2, 4, 8, 8), [], []
    for checkpointing in (False, True):
        unet, sizes = tiny(4, ContextShape(6), checkpointing=checkpointing), []
        torch.manual_seed(0)
        awake(unet)

        def count(x, sizes=sizes):
            sizes.append(x.numel())
            return x

        with torch.autograd.graph.saved_tensors_hooks(count, lambda x: x):
            y = unet(z, LOG_SNR, TOKENS)
        kept.append(sum(sizes))
        y.square().sum().backward()
        results.append([y.detach(), *(p.grad for p in unet.parameters())])
    torch.testing.assert_close(results[0], results[1])
    assert kept[1] < 0.5 * kept[0]


def test_odd_channels_and_other_sizes():
    for channels in (1, 3, 5):
        unet = awake(tiny(channels, ContextShape()))
        z = torch.randn(1, channels, 6, 10)
        assert unet(z, LOG_SNR[:1], Context()).shape == z.shape


def test_half_precision_runs():
    unet, z = awake(tiny(4, ContextShape(6), pooled_context=True)), torch.randn(2, 4, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        y = unet(z, LOG_SNR, TOKENS)
    torch.testing.assert_close(y.float(), unet(z, LOG_SNR, TOKENS), atol=0.1 * y.abs().max().item(), rtol=0.1)


def test_wrong_shapes_are_refused_with_what_to_do():
    unet = tiny(4, ContextShape(6), patch=2)
    with pytest.raises(ValueError, match=r"multiples of 4 .*got \(2, 4, 10, 8\); nearest sides: 8 or 12"):
        unet(torch.randn(2, 4, 10, 8), LOG_SNR, TOKENS)
    with pytest.raises(ValueError, match=r"takes \(b, 4, h, w\)"):
        unet(torch.randn(2, 3, 8, 8), LOG_SNR, TOKENS)
    with pytest.raises(ValueError, match=r"tokens=6.*tokens=None"):
        unet(torch.randn(2, 4, 8, 8), LOG_SNR, Context())
    with pytest.raises(ValueError, match="one entry a level"):
        UNet(4, ContextShape(), multipliers=(1, 2), attention=(True,))


def test_without_tokens_there_is_nothing_to_pool_or_draw():
    """The word of an experiment with captions does not stand in the way of condition=none."""
    torch.manual_seed(0)
    plain = awake(tiny(4, ContextShape()))
    torch.manual_seed(0)
    asked = awake(tiny(4, ContextShape(), **{"pooled_context": True, "drawn_context": 3}))
    z = torch.randn(2, 4, 8, 8)
    assert asked.state_dict().keys() == plain.state_dict().keys()
    assert torch.equal(asked(z, LOG_SNR, Context()), plain(z, LOG_SNR, Context()))
