"""The adversarial loss of a first stage: a critic of patches against the decoder (Esser et al. 2020, equations 5 to 7).

With the critic D, an image x and its reconstruction y, the losses are

    critic     1/2 mean(max(0, 1 - D(x))) + 1/2 mean(max(0, 1 + D(y)))       (hinge loss)
    generator  -lambda mean(D(y)), with the adaptive weight lambda of ldm.loss.adaptive.

The critic is trained from update `critic_start` on, and the generator has its loss from update `start` on, so that the critic
has learnt something before the generator is trained against it. Both numbers count updates of the model, whatever the number
of optimisers or micro-batches.

Each loss has gradients for its own side only: the parameters of the critic are detached in the loss of the generator, and
the images are detached in the loss of the critic.

Sources:
    Esser et al., Taming Transformers for High-Resolution Image Synthesis (2020), arXiv 2012.09841
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import NonNegativeFloat, NonNegativeInt
from torch import Tensor, nn
from torch.func import functional_call

from ldm.types import Image


class Adversarial(nn.Module):
    """The losses of the generator and of the critic.

    Arguments:
        critic: a network from images (b, c, h, w) to logits of any shape.
        weight: of the generator's loss, on top of the adaptive weight.
        start: the update of the model from which on the generator has this loss.
        critic_start: the update of the model from which on the critic is trained; before `start`.
    """

    def __init__(
        self,
        critic: nn.Module,
        weight: NonNegativeFloat = 0.5,
        start: NonNegativeInt = 5000,
        critic_start: NonNegativeInt = 4000,
    ):
        super().__init__()
        if critic_start >= start:
            raise ValueError(
                f"critic_start={critic_start} is not before start={start}: an untrained critic would judge; "
                "let the critic learn for some updates first"
            )
        self.critic, self.weight, self.start, self.critic_start = critic, weight, start, critic_start

    def generator_loss(self, y: Image) -> Float[Tensor, ""]:
        """-mean(D(y)), without the adaptive weight, with gradients for y alone."""
        frozen = {name: p.detach() for name, p in self.critic.named_parameters()}
        return -functional_call(self.critic, frozen, (y,)).float().mean()

    def critic_loss(self, x: Image, y: Image) -> dict[str, Tensor]:
        """The hinge loss as `critic`, and the mean logits of patches of x as `real` and of y as `fake`."""
        real, fake = self.critic(torch.cat([x, y.detach()]).detach()).float().chunk(2)
        hinge = 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())
        return {"critic": hinge, "real": real.detach().mean(), "fake": fake.detach().mean()}
