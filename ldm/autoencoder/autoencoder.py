"""The first stage: image x -> latent z -> image, with latents of zero mean and unit variance per channel.

An encoder, a bottleneck and a decoder (arXiv 2112.10752, section 3.1); kinds of autoencoder differ by these parts.
What a prior sees is whitened with the channels' measured mean m and standard deviation s,

    encode(x) = N((mean - m) / s, (std / s)^2),        decode(z) = decoder(s z + m),

so that the noise levels of a diffusion mean the same for every first stage (its section 4.3 with one number a channel
in place of one for all). Training works on the raw latents and never sees m and s.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from pydantic import PositiveInt
from torch import Tensor, nn

from ldm.autoencoder.bottleneck import Bottleneck, Posterior
from ldm.autoencoder.quantiser import VectorQuantiser
from ldm.constructed import Constructed
from ldm.types import Image, Latent


@dataclass(frozen=True)
class Reconstruction:
    """One training pass: the image again, the raw latent, q(z|x) and the bottleneck's loss terms.

    `terms` are per image: kl unweighted; commitment and codebook as they are.
    """

    image: Image
    z: Latent
    posterior: Posterior
    terms: dict[str, Float[Tensor, ""]] = field(default_factory=dict)


class Autoencoder(Constructed, nn.Module):
    """Encoder, bottleneck and decoder for images of one number of channels.

    Arguments:
        image_shape: (c, h, w) of the images. Other sizes work too where they are multiples of `factor`.
        encoder: makes (b, c, h, w) -> (b, latent, h / f, w / f) when called with (channels, latent).
        decoder: makes the way back when called with (channels, latent).
        bottleneck: what becomes of the encoder's output: the latent, or a distribution of it.

    Attributes:
        latent_shape: (c, h, w), the single source of every shape downstream.
        factor: f, between the sides of image and latent.
        latent_mean, latent_std: (c,), the whitening; 0 and 1 until `set_statistics`.
    """

    latent_mean: Float[Tensor, " c"]
    latent_std: Float[Tensor, " c"]

    def __init__(
        self,
        image_shape: tuple[PositiveInt, PositiveInt, PositiveInt],
        encoder: Callable[..., nn.Module],
        decoder: Callable[..., nn.Module],
        bottleneck: Bottleneck,
    ):
        super().__init__()
        image_channels, height, width = image_shape
        channels = bottleneck.channels or image_channels
        self.image_shape = (image_channels, height, width)
        self.encoder = encoder(channels=image_channels, latent=bottleneck.moments * channels)
        self.bottleneck = bottleneck
        self.decoder = decoder(channels=image_channels, latent=channels)
        self.factor: int = self.encoder.factor
        if self.decoder.factor != self.factor:
            raise ValueError(
                f"the encoder divides sides by {self.factor} but the decoder multiplies them by {self.decoder.factor}; "
                "give both the same number of levels and the same patch"
            )
        self.check_size(self.image_shape)
        self.latent_shape = (channels, height // self.factor, width // self.factor)
        self.register_buffer("latent_mean", torch.zeros(channels))
        self.register_buffer("latent_std", torch.ones(channels))

    def encode(self, x: Image) -> Posterior:
        """q(z|x) of the whitened latent."""
        return self.whiten(self.posterior(x))

    def whiten(self, raw: Posterior) -> Posterior:
        """The posterior of the whitened latent, given that of the raw one (which is what a cache keeps)."""
        mean, std = self._whitening()
        return Posterior((raw.mean - mean) / std, raw.std / std)

    def decode(self, z: Latent) -> Image:
        """The image of a whitened latent."""
        mean, std = self._whitening()
        return self.decode_raw(z * std + mean)

    def posterior(self, x: Image) -> Posterior:
        """q(z|x) of the raw latent, before whitening."""
        self.check_size(tuple(x.shape[1:]))
        return self.bottleneck.posterior(self.encoder(x))

    def decode_raw(self, z: Latent) -> Image:
        """The image of a raw latent."""
        return self.decoder(self.bottleneck.restore(z))

    def forward(self, x: Image, noise: Latent) -> Reconstruction:
        """The training pass, on raw latents; `noise` is standard normal, (b, *latent_shape)."""
        self.check_size(tuple(x.shape[1:]))
        coded = self.bottleneck(self.encoder(x), noise)
        return Reconstruction(self.decoder(coded.z), coded.z, coded.posterior, coded.terms)

    def codes(self, x: Image) -> Int[Tensor, "b lh lw"]:
        """The codes of an image, where the bottleneck is a vector quantiser."""
        self.check_size(tuple(x.shape[1:]))
        return self._quantiser().codes(self.encoder(x))

    def decode_codes(self, codes: Int[Tensor, "b lh lw"]) -> Image:
        """The image of codes, where the bottleneck is a vector quantiser."""
        return self.decoder(self._quantiser().lookup(codes))

    def set_statistics(self, mean: Float[Tensor, " c"], std: Float[Tensor, " c"]) -> None:
        """Whiten with these moments of the raw latent's channels, measured over many images."""
        for name, value in (("mean", mean), ("std", std)):
            if value.shape != self.latent_mean.shape or not value.isfinite().all():
                raise ValueError(f"latent {name} must be {len(self.latent_mean)} finite numbers; got {value}")
        if not (std > 0).all():
            raise ValueError(
                f"a latent channel never varies (std {std.tolist()}): the first stage has not been trained"
            )
        self.latent_mean.copy_(mean)
        self.latent_std.copy_(std)

    def check_size(self, shape: tuple[int, ...], times: int = 1) -> None:
        """ValueError where images of (c, h, w) have other channels, or sides that are no multiples of `factor`, or of
        `times` as much where a prior divides the latent's sides further."""
        channels, height, width = shape
        if channels != self.image_shape[0]:
            raise ValueError(
                f"this autoencoder takes images of {self.image_shape[0]} channels; got {channels}: "
                "set the data's mode or build it with that image_shape"
            )
        factor, made_of = self.factor * times, f"this autoencoder's factor {self.factor}"
        if times > 1:
            made_of = f"{factor}, {made_of} times the {times} of the prior over its latents"
        if wrong := dict.fromkeys(side for side in (height, width) if side % factor):
            nearest = ", ".join(f"to {side} is {_nearest(side, factor)}" for side in wrong)
            raise ValueError(
                f"images of {height}x{width} do not divide by {made_of}; the nearest good side {nearest}: resize or pad "
                "the data (data.image_shape in a run)"
            )

    @property
    def last_layer(self) -> nn.Parameter:
        """The decoder's last weight, where an adaptive adversarial weight compares gradients."""
        return self.decoder.last_layer

    def _whitening(self) -> tuple[Tensor, Tensor]:
        return self.latent_mean[:, None, None], self.latent_std[:, None, None]

    def _quantiser(self) -> VectorQuantiser:
        if not isinstance(self.bottleneck, VectorQuantiser):
            raise TypeError(
                f"codes need a vector quantiser as bottleneck; this one is {type(self.bottleneck).__name__}; "
                "try autoencoder=vq_f4"
            )
        return self.bottleneck


def _nearest(side: int, factor: int) -> str:
    below = side // factor * factor
    return " or ".join(str(multiple) for multiple in (below, below + factor) if multiple)
