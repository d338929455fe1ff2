from functools import partial

import pytest
import torch

from ldm.autoencoder.convnet import Decoder, Encoder, Pixels
from ldm.nn.norm import Group, Rms, Unnormalised
from ldm.nn.resnet import ResBlock, Shuffle, Unshuffle

CASES = {
    "published": ({"mix": True}, {"mix": True}),
    "rms": ({"norm": Rms}, {"norm": Rms}),
    "none": ({"norm": Unnormalised, "middle_attention": False}, {"norm": Unnormalised, "middle_attention": False}),
    "shuffles": ({"down": Unshuffle}, {"up": Shuffle}),
    "patch": ({"patch": 2, "multipliers": (1,), "blocks": 0}, {"multipliers": (1, 2), "blocks": (1, 0)}),
    "checkpointing": ({"checkpointing": True}, {"checkpointing": True}),
}


PLAIN = {"width": 8, "multipliers": (1,), "blocks": 0, "middle_attention": False, "mix": True}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("channels", [1, 4])
def test_shapes_and_gradients(case, channels):
    more, less = CASES[case]
    common = {"width": 8, "multipliers": (1, 2), "norm": partial(Group, groups=4)}
    encoder = Encoder(channels, 6, **(common | more))
    decoder = Decoder(channels, 3, **(common | less))
    assert encoder.factor == decoder.factor == 2
    for parameter in [*encoder.parameters(), *decoder.parameters()]:  # past the blocks that begin as the identity
        torch.nn.init.normal_(parameter, std=0.2)
    h = encoder(torch.randn(2, channels, 8, 12))
    assert h.shape == (2, 6, 4, 6)
    image = decoder(h[:, :3] + h[:, 3:])
    assert image.shape == (2, channels, 8, 12)
    image.square().sum().backward()
    for name, parameter in [*encoder.named_parameters(), *decoder.named_parameters()]:
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    assert decoder.last_layer.shape[0] == channels * decoder.patch**2


def test_checkpointing_changes_no_gradient():
    x, gradients = torch.randn(2, 3, 8, 8), []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        encoder = Encoder(3, 4, width=8, multipliers=(1, 2), checkpointing=checkpointing)
        encoder(x).square().sum().backward()
        gradients.append([p.grad for p in encoder.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1])


def test_checkpointing_recomputes_what_it_did_not_keep():
    """In training each block runs a second time in the backward pass; in evaluation once."""
    encoder, calls = Encoder(3, 4, width=8, multipliers=(1, 2), blocks=1, checkpointing=True), []
    for i, block in enumerate(encoder.trunk):
        block.register_forward_pre_hook(lambda *_, i=i: calls.append(i))
    blocks = list(range(len(encoder.trunk)))
    encoder(torch.randn(1, 3, 8, 8)).sum().backward()
    assert calls[: len(blocks)] == blocks and sorted(calls[len(blocks) :]) == blocks
    calls.clear()
    encoder.eval()(torch.randn(1, 3, 8, 8)).sum().backward()
    assert calls == blocks


@torch.no_grad()
@pytest.mark.parametrize("network", [lambda: Encoder(3, 4, **PLAIN), lambda: Decoder(4, 3, **PLAIN)], ids=["in", "out"])
def test_the_way_through_without_blocks_is_written_out(network):
    """Two blocks in the middle, then norm, SiLU and the last convolution."""
    network = network()
    for p in network.parameters():
        p.add_(0.1 * torch.randn_like(p))
    x = torch.randn(2, network.stem.in_channels, 4, 4)
    h = network.stem(x if isinstance(network, Encoder) else network.mix(x))
    for block in network.trunk:
        h = block(h)
    h = network.norm(h)
    h = network.head(h * torch.sigmoid(h))
    torch.testing.assert_close(network(x), network.mix(h) if isinstance(network, Encoder) else h)


def test_blocks_are_counted():
    with pytest.raises(ValueError, match="one entry a level"):
        Encoder(3, 4, width=8, multipliers=(1, 2), blocks=(1, 2, 3))


def test_pixels_have_no_layers():
    x = torch.randn(1, 2, 3, 3)
    assert torch.equal(Pixels(2, 2)(x), x)
    with pytest.raises(TypeError, match="nothing to train"):
        _ = Pixels(2, 2).last_layer
    with pytest.raises(ValueError, match="cannot become a latent of 4"):
        Pixels(2, 4)


def test_patches_of_the_head_are_laid_out_as_they_were_folded():
    """Channel 4 c + 2 i + j of the head is channel c at row i and column j of each patch of 2 x 2."""
    decoder, seen = Decoder(3, 2, **{**PLAIN, "patch": 2}), []
    decoder.head.register_forward_hook(lambda _, __, output: seen.append(output))
    image = decoder(torch.randn(1, 2, 4, 4))
    for c, i, j in ((0, 0, 0), (0, 1, 0), (1, 0, 1), (2, 1, 1)):
        assert torch.equal(image[0, c, i::2, j::2], seen[0][0, 4 * c + 2 * i + j])


def test_norms_are_the_published_ones_where_none_are_said():
    for part in (Encoder(3, 4, **PLAIN), Decoder(3, 4, **PLAIN)):
        assert isinstance(part.norm, Group) and part.norm.eps == 1e-6


def test_residual_blocks_begin_as_the_identity_and_pixel_shuffles_as_repetition():
    """A decoder of patch 2 and one doubling by a shuffle: at first each pixel of the latent's map stands in 4 x 4 equal pixels,
    but for the 3 x 3 convolution of the head between the two shuffles, which looks at neighbours of 2 x 2 cells."""
    decoder = Decoder(1, 3, width=8, multipliers=(1, 2), blocks=(1, 0), middle_attention=False, up=Shuffle, patch=2)
    for block in decoder.trunk:
        if isinstance(block, ResBlock):
            x = torch.randn(2, block.conv1.in_channels, 4, 4)
            torch.testing.assert_close(block(x), block.shortcut(x))
    image = decoder(torch.randn(2, 3, 4, 4))
    cells = image.view(2, 1, 8, 2, 8, 2)
    assert image.shape == (2, 1, 16, 16) and image.std() > 0
    torch.testing.assert_close(cells, cells[:, :, :, :1, :, :1].expand_as(cells))
    shuffle = Shuffle(6, 5)
    cells = shuffle(torch.randn(2, 6, 3, 3)).view(2, 5, 3, 2, 3, 2)
    torch.testing.assert_close(cells, cells[:, :, :, :1, :, :1].expand_as(cells))
    assert len(cells.unique()) == 2 * 5 * 9, "and no two channels are alike"
