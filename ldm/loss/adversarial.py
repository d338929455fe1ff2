"""The adversarial term of a first stage: a critic of patches against the decoder (arXiv 2012.09841, equations 5 to 7).

    critic     1/2 mean(max(0, 1 - D(x))) + 1/2 mean(max(0, 1 + D(y)))       (hinge)
    generator  -lambda mean(D(y)), with the adaptive weight lambda of `ldm.loss.adaptive`

The critic trains from update `critic_start` on and is heard by the generator from `start` on: first it learns, then it
judges. Both count updates of the model, whatever the number of optimisers or micro-batches.

Each side's loss moves that side alone, by itself and not by a trainer's care: the generator hears a critic whose
parameters are detached, and the critic sees images that are.
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
    """
    Arguments:
        critic: images (b, c, h, w) -> logits of any shape.
        weight: of the generator's term, on top of the adaptive weight.
        start: update of the model from which the critic is heard; `critic_start` from which it learns, not later.
        critic_start: the update from which the critic learns.
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
        """-mean(D(y)), with gradients for y alone."""
        frozen = {name: p.detach() for name, p in self.critic.named_parameters()}
        return -functional_call(self.critic, frozen, (y,)).float().mean()

    def critic_loss(self, x: Image, y: Image) -> dict[str, Tensor]:
        """The hinge loss `critic`, and the mean logits of `real` and reconstructed (`fake`) patches."""
        real, fake = self.critic(torch.cat([x, y.detach()]).detach()).float().chunk(2)
        hinge = 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())
        return {"critic": hinge, "real": real.detach().mean(), "fake": fake.detach().mean()}
