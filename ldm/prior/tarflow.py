"""TarFlow: a normalizing flow whose layers are causal transformers over patches (Zhai et al. 2024).

Tokens are patches x_1 ... x_n. In a layer each number of a token comes from one of y_i by an increasing function f, whose
parameters depend on the tokens before (sections 2.2 and 2.3),

    x_i = f(y_i; theta_i),     theta_i = transformer(x_1 ... x_(i-1), c),     log |dy/dx| = -sum_i log f'(y_i; theta_i),

and the next layer has the tokens in reverse order, so that what one cannot see the other can. The paper's f moves and scales,
x_i = y_i exp(a_i) + m_i; `transform` may be any other of ldm.bijection.transform. Of one whose inverse is searched for it is
y_i = f(x_i; theta_i), so that training searches for nothing. u, what the last layer gives, is standard normal, so the density is
exact:

    log p(x | c) = log N(u; 0, 1) + sum over layers of log |dy/dx|.

A layer is computed at once in this direction and token by token in the other, with the keys and values of the tokens before
(ldm.nn.causal). Here a is bounded (ldm.bijection.transform.affine), where the paper has the exponential of the raw number: a
sample then cannot explode on what training has not seen. A first token has parameters, too, by the context alone.

Noise. The flow is trained on y = x + sigma eps, and what it samples is noisy; one step of Tweedie's formula takes the noise
off (section 2.5):

    x = y + sigma^2 grad_y log p(y | c).

Without noise a flow spends itself on what varies least, and samples badly. So `log_prob` is the density of noisy latents,
exact as such, and that of denoised samples is not known. Guidance moves the parameters of every layer away from those without a
condition (section 2.6, with s = 1 + w): theta_0 + s (theta_c - theta_0).

It fails where layers are few: one affine layer leaves a first token normal. It fails where tokens are of few numbers: what data
keep apart, affine layers tear apart only by steep functions of the few, which they learn slowly; a spline or a mixture of
sigmoids has several modes in one layer. And it needs many tokens' passes for one sample: layers x tokens of them.

Sources:
    Zhai et al., Normalizing Flows Are Capable Generative Models (2024), arXiv 2412.06329
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from einops import rearrange
from jaxtyping import Float
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor, nn

from ldm.bijection.transform.affine import Affine
from ldm.bijection.transform.base import Parameters, Transform
from ldm.nn.causal import CausalTransformer, Places
from ldm.prior.base import Latents, Likelihood, Prior, Terms
from ldm.prior.network.transformer import canvas
from ldm.random import Random
from ldm.types import Context, ContextShape, Latent, Probability


class Layer(nn.Module):
    """One autoregressive layer, in one order or the other. It begins with parameters 0.

    Arguments:
        transformer: numbers of a token to the parameters of as many functions.
        backwards: whether it begins at the last token.
        transform: those functions.
    """

    def __init__(self, transformer: CausalTransformer, backwards: bool, transform: Transform):
        super().__init__()
        self.transformer, self.backwards, self.count = transformer, backwards, transform.count
        if transform.closed:
            self._to_noise, self._to_data = transform.inverse, transform.forward
        else:
            self._to_noise, self._to_data = transform.forward, transform.inverse
        nn.init.zeros_(transformer.head.weight)
        nn.init.zeros_(transformer.head.bias)

    def forward(
        self, x: Float[Tensor, "b n d"], places: Places, c: Context
    ) -> tuple[Float[Tensor, "b n d"], Float[Tensor, " b"]]:
        """y (b, n, d) and log |dy/dx| (b,) of tokens x (b, n, d)."""
        x, places = self._ordered(x), places.reversed() if self.backwards else places
        y, log_slope = self._to_noise(x, self._shaped(self.transformer(x, places, c)))
        return self._ordered(y), log_slope.sum((1, 2))

    @torch.no_grad()
    def inverse(
        self, y: Float[Tensor, "b n d"], places: Places, c: Context, guidance: float = 1.0
    ) -> Float[Tensor, "b n d"]:
        """x (b, n, d) of y (b, n, d), token by token; guided, parameters are so many times as far from those without a
        condition."""
        y, places = self._ordered(y), places.reversed() if self.backwards else places
        guided = guidance != 1 and c.empty is not None
        c = Context.cat([c, c.null()]) if guided else c
        memory = self.transformer.memory(len(y) * (1 + guided), y.shape[1], c)
        x = torch.zeros_like(y)
        for i in range(y.shape[1]):
            before = x[:, max(i - 1, 0), None].repeat(1 + guided, 1, 1)
            parameters = self._shaped(self.transformer(before, places, c, memory))
            if guided:
                own, null = parameters.chunk(2, dim=1)
                parameters = null + guidance * (own - null)
            x[:, i, None] = self._to_data(y[:, i, None], parameters)[0]
        return self._ordered(x)

    def _ordered(self, x: Tensor) -> Tensor:
        return x.flip(1) if self.backwards else x

    def _shaped(self, outputs: Float[Tensor, "b n o"]) -> Parameters:
        """The network's outputs as parameters (p, b, n, d), in float32."""
        return rearrange(outputs.float(), "b n (p d) -> p b n d", p=self.count)


class TarFlow(Prior, Likelihood):
    """A flow of causal transformers, trained under noise.

    Arguments:
        latents, context: what is modelled and what it is given; known when the first stage and the condition are.
        patch: side of the square of z that is one token.
        groups: into how many tokens the channels of a patch are divided, one behind the other; it divides the channels. The
            paper has one; a latent of a single position needs more, for a single token is normal.
        layers: number of autoregressive layers, in alternating order.
        width, depth, heads: of each layer's transformer: width of a token, number of blocks, number of heads.
        transform: how a layer makes a number of another; by default affine with log-scales of at most 3.
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
        transform: Transform | None = None,
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
        numbers, transform = channels // groups * patch**2, transform or Affine(bound=3.0)
        self.width, self.heads = width, heads

        def transformer() -> CausalTransformer:
            outputs = transform.count * numbers
            return CausalTransformer(numbers, outputs, context.tokens, width, depth, heads, dropout=dropout)

        self.layers = nn.ModuleList([Layer(transformer(), bool(i % 2), transform) for i in range(layers)])

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
        return [layer.transformer for layer in self.layers]

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
