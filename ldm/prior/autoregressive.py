"""Autoregressive priors: position after position in row-major order, each given all before it.

    log p(z | c) = sum_i log p(z_i | z_1 ... z_(i-1), c)

is exact whatever the network and the law of one position. Two choices make a prior: the network, which turns what is before a
position into numbers (`pixelcnn`, van den Oord et al. 2016; `transformer`, Sun et al. 2024), and the head, which takes those
for the law of what
stands there: a categorical law over codes or 8-bit pixels, a mixture of discretised logistics over pixels, or over continuous
latents one of Gaussians or a small diffusion (ldm.prior.head). In training all positions are predicted at once; a sample takes
as many steps as there are positions, with what the network remembers of those before (its cache), so that one step costs as
little as one position.

Classifier-free guidance is on logits: l_0 + s (l_c - l_0), of the answer with the condition and of that without (s = 1 changes
nothing), or what that is for densities (ldm.prior.head.base).

It fails by exposure: in training each position follows true ones, in sampling drawn ones, and an error is never taken back.
    What a position cannot see (short reach, small network) it cannot agree with; low temperature then repeats, high
    temperature falls apart.

Sources:
    van den Oord et al., Conditional Image Generation with PixelCNN Decoders (2016), arXiv 1606.05328
    Sun et al., Autoregressive Model Beats Diffusion: Llama for Scalable Image Generation (2024), arXiv 2406.06525
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from ldm.build import Config, is_node
from ldm.prior.base import Latents, Likelihood, Prior, Terms
from ldm.prior.head.base import Bent, Head, StepwiseHead
from ldm.prior.head.categorical import Categorical
from ldm.prior.head.gaussian_mixture import GaussianMixture
from ldm.prior.head.logistic_mixture import LogisticMixture
from ldm.prior.network.base import Network
from ldm.prior.stepwise import Grid, Laws, Stepwise
from ldm.random import Random
from ldm.resolve import resolve
from ldm.types import Codes, Context, ContextShape, Latent, Probability, Reads

_HEADS: dict[Reads, type[Head]] = {"codes": Categorical, "pixels": LogisticMixture, "latents": GaussianMixture}


class Autoregressive(Prior, Likelihood, Stepwise):
    """A network over the positions of z, and the law of one position that it gives the numbers for.

    Arguments:
        latents, context: what is modelled and what it is given; known when the first stage and the condition are.
        network: waits for (inputs, outputs, context): conf/prior/pixelcnn.yaml and transformer.yaml have one each.
        head: waits for the latents and is the law of one position. None takes what fits the first stage: `categorical` over a
            quantiser's codes, `logistic_mixture` over pixels where there is no first stage, else `gaussian_mixture`.
        temperature: below 1, what is rare is drawn more rarely.
        top_k: only so many of the likeliest values are drawn, of codes or pixels; None is all.
        top_p: only the likeliest values that together have this share are drawn; None is all.
        guidance: scale of classifier-free guidance: 1 is the conditional model, 0 the unconditional one; more follows the
            condition more closely, and takes a second row of the network.
    """

    DRAWING: ClassVar = ("temperature", "top_k", "top_p", "guidance")

    def __init__(
        self,
        latents: Latents,
        context: ContextShape,
        network: Callable[..., Network],
        head: Callable[..., Head] | None = None,
        temperature: PositiveFloat = 1.0,
        top_k: PositiveInt | None = None,
        top_p: Probability | None = None,
        guidance: NonNegativeFloat = 1.0,
    ):
        super().__init__(latents, context)
        self.temperature, self.top_k, self.top_p, self.guidance = temperature, top_k, top_p, guidance
        self.reads = latents.kind
        self.head = (head or _HEADS[latents.kind])(latents=latents)
        self.network = network(inputs=self.head.inputs, outputs=self.head.outputs, context=context)
        self.kind = self.head.kind

    @classmethod
    def reading(cls, node: Config, gives: Reads, allowed: tuple[str, ...] | None = None) -> Reads:
        head = node.get("head")
        if not is_node(head):
            return gives
        kind = resolve(head["_target_"], "prior.head", allowed)
        return kind.reading(gives) if issubclass(kind, Head) else gives

    def log_prob(self, z: Latent | Codes, c: Context, random: Random | None = None) -> Float[Tensor, " b"]:
        """log p(z | c) in nats, (b,): of the model as it was trained. Of codes and pixels a probability, of latents a density."""
        return self.head.log_prob(self._told(z, c), z, random).sum((1, 2))

    def held_out(self, z: Latent | Codes, c: Context, random: Random | None) -> dict[str, Float[Tensor, " b"]]:
        """The head's loss of each example, per number."""
        loss = self.head.loss(self._told(z, c), z, random).sum((1, 2))
        return {self.head.objective: loss / self.latents.numbers}

    def loss(self, z: Latent | Codes, c: Context, random: Random | None = None) -> Terms:
        return {name: values.mean() for name, values in self.held_out(z, c, random).items()}

    def _told(self, z: Latent | Codes, c: Context) -> Float[Tensor, "b o h w"]:
        """Of the law of each position, in float32."""
        return self.network(self.head.embed(z), c).float()

    @torch.no_grad()
    def sample(self, shape: tuple[int, ...], c: Context, random: Random | None = None) -> Latent | Codes:
        random = random or Random.fresh(shape[0])
        rows, (height, width) = shape[0], shape[-2:]
        bent = self._bent()
        guided = bent.guidance not in (0, 1) and c.empty is not None
        c = Context.cat([c, c.null()]) if guided else c.null() if bent.guidance == 0 else c
        memory = self.network.memory((2 * rows if guided else rows, height, width), c)
        e = torch.zeros(2 * rows if guided else rows, self.head.inputs, 1, 1, device=random.rows.device)
        z = None
        for i in range(height * width):
            place = (..., slice(i // width, i // width + 1), slice(i % width, i % width + 1))
            parameters = self.network(e, c, memory)[:, :, 0, 0].float()
            parameters, null = parameters.chunk(2) if guided else (parameters, None)
            value = self.head.draw(parameters, null, bent, random, f"position {i}")
            z = value.new_zeros(shape) if z is None else z
            z[place] = value[..., None, None]
            e = self.head.embed(z[place])
            e = torch.cat([e, e]) if guided else e
        return z

    def laws(self, c: Context, grid: Grid | None = None) -> Laws:
        height, width = self.latents.shape[1:]
        memory = self.network.memory((1, height, width), c)
        e = next(self.parameters()).new_zeros(1, self.head.inputs, 1, 1)
        for _ in range(height * width):
            parameters = self.network(e, c, memory)[0, :, 0, 0]
            e = self.head.embed((yield from self.head.laws(parameters, grid)))

    def lawless(self) -> str | None:
        if isinstance(self.head, StepwiseHead):
            return None
        return f"its head, {type(self.head).__name__}, has no law in closed form; train with another prior/head="

    def _bent(self) -> Bent:
        """How samples are drawn; ValueError where a word would have no effect."""
        if not self.head.truncates and (self.top_k is not None or self.top_p is not None):
            raise ValueError(
                f"prior.top_k= and prior.top_p= choose among values, and {type(self.head).__name__} is a density; take "
                "prior.temperature="
            )
        return Bent(self.temperature, self.top_k, self.top_p, self.guidance)

    def networks(self) -> list[nn.Module]:
        return [self.network]

    def asks_null(self) -> bool:
        return self.guidance != 1

    def check_negative(self) -> None:
        if self.guidance <= 1:
            raise ValueError(f"negative= is what guidance above 1 moves away from; here guidance={self.guidance:g}")
