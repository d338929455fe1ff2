"""A free probability for each value: of the codes of a vector quantiser, or of the 256 values of an 8-bit pixel.

    codes      p(k) = softmax(l)_k
    pixels     p(x_1 ... x_c) = prod_j softmax(l_j + sum_(i<j) T_ij[x_i])_(x_j)

The channels of a pixel follow each other, as in van den Oord et al. 2016, section 3.1; what a channel says to a later one is a
learnt table T_ij of 256 x 256 logits beside what the network says. Nothing tells this head that 127 lies near 128: it has to
learn it from data, and does with enough of them.

The network is told a learnt vector of each value, and of pixels the value in [-1, 1] beside it. By that number alone a network
hardly tells 253 from 254, and images do: of one digit of MNIST most ink is 253, of the next 252 or 254 (.07 bits a pixel).

Sources:
    van den Oord et al., Pixel Recurrent Neural Networks (2016), arXiv 1601.06759
"""

from __future__ import annotations

from collections.abc import Generator

import torch
from einops import rearrange
from jaxtyping import Float, Int
from pydantic import PositiveInt
from torch import Tensor, nn

from ldm.prior.base import Latents
from ldm.prior.head.base import Bent, Head, StepwiseHead, bent_logits, chosen
from ldm.prior.stepwise import Grid
from ldm.random import Random
from ldm.types import Codes, Image, Latent

LEVELS = 256  # of an 8-bit pixel


def levels_of(x: Image) -> Int[Tensor, "b c h w"]:
    """The 8-bit values of images x in [-1, 1], 0 to 255."""
    return ((x.float() + 1) * ((LEVELS - 1) / 2)).round().long().clamp(0, LEVELS - 1)


def pixels_of(levels: Int[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """8-bit values, 0 to 255, in [-1, 1]."""
    return levels.float() / ((LEVELS - 1) / 2) - 1


class Categorical(Head, StepwiseHead):
    """Logits of codes, or of the 256 values of each channel of a pixel.

    Arguments:
        latents: what is modelled; the prior gives it.
        embedding: width of the vector that the network is told of a value.
    """

    reads = ("codes", "pixels")

    def __init__(self, latents: Latents, embedding: PositiveInt = 64):
        super().__init__(latents)
        self.channels = latents.shape[0] if latents.codes is None else 1
        self.values = latents.codes or LEVELS
        self.embedding = nn.Embedding(self.channels * self.values, embedding)
        self.inputs = self.channels * (embedding if latents.codes is not None else embedding + 1)
        self.outputs = self.channels * self.values
        pairs = self.channels * (self.channels - 1) // 2
        self.tables = nn.ModuleList([nn.Embedding(LEVELS, LEVELS) for _ in range(pairs)])
        for table in self.tables:
            nn.init.zeros_(table.weight)

    def embed(self, z: Latent | Codes) -> Float[Tensor, "b i h w"]:
        values = self._values(z)
        first = self.values * torch.arange(self.channels, device=z.device)  # each channel has vectors of its own
        vectors = rearrange(self.embedding(values + first[:, None, None]), "b c h w e -> b (c e) h w")
        return vectors if self.latents.codes is not None else torch.cat([z.to(vectors), vectors], dim=1)

    def log_prob(
        self, parameters: Float[Tensor, "b o h w"], z: Latent | Codes, random: Random | None = None
    ) -> Float[Tensor, "b h w"]:
        logits = rearrange(parameters, "b (c k) h w -> c (b h w) k", k=self.values)
        values = rearrange(self._values(z), "b c h w -> c (b h w)")
        total = torch.zeros_like(values[0], dtype=torch.float32)
        for j in range(self.channels):
            log_p = self._told(logits[j], values[:j], j).log_softmax(-1)
            total = total + log_p.gather(-1, values[j][:, None])[:, 0]
        return total.view(len(z), *z.shape[-2:])

    def draw(
        self,
        parameters: Float[Tensor, "b o"],
        null: Float[Tensor, "b o"] | None,
        bent: Bent,
        random: Random,
        stream: str,
    ) -> Tensor:
        parts = [None if each is None else each.view(-1, self.channels, self.values) for each in (parameters, null)]
        u, values = random.uniform(stream, (self.channels,)), []
        for j in range(self.channels):
            own, other = (None if each is None else self._told(each[:, j], values, j) for each in parts)
            values.append(chosen(bent_logits(own, other, bent), u[:, j]))
        return values[0] if self.latents.codes is not None else pixels_of(torch.stack(values, dim=1))

    def laws(self, parameters: Float[Tensor, " o"], grid: Grid | None) -> Generator[Tensor, int, Tensor]:
        places = torch.zeros(self.channels, dtype=torch.long, device=parameters.device)
        for j, logits in enumerate(parameters.view(self.channels, 1, self.values)):
            places[j] = yield self._told(logits, places[:j, None], j)[0].softmax(-1)
        if self.latents.codes is not None:
            return places.view(1, 1, 1)
        return pixels_of(places).to(parameters)[None, :, None, None]

    def _values(self, z: Latent | Codes) -> Int[Tensor, "b c h w"]:
        """Codes, or the 8-bit levels of pixels."""
        return z[:, None] if self.latents.codes is not None else levels_of(z)

    def _told(self, logits: Float[Tensor, "n k"], before: Tensor | list[Tensor], j: int) -> Float[Tensor, "n k"]:
        """The logits of channel j, told of the values of those before it, j of (n,)."""
        first = j * (j - 1) // 2
        for i in range(j):
            logits = logits + self.tables[first + i](before[i]).float()
        return logits
