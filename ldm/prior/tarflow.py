"""TarFlow: a normalizing flow whose layers are causal transformers over patches (Zhai et al. 2024).

Tokens are patches x_1 ... x_n. A layer moves and scales each by numbers that depend on those before it (sections 2.2 and 2.3),

    y_i = (x_i - m_i) exp(-a_i),     (m_i, a_i) = transformer(x_1 ... x_(i-1), c),     log |dy/dx| = -sum_i a_i,

and the next layer has the tokens in reverse order, so that what one cannot see the other can. u, what the last layer gives, is
standard normal, so the density is exact:

    log p(x | c) = log N(u; 0, 1) + sum over layers of log |dy/dx|.

A layer is computed at once in this direction and token by token in the other, x_i = y_i exp(a_i) + m_i, with the keys and
values of the tokens before (ldm.nn.causal). Here a is bounded, a = limit tanh(raw / limit), where the paper has the
exponential of the raw number: a layer's inverse then cannot explode on what training has not seen. A first token has a shift
and a scale, too, by the context alone.

Noise. The flow is trained on y = x + sigma eps, and what it samples is noisy; one step of Tweedie's formula takes the noise
off (section 2.5):

    x = y + sigma^2 grad_y log p(y | c).

Without noise a flow spends itself on what varies least, and samples badly. So `log_prob` is the density of noisy latents,
exact as such, and that of denoised samples is not known. Guidance moves shift and scale of every layer away from those without
a condition (section 2.6, with s = 1 + w): m_0 + s (m_c - m_0), a_0 + s (a_c - a_0).

It fails where layers are few: one affine layer leaves a first token normal. It needs many tokens' passes for one sample: layers x
tokens of them. And it learns slowly where its first weights do not suit its tokens: of one number only steep maps tear apart what
the data keep apart, and weights that begin three times as large (`gain`) find them sooner; of 16 numbers they slow it down.

Sources:
    Zhai et al., Normalizing Flows Are Capable Generative Models (2024), arXiv 2412.06329
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from einops import rearrange
from jaxtyping import Float
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from ldm.nn.causal import CausalTransformer, Places
from ldm.prior.base import Latents, Likelihood, Prior, Terms
from ldm.prior.network.transformer import canvas
from ldm.random import Random
from ldm.types import Context, ContextShape, Latent, Probability


class Layer(nn.Module):
    """One autoregressive affine layer, in one order or the other. It begins as the identity.

    Arguments:
        network: numbers of a token to twice as many: shifts and raw log-scales.
        backwards: whether it begins at the last token.
        limit: of the log-scales.
        gain: by how much the network's first weights, of its stem and its feed-forwards, are multiplied.
    """

    def __init__(self, network: CausalTransformer, backwards: bool, limit: float, gain: float):
        super().__init__()
        self.network, self.backwards, self.limit = network, backwards, limit
        feeds = (linear for block in network.blocks for linear in (block.feed.to_hidden, block.feed.to_out))
        for linear in (network.stem, *feeds):
            for p in linear.parameters():
                p.data.mul_(gain)
        nn.init.zeros_(network.head.weight)
        nn.init.zeros_(network.head.bias)

    def forward(
        self, x: Float[Tensor, "b n d"], places: Places, c: Context
    ) -> tuple[Float[Tensor, "b n d"], Float[Tensor, " b"]]:
        """y (b, n, d) and log |dy/dx| (b,) of tokens x (b, n, d)."""
        x, places = self._ordered(x), places.reversed() if self.backwards else places
        shift, log_scale = self._affine(self.network(x, places, c))
        return self._ordered((x - shift) * (-log_scale).exp()), -log_scale.sum((1, 2))

    @torch.no_grad()
    def inverse(
        self, y: Float[Tensor, "b n d"], places: Places, c: Context, guidance: float = 1.0
    ) -> Float[Tensor, "b n d"]:
        """x (b, n, d) of y (b, n, d), token by token; guided, shifts and scales are so many times as far from those without a
        condition."""
        y, places = self._ordered(y), places.reversed() if self.backwards else places
        guided = guidance != 1 and c.empty is not None
        c = Context.cat([c, c.null()]) if guided else c
        memory = self.network.memory(len(y) * (1 + guided), y.shape[1], c)
        x = torch.zeros_like(y)
        for i in range(y.shape[1]):
            before = x[:, max(i - 1, 0), None].repeat(1 + guided, 1, 1)
            shift, log_scale = self._affine(self.network(before, places, c, memory))
            if guided:
                pairs = (part.chunk(2) for part in (shift, log_scale))
                shift, log_scale = (null + guidance * (own - null) for own, null in pairs)
            x[:, i, None] = y[:, i, None] * log_scale.exp() + shift
        return self._ordered(x)

    def _ordered(self, x: Tensor) -> Tensor:
        return x.flip(1) if self.backwards else x

    def _affine(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Shifts and log-scales, in float32."""
        shift, raw = numbers.float().chunk(2, dim=-1)
        return shift, self.limit * (raw / self.limit).tanh()


class TarFlow(Prior, Likelihood):
    """A flow of causal transformers, trained under noise.

    Arguments:
        latents, context: what is modelled and what it is given; known when the first stage and the condition are.
        patch: side of the square of z that is one token.
        groups: into how many tokens the channels of a patch are divided, one behind the other; it divides the channels. The
            paper has one; a latent of a single position needs more, for a single token is normal.
        layers: number of autoregressive affine layers, in alternating order.
        width, depth, heads: of each layer's transformer: width of a token, number of blocks, number of heads.
        limit: of the absolute log-scale in each layer.
        gain: by how much the transformers' first weights are larger than PyTorch's; 3 suits tokens of one number.
        noise: sigma, in training, where latents have deviation 1.
        dropout: share of the transformers' activations that are left out in training.
        denoise: whether samples are rid of the noise.
        temperature: deviation of what samples begin from.
        guidance: scale of classifier-free guidance: 1 is the conditional model; more follows the condition more closely, and
            takes a second row of the network.
    """

    DRAWING: ClassVar = ("denoise", "temperature", "guidance")
    kind: Literal["exact"] = "exact"

    def __init__(
        self,
        latents: Latents,
        context: ContextShape,
        patch: PositiveInt = 2,
        groups: PositiveInt = 1,
        layers: PositiveInt = 8,
        width: PositiveInt = 256,
        depth: PositiveInt = 4,
        heads: PositiveInt = 4,
        limit: PositiveFloat = 3.0,
        gain: PositiveFloat = 1.0,
        noise: NonNegativeFloat = 0.1,
        dropout: Probability = 0.0,
        denoise: bool = True,
        temperature: NonNegativeFloat = 1.0,
        guidance: NonNegativeFloat = 1.0,
    ):
        super().__init__(latents, context)
        channels = latents.shape[0]
        if channels % groups:
            raise ValueError(
                f"{channels} channels cannot be divided into groups={groups}; take a divisor of {channels}"
            )
        self.patch, self.groups, self.noise = patch, groups, noise
        self.denoise, self.temperature, self.guidance = denoise, temperature, guidance
        numbers = channels // groups * patch**2
        self.width, self.heads = width, heads

        def network() -> CausalTransformer:
            return CausalTransformer(numbers, 2 * numbers, context.tokens, width, depth, heads, dropout=dropout)

        self.layers = nn.ModuleList([Layer(network(), bool(i % 2), limit, gain) for i in range(layers)])

    @property
    def factor(self) -> int:
        return self.patch

    def loss(self, z: Latent, c: Context, random: Random | None = None) -> Terms:
        random = random or Random.fresh(len(z), z.device)
        y = z + self.noise * random.normal("noise", tuple(z.shape[1:]))
        return {"nll per dimension": -self.log_prob(y, c).mean() / self.latents.numbers}

    def log_prob(self, z: Latent, c: Context, random: Random | None = None) -> Float[Tensor, " b"]:
        """log p(z | c) in nats, (b,), of latents under the noise of training, without guidance."""
        u, log_det = self.to_noise(z, c)
        return log_det - 0.5 * (u.square() + math.log(2 * math.pi)).flatten(1).sum(1)

    def to_noise(self, z: Latent, c: Context) -> tuple[Latent, Float[Tensor, " b"]]:
        """u (b, c, h, w), standard normal for z of the model, and log |du/dz| (b,)."""
        x, places = self._tokens(z.float()), self._places(z)
        total = torch.zeros(len(z), device=z.device)
        for layer in self.layers:
            x, log_det = layer(x, places, c)
            total = total + log_det
        return self._map(x, z.shape[2:]), total

    def from_noise(self, u: Latent, c: Context, guidance: float = 1.0) -> Latent:
        """z (b, c, h, w), as noisy as the training's, of u (b, c, h, w)."""
        x, places = self._tokens(u), self._places(u)
        for layer in reversed(self.layers):
            x = layer.inverse(x, places, c, guidance)
        return self._map(x, u.shape[2:])

    def denoised(self, y: Latent, c: Context) -> Latent:
        """E[x | y, c] by Tweedie's formula, (b, c, h, w), of noisy latents y, where y has the density of the model."""
        with torch.enable_grad():
            y = y.detach().requires_grad_()
            [score] = torch.autograd.grad(self.log_prob(y, c).sum(), y)
        return (y + self.noise**2 * score).detach()

    @torch.no_grad()
    def sample(self, shape: tuple[int, ...], c: Context, random: Random | None = None) -> Latent:
        random = random or Random.fresh(shape[0])
        u = self.temperature * random.normal("prior", tuple(shape[1:]))
        y = self.from_noise(u, c, self.guidance)
        return self.denoised(y, c) if self.denoise else y

    def networks(self) -> list[nn.Module]:
        return [layer.network for layer in self.layers]

    def asks_null(self) -> bool:
        return self.guidance != 1

    def check_negative(self) -> None:
        if self.guidance <= 1:
            raise ValueError(f"negative= is what guidance above 1 moves away from; here guidance={self.guidance:g}")

    def _tokens(self, z: Latent) -> Float[Tensor, "b n d"]:
        sizes = {"p": self.patch, "q": self.patch, "g": self.groups}
        return rearrange(z, "b (g c) (h p) (w q) -> b (h w g) (c p q)", **sizes)

    def _map(self, x: Float[Tensor, "b n d"], sides: tuple[int, ...]) -> Latent:
        sizes = {"p": self.patch, "q": self.patch, "g": self.groups, "h": sides[0] // self.patch}
        return rearrange(x, "b (h w g) (c p q) -> b (g c) (h p) (w q)", **sizes)

    def _places(self, z: Latent) -> Places:
        """Groups of a patch stand beside each other."""
        height, width = (side // self.patch for side in z.shape[2:])
        return canvas(height, width * self.groups, self.width, self.heads, z.device)
