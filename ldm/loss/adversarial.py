"""The adversarial term of a first stage: a critic of patches against the decoder (arXiv 2012.09841, equations 5 to 7).

    critic     1/2 mean(max(0, 1 - D(x))) + 1/2 mean(max(0, 1 + D(y)))       (hinge)
    generator  -lambda mean(D(y)),  lambda = weight |grad_L rec| / (|grad_L gen| + 1e-4)

with gradients at the decoder's last layer L, so that the critic pulls about as hard as the reconstruction does. The critic trains
from update `critic_start` on and is heard by the generator from `start` on: first it learns, then it judges.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat, NonNegativeInt
from torch import Tensor, nn

from ldm.types import Image

CLAMP = 1e4


class Adversarial(nn.Module):
    """
    Arguments:
        critic: images (b, c, h, w) -> logits of any shape.
        start: update of the model from which the critic is heard; `critic_start` from which it learns, not later.
    """

    def __init__(
        self, critic: nn.Module, weight: NonNegativeFloat = 0.5, start: NonNegativeInt = 5000, critic_start: NonNegativeInt = 4000
    ):
        super().__init__()
        if critic_start > start:
            raise ValueError(
                f"critic_start={critic_start} is after start={start}: an untrained critic would judge; "
                "let the critic begin first"
            )
        self.critic, self.weight, self.start, self.critic_start = critic, weight, start, critic_start

    def generator(self, y: Image, reconstruction: Tensor, last_layer: nn.Parameter) -> tuple[Tensor, Tensor]:
        """The generator's term and its adaptive weight, for the reconstruction term (a scalar) of the same pass."""
        term = -self.critic(y).float().mean()
        return term, self.weight * adaptive_weight(reconstruction, term, last_layer)

    def critic_loss(self, x: Image, y: Image) -> dict[str, Tensor]:
        """The hinge loss and the mean logits of real and reconstructed patches; `y` is detached here once more."""
        real, fake = self.critic(x).float(), self.critic(y.detach()).float()
        hinge = 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())
        return {"critic": hinge, "real": real.mean(), "fake": fake.mean()}


def adaptive_weight(reconstruction: Tensor, term: Tensor, last_layer: nn.Parameter) -> Tensor:
    """|grad reconstruction| / (|grad term| + 1e-4) at the last layer, at most 1e4, no gradient; 0 where not finite."""
    (wanted,) = torch.autograd.grad(reconstruction, last_layer, retain_graph=True)
    (heard,) = torch.autograd.grad(term, last_layer, retain_graph=True)
    ratio = wanted.float().norm() / (heard.float().norm() + 1e-4)
    return ratio.nan_to_num(0.0, posinf=CLAMP).clamp(0, CLAMP).detach()
