"""Networks of ours rewritten as equal ones that the classes of diffusers can hold. What has to go goes into linear
maps beside it.

**Whitening.** decode(z) = decoder(W (s z + m) + b) is a decoder of z itself with the first 1x1 convolution W diag(s) and W m +
b. So is the encoder's last one for its two moments: the mean becomes (mean - m) / s and the log-variance falls by 2 log s.
Pipelines of diffusers know one factor of all channels, and this is exact for a mean and a deviation of each channel. (The
log-variance is clamped to [-30, 20] before the one and after the other; no trained encoder comes near.) A decoder of codes looks
for the nearest code first. Of whitened latents it is that of codes (e - m) / s where s is the same in all channels; otherwise
another one may be nearest.

**Noise level.** `LogSnrEmbedding` embeds s = 500 (1 - log SNR / limit), and diffusers' networks an integer step n. On a table
whose log SNR falls by limit / 500 from step to step s is s_0 + n, and with cos(s f) = cos(s_0 f) cos(n f) - sin(s_0 f) sin(n f)
the first linear layer takes the rotation by s_0 f. Which noise levels a sampler visits is its own choice, so the table reaches
over the levels that were trained; it is not the schedule of training.

**Epsilon of normalisation.** diffusers adds 1e-6 to variances before attention, and what a setting says elsewhere. Group
normalisation of x with eps is that of g x with g^2 eps. A U-Net with one eps everywhere is therefore the same as one with 1e-6
everywhere whose feature maps are all g = sqrt(1e-6 / eps) times as large.

**Inverses.** ONNX solves no triangular equations, by which a learnt 1x1 convolution is inverted. Its inverse is a constant.
"""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.autoencoder.autoencoder import Autoencoder
from ldm.autoencoder.quantiser import VectorQuantiser
from ldm.backbone.unet import UNet
from ldm.bijection.conv1x1 import Conv1x1
from ldm.diffusion.denoiser import FARTHEST
from ldm.nn.attention import Attention, SpatialTransformer, TransformerBlock
from ldm.nn.embedding import LogSnrEmbedding, StepEmbedding, frequencies
from ldm.nn.norm import Group
from ldm.nn.resnet import Downsample, ResBlock, Upsample
from ldm.prior.base import Prior
from ldm.types import Context, Latent

_EPS = 1e-6  # that of diffusers before attention
_MOST = 1000  # steps of a table
_ROUND = 100  # of which a table's length is a multiple, so that the usual numbers of sampling steps divide it


@torch.no_grad()
def whitened_inside(autoencoder: Autoencoder) -> Autoencoder:
    """An equal autoencoder whose networks whiten, with latent_mean = 0 and latent_std = 1; ValueError where codes have a
    deviation of each channel."""
    mean, std = autoencoder.latent_mean.double(), autoencoder.latent_std.double()
    own, moments = copy.deepcopy(autoencoder), autoencoder.bottleneck.moments
    weight, bias = _linear(own.decoder.mix, len(mean))
    own.decoder.mix = _convolution(weight * std, weight @ mean + bias, own.decoder.mix)
    weight, bias = _linear(own.encoder.mix, moments * len(mean))
    scale, shift = torch.ones_like(bias), torch.zeros_like(bias)
    scale[: len(mean)], shift[: len(mean)] = 1 / std, -mean / std
    shift[len(mean) :] = -2 * std.log()[: len(bias) - len(mean)]
    own.encoder.mix = _convolution(scale[:, None] * weight, scale * bias + shift, own.encoder.mix)
    if isinstance(own.bottleneck, VectorQuantiser):
        if len(set(std.tolist())) > 1:
            raise ValueError(
                "a decoder of codes that whitens finds other codes where channels have deviations of their own, as here "
                f"{', '.join(f'{each:.3g}' for each in std.tolist())}"
            )
        own.bottleneck.codebook.copy_((own.bottleneck.codebook.double() - mean) / std)
    own.set_statistics(torch.zeros_like(own.latent_mean), torch.ones_like(own.latent_std))
    return own


def _linear(mix: nn.Module, channels: int) -> tuple[Tensor, Tensor]:
    """Weight and bias, in float64, of a 1x1 convolution or of none."""
    if isinstance(mix, nn.Conv2d):
        return mix.weight[:, :, 0, 0].double(), mix.bias.double()
    return torch.eye(channels, dtype=torch.float64), torch.zeros(channels, dtype=torch.float64)


def _convolution(weight: Tensor, bias: Tensor, beside: nn.Module) -> nn.Conv2d:
    made = nn.Conv2d(weight.shape[1], weight.shape[0], 1)
    made.weight.copy_(weight[:, :, None, None])
    made.bias.copy_(bias)
    return made.train(beside.training)


@torch.no_grad()
def stepped(unet: UNet, highest: float, lowest: float) -> UNet:
    """An equal U-Net that takes integer steps, for noise levels from a `highest` log SNR down to a `lowest`; the same where it
    takes steps already.

    Both are rounded so that the table begins and ends within them and its length suits samplers. ValueError where a U-Net has an
    embedding of another kind, or the levels are too few for a table.
    """
    if isinstance(unet.time, StepEmbedding):
        return unet
    if not isinstance(unet.time, LogSnrEmbedding):
        raise ValueError(f"its noise level is embedded by {type(unet.time).__name__}, which is no table's")
    limit = unet.time.limit
    bound = min(limit, FARTHEST)
    last = 500 * (1 - max(lowest, -bound) / limit)
    count = min(_MOST, math.floor(last - 500 * (1 - min(highest, bound) / limit)) + 1)
    count = count // _ROUND * _ROUND or count
    if count < 2:
        raise ValueError(f"log SNR from {highest:g} to {lowest:g} are not the levels of a table")
    first = last - (count - 1)
    made = copy.deepcopy(unet)
    log_snr = limit * (1 - (first + torch.arange(count, dtype=torch.float64)) / 500)
    made.time = StepEmbedding(unet.time.width, tuple(log_snr.tolist()))
    angle = first * frequencies(unet.time.width // 2, 10000.0, torch.device("cpu")).double()
    layer = made.embed_time[0]
    cos, sin = layer.weight.double().cpu().chunk(2, dim=1)
    turned = [cos * angle.cos() + sin * angle.sin(), sin * angle.cos() - cos * angle.sin()]
    layer.weight.copy_(torch.cat(turned, dim=1))
    return made.train(unet.training)


@torch.no_grad()
def with_usual_eps(unet: UNet) -> UNet:
    """An equal U-Net that adds 1e-6 to all variances, of one that adds the same everywhere; the same of any other."""
    norms = [module for module in unet.modules() if isinstance(module, Group)]
    if not any(isinstance(module, SpatialTransformer) for module in unet.modules()) or len({n.eps for n in norms}) != 1:
        return unet
    factor = math.sqrt(_EPS / norms[0].eps)
    made = copy.deepcopy(unet)
    for module in made.modules():
        if isinstance(module, Group):
            module.eps = _EPS
        elif isinstance(module, ResBlock):
            _scale_block(module, factor)
        elif isinstance(module, Downsample | Upsample):
            module.conv.bias.mul_(factor)
        elif isinstance(module, SpatialTransformer):
            _scale(module.to_pixels, factor)
    _scale(made.stem, factor)
    return made


def _scale_block(block: ResBlock, factor: float) -> None:
    _scale(block.conv1, factor)
    _scale(block.conv2, factor)
    if block.embed is not None and not block.scale_shift:
        _scale(block.embed, factor)
    if isinstance(block.shortcut, nn.Conv2d):
        block.shortcut.bias.mul_(factor)


def _scale(linear: nn.Linear | nn.Conv2d, factor: float) -> None:
    linear.weight.mul_(factor)
    linear.bias.mul_(factor)


@torch.no_grad()
def wider(unet: UNet, added: int) -> UNet:
    """An equal U-Net for tokens with further channels, which it does not read."""
    made = copy.deepcopy(unet)
    for module in made.modules():
        if isinstance(module, Attention) and module.to_q is not None:
            own = module.to_kv
            module.to_kv = nn.Linear(own.in_features + added, own.out_features, bias=own.bias is not None)
            module.to_kv.weight.copy_(F.pad(own.weight, (0, added)))
            if own.bias is not None:
                module.to_kv.bias.copy_(own.bias)
    made.context = replace(unet.context, tokens=unet.context.tokens + added)
    return made


@torch.no_grad()
def attending(unet: UNet, tokens: int) -> UNet:
    """An equal U-Net that attends to tokens of this width and adds nothing of them, of one that attends to none."""
    made = copy.deepcopy(unet)
    for block in made.modules():
        if isinstance(block, TransformerBlock):
            width = block.self_norm.weight.numel()
            block.cross_norm = nn.LayerNorm(width)
            block.cross_attention = Attention(width, block.self_attention.heads, tokens)
            _scale(block.cross_attention.to_out, 0.0)
    made.context = replace(unet.context, tokens=tokens)
    return made.train(unet.training)


@torch.no_grad()
def negated(unet: UNet) -> UNet:
    """The U-Net whose output is that of `unet` with the other sign."""
    made = copy.deepcopy(unet)
    _scale(made.head, -1.0)
    return made


class _Inverse(nn.Module):
    """The inverse of a learnt 1x1 convolution as a matrix; of its log-determinant nothing is known."""

    def __init__(self, convolution: Conv1x1):
        super().__init__()
        lower, upper = (triangle.double() for triangle in convolution.triangles())
        self.register_buffer("matrix", (convolution.permutation.double() @ lower @ upper).inverse().float())

    def inverse(self, y: Latent, c: Context) -> tuple[Latent, Tensor]:
        return (self.matrix @ y.flatten(2)).view_as(y), y.new_zeros(y.shape[0])


@torch.no_grad()
def inverted(prior: Prior) -> Prior:
    """A prior that draws the same samples, and nothing else, without solving equations; the same where it solves none."""
    if not any(isinstance(module, Conv1x1) for module in prior.modules()):
        return prior
    made = copy.deepcopy(prior)
    for name, module in list(made.named_modules()):
        if isinstance(module, Conv1x1):
            parent, _, own = name.rpartition(".")
            setattr(made.get_submodule(parent), own, _Inverse(module))
    return made
