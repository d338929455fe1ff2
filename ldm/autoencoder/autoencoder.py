"""The first stage: image x -> latent z -> image, with latents of zero mean and unit variance per channel.

It consists of an encoder, a bottleneck and a decoder (Rombach et al. 2021, section 3.1); autoencoders of different kinds
differ in these parts. The latents that a prior is trained on are whitened with the measured mean m and standard deviation s
of each channel of the raw latents:

    encode(x) = N((mean - m) / s, (std / s)^2),        decode(z) = decoder(s z + m).

So a noise level of a diffusion model means the same for every first stage. (The paper scales all channels by one number,
section 4.3.) The autoencoder itself is trained on raw latents, and m and s play no part in it.

Sources:
    Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models (2021), arXiv 2112.10752
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from pydantic import PositiveInt
from torch import Tensor, nn

from ldm.autoencoder.bottleneck import Bottleneck, Posterior
from ldm.autoencoder.convnet import Pixels
from ldm.autoencoder.logit import LogitDequantised
from ldm.autoencoder.quantiser import VectorQuantiser
from ldm.constructed import Constructed
from ldm.types import Image, Latent, Reads


@dataclass(frozen=True)
class Reconstruction:
    """The result of a training pass.

    Fields:
        image: the reconstruction, (b, c, h, w).
        z: the raw latent that the decoder was given.
        posterior: q(z|x) of the raw latent.
        terms: loss terms of the bottleneck, summed over a latent and averaged over images: `kl` without its weight,
            `commitment` and `codebook` with theirs.
    """

    image: Image
    z: Latent
    posterior: Posterior
    terms: dict[str, Float[Tensor, ""]] = field(default_factory=dict)


class Autoencoder(Constructed, nn.Module):
    """Encoder, bottleneck and decoder for images of one number of channels.

    Arguments:
        image_shape: (c, h, w) of the images. Images of other sizes can be used, too, where they are multiples of `factor`.
        encoder: called with (channels, latent), makes a network (b, channels, h, w) -> (b, latent, h / f, w / f).
        decoder: called with (channels, latent), makes a network (b, latent, h / f, w / f) -> (b, channels, h, w).
        bottleneck: turns the encoder's output into the latent, or into a distribution of it.

    Attributes:
        latent_shape: (c, h, w) of a latent.
        factor: the factor f between the sides of image and latent.
        latent_mean, latent_std: m and s of the whitening, (c,); 0 and 1 before `set_statistics`.
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
        """The posterior of the whitened latent, given that of the raw latent. Latent caches keep raw ones."""
        return raw.whitened(*self._whitening())

    def kept(self, mean: Latent, std: Latent) -> Posterior:
        """q(z|x) of the whitened latent, of the mean and std of the raw one that a latent cache kept."""
        return self.whiten(self.bottleneck.kept(mean, std))

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
        """The training pass on images x (b, c, h, w), with raw latents; `noise` is standard normal, (b, *latent_shape), or
        (b k, *latent_shape) for k draws of each image, one after the other, and then so are all results."""
        self.check_size(tuple(x.shape[1:]))
        h = self.encoder(x)
        coded = self.bottleneck(h if len(noise) == len(x) else h.repeat_interleave(len(noise) // len(x), 0), noise)
        return Reconstruction(self.decoder(coded.z), coded.z, coded.posterior, coded.terms)

    def codes(self, x: Image) -> Int[Tensor, "b lh lw"]:
        """The codes of images, integers (b, h / f, w / f); TypeError where the bottleneck is no vector quantiser."""
        self.check_size(tuple(x.shape[1:]))
        return self._quantiser().codes(self.encoder(x))

    @property
    def code_count(self) -> int:
        """How many codes there are; TypeError where the bottleneck is no vector quantiser."""
        return len(self._quantiser().codebook)

    def decode_codes(self, codes: Int[Tensor, "b lh lw"]) -> Image:
        """The images of codes (b, h / f, w / f); TypeError where the bottleneck is no vector quantiser."""
        return self.decoder(self._quantiser().lookup(codes))

    def set_statistics(self, mean: Float[Tensor, " c"], std: Float[Tensor, " c"]) -> None:
        """Whiten from now on with this mean and standard deviation, (c,), of the channels of raw latents.

        Raises ValueError where a number is not finite or a standard deviation is 0.
        """
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
        """Raise ValueError where images of shape (c, h, w) have another number of channels, or sides that are not multiples
        of `factor` * `times`; `times` is the factor by which the sides of the latent have to be divisible for the prior."""
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
    def gives(self) -> Reads:
        """What its latents are: the image itself, codes, or neither; logits of an image are neither."""
        if isinstance(self.encoder, Pixels) and not isinstance(self.bottleneck, LogitDequantised):
            return "pixels"
        return "codes" if isinstance(self.bottleneck, VectorQuantiser) else "latents"

    @property
    def last_layer(self) -> nn.Parameter:
        """The decoder's last weight, at which the adaptive adversarial weight compares gradients (ldm.loss.adaptive)."""
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
