"""Autoregressive flows over all numbers of a latent: maf, naf and iaf.

A flow is `layers` autoregressive bijections (`ldm.bijection.autoregressive`), the order of the numbers turned round from one
to the next. With an affine function of each number it is a masked autoregressive flow (Papamakarios et al. 2017), with a
deep sigmoidal one a neural autoregressive flow (Huang et al. 2018), of which a single layer has several modes. A density is
one step a layer, a sample as many small steps as a latent has numbers, together of the work of one pass. `quick_samples` turns
this round: an inverse autoregressive flow (Kingma et al. 2016). It was made for samples of a posterior, whose own densities it
knows as it draws them; by maximum likelihood each update takes as many steps in a row as a latent has numbers, and the gradient
goes back through all of them, which is what makes it fail as a prior of many.

What else makes it fail: a masked network knows nothing of places and has to learn from data alone what a convolution
knows; it has width x numbers weights a layer and overfits.

Sources:
    Papamakarios et al., Masked Autoregressive Flow for Density Estimation (2017), arXiv 1705.07057
    Huang et al., Neural Autoregressive Flows (2018), arXiv 1804.00779
    Kingma et al., Improving Variational Inference with Inverse Autoregressive Flow (2016), arXiv 1606.04934
"""

from __future__ import annotations

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import nn

from ldm.bijection.autoregressive import Autoregressive, Reversed
from ldm.bijection.chain import Chain
from ldm.bijection.made import MADE
from ldm.bijection.transform.base import Transform
from ldm.cost import context_on_meta, flops
from ldm.prior.base import Latents
from ldm.prior.normalizing_flow import NormalizingFlow
from ldm.types import ContextShape


class AutoregressiveFlow(NormalizingFlow):
    """Autoregressive bijections in alternating orders.

    Arguments:
        latents, context: what is modelled and what it is given; known when the first stage and the condition are.
        transform: the monotone function of each number.
        layers: number of bijections.
        width, depth: hidden units and layers of each masked network.
        quick_samples: whether samples take one step a layer and densities one a number, and not the other way round.
        temperature: of the noise in sampling.
    """

    def __init__(
        self,
        latents: Latents,
        context: ContextShape,
        transform: Transform,
        layers: PositiveInt = 4,
        width: PositiveInt = 256,
        depth: PositiveInt = 2,
        quick_samples: bool = False,
        temperature: PositiveFloat = 1.0,
    ):
        parts = [Autoregressive(latents.numbers, transform, context, k % 2 == 1, width, depth) for k in range(layers)]
        chain = Chain(parts)
        super().__init__(latents, context, Reversed(chain) if quick_samples else chain, temperature)

    def networks(self) -> list[nn.Module]:
        return [module for module in self.modules() if isinstance(module, MADE)]

    def flops(self) -> int:
        """Of a density: each network once, whichever direction is asked."""
        z, c = torch.empty(1, self.latents.numbers, device="meta"), context_on_meta(self.context, self.latents.shape)
        return sum(flops(network, z, c)[0] for network in self.networks())
