"""The adaptive weight of a critic's verdict (arXiv 2012.09841, equation 7), over the whole batch of an update.

    lambda = weight |grad_L rec| / (|grad_L verdict| + 1e-4)

with gradients at the decoder's last layer L, so that the critic pulls about as hard as the reconstruction does. Norms are
not linear: they are of gradients averaged over ranks and over the parts (micro-batches) in which the batch comes, so
lambda is known with the last part only. The verdict's gradient of the parts before is kept beside that of the other
terms until then, and is added with its weight. A batch in one piece costs nothing of this; each part more costs one
backward pass, and all of them together the memory of one gradient.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn

CLAMP = 1e4


class AdaptiveWeight:
    """Of one update.

    Arguments:
        parameters: what the update moves.
        last_layer: of the decoder, one of them.
        parts: in which the batch comes; each one's backward pass is of the mean over its images, divided by `parts`.
        scaler: of those backward passes, if any.

    Attributes:
        value: lambda, once it is known.
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
        """The weighted verdict of all parts, to minimise with the last one; None before it.

        Called once for each part and before its backward pass.
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


def _ratio(both: Float[Tensor, "2 *layer"]) -> Float[Tensor, ""]:
    """|first| / (|second| + 1e-4), at most 1e4; 0 where not finite."""
    reconstruction, adversarial = both.flatten(1).norm(dim=1)
    return (reconstruction / (adversarial + 1e-4)).nan_to_num(0.0, posinf=CLAMP).clamp(0, CLAMP)


def _mean_over_ranks(x: Tensor) -> Tensor:
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(x)
        x = x / dist.get_world_size()
    return x
