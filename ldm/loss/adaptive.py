"""The adaptive weight of the generator's adversarial loss (Esser et al. 2020, equation 7), over the batch of an update.

    lambda = weight |grad_L reconstruction loss| / (|grad_L adversarial loss| + 1e-4)

with gradients at the decoder's last layer L. So the adversarial loss has about as much influence on the decoder as the
reconstruction loss.

The norms are those of gradients averaged over all ranks and micro-batches, and a norm is not linear in the gradient.
So lambda is known only with the last micro-batch of an update. Until then the gradients of the adversarial loss are
accumulated apart from those of the other terms, and at the end they are added with their weight. With a single micro-batch
this costs nothing; each further one costs a backward pass, and together they cost the memory of one gradient.

Sources:
    Esser et al., Taming Transformers for High-Resolution Image Synthesis (2020), arXiv 2012.09841
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn

CLAMP = 1e4


class AdaptiveWeight:
    """The adaptive weight for one update.

    Arguments:
        parameters: the parameters that the update changes.
        last_layer: the decoder's last layer, one of the parameters.
        parts: number of micro-batches; the backward pass of each is of its mean loss divided by `parts`.
        scaler: the gradient scaler of these backward passes, if there is one.

    Attributes:
        value: lambda, or None before it is known.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        last_layer: nn.Parameter,
        parts: int = 1,
        scaler: torch.amp.GradScaler | None = None,
    ):
        self.parameters, self.last_layer, self.parts, self.scaler = list(parameters), last_layer, parts, scaler
        self.value: Float[Tensor, ""] | None = None
        self._passed = 0
        self._both = torch.zeros((2, *last_layer.shape), device=last_layer.device)
        self._earlier: Float[Tensor, ""] = torch.zeros((), device=last_layer.device)
        self._apart: list[Tensor | None] = [None] * len(self.parameters)

    def __call__(
        self, reconstruction: Float[Tensor, ""], adversarial: Float[Tensor, ""], weight: float
    ) -> Float[Tensor, ""] | None:
        """The weighted adversarial loss of all micro-batches, to be minimised with the last one; None for all before it.

        It has to be called once for each micro-batch, before its backward pass.

        Arguments:
            reconstruction, adversarial: the two losses of the micro-batch.
            weight: a factor of lambda.
        """
        self._passed += 1
        both = [
            torch.autograd.grad(term, self.last_layer, retain_graph=True)[0] for term in (reconstruction, adversarial)
        ]
        self._both += torch.stack(both).float() / self.parts
        if self._passed < self.parts:
            self._keep_apart(adversarial)
            return None
        self.value = weight * _ratio(_mean_over_ranks(self._both))
        for p, gradient in zip(self.parameters, self._apart, strict=True):
            if gradient is not None:
                p.grad = self.value * gradient if p.grad is None else p.grad.add_(self.value * gradient)
        return self.value * (adversarial + self._earlier)

    def _keep_apart(self, adversarial: Float[Tensor, ""]) -> None:
        self._earlier = self._earlier + adversarial.detach()
        part = adversarial / self.parts
        scaled = part if self.scaler is None else self.scaler.scale(part)
        new = torch.autograd.grad(scaled, self.parameters, retain_graph=True, allow_unused=True)
        self._apart = [a if b is None else b if a is None else a.add_(b) for a, b in zip(self._apart, new, strict=True)]


def _ratio(both: Float[Tensor, " 2 *layer"]) -> Float[Tensor, ""]:
    """|first| / (|second| + 1e-4), at most 1e4; 0 where not finite."""
    reconstruction, adversarial = both.flatten(1).norm(dim=1)
    return (reconstruction / (adversarial + 1e-4)).nan_to_num(0.0, posinf=CLAMP).clamp(0, CLAMP)


def _mean_over_ranks(x: Tensor) -> Tensor:
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(x)
        x = x / dist.get_world_size()
    return x
