"""Measurement operators: the A of y = A(x) + sigma_y n, where n is standard normal noise.

    mask         A x = x where the mask is 1, and 0 elsewhere (inpainting)
    downsample   A x = the mean of each square of f x f pixels (super-resolution)
    identity     A x = x (denoising)
    composed     A(f(z)) of a function f, as the decoder of a first stage; z is what is then asked for

The first three are linear and have an adjoint, (A x) . y = x . (A^T y), and a pseudo-inverse A^+ = A^T (A A^T)^+, which gives
of all x with A x = y the shortest. A composed operator is not linear where f is not; methods linearise it where they stand,

    A(f(z + d)) = A(f(z)) + H d + O(d^2),

and need the products H d and H^T v, which are derivatives of f forwards and backwards. It has no pseudo-inverse.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ldm.types import Image, Latent


@dataclass(frozen=True)
class Tangent:
    """An operator near one x: A(x + d) = value + forward(d), to first order.

    Fields:
        value: A(x), (b, ...).
        forward: H d of a d like x.
        adjoint: H^T v of a v like A(x).
    """

    value: Tensor
    forward: Callable[[Tensor], Tensor]
    adjoint: Callable[[Tensor], Tensor]


class Operator(ABC):
    """What a measurement sees of an x, without its noise. A new one that is linear derives from `Linear`."""

    @abstractmethod
    def __call__(self, x: Latent) -> Image:
        """A(x), (b, c, h', w'), of x (b, c, h, w), row by row."""

    @abstractmethod
    def at(self, x: Latent) -> Tangent:
        """The operator near x (b, c, h, w)."""


class Linear(Operator):
    """A linear operator with its adjoint and its pseudo-inverse. A new one writes these three."""

    @abstractmethod
    def adjoint(self, y: Image) -> Latent:
        """A^T y, (b, c, h, w), of y (b, c, h', w')."""

    @abstractmethod
    def pseudo_inverse(self, y: Image) -> Latent:
        """A^+ y, (b, c, h, w), of y (b, c, h', w')."""

    def at(self, x: Latent) -> Tangent:
        return Tangent(self(x), self, self.adjoint)


class Identity(Linear):
    """A x = x: the noisy image itself."""

    def __call__(self, x: Latent) -> Image:
        return x

    def adjoint(self, y: Image) -> Latent:
        return y

    def pseudo_inverse(self, y: Image) -> Latent:
        return y


class Mask(Linear):
    """A x = mask x: what is hidden is 0 in y, and whatever y says there is not looked at.

    Arguments:
        mask: 1 where x was measured and 0 where it is hidden, (b, 1, h, w), or (1, 1, h, w) for all rows.
    """

    def __init__(self, mask: Float[Tensor, "m 1 h w"]):
        self.mask = mask

    def __call__(self, x: Latent) -> Image:
        return self.mask * x

    def adjoint(self, y: Image) -> Latent:
        return self.mask * y

    def pseudo_inverse(self, y: Image) -> Latent:
        return self.mask * y


class Downsample(Linear):
    """A x = the mean of each square of `factor` x `factor` pixels.

    Arguments:
        factor: side of the squares, which divides the sides of x.
    """

    def __init__(self, factor: PositiveInt):
        self.factor = factor

    def __call__(self, x: Latent) -> Image:
        if wrong := [side for side in x.shape[2:] if side % self.factor]:
            raise ValueError(f"a side of {wrong[0]} pixels does not divide by the factor {self.factor}")
        return F.avg_pool2d(x, self.factor)

    def adjoint(self, y: Image) -> Latent:
        return self.pseudo_inverse(y) / self.factor**2

    def pseudo_inverse(self, y: Image) -> Latent:
        return y.repeat_interleave(self.factor, 2).repeat_interleave(self.factor, 3)


class Composed(Operator):
    """A(f(z)): a measurement of what a differentiable function makes of z.

    Arguments:
        operator: A.
        function: f, row by row, as the decoder of a first stage.
    """

    def __init__(self, operator: Operator, function: Callable[[Latent], Image]):
        self.operator, self.function = operator, function

    def __call__(self, x: Latent) -> Image:
        return self.operator(self.function(x))

    def at(self, x: Latent) -> Tangent:
        # H^T v is linear in v, and its derivative in v is H: so a second derivative backwards gives H d.
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):  # other attention has no second derivative
            x = x.detach().requires_grad_()
            value = self(x)
            v = torch.zeros_like(value, requires_grad=True)
            back = torch.autograd.grad(value, x, v, create_graph=True)[0]

        def forward(d: Latent) -> Image:
            return torch.autograd.grad(back, v, d, retain_graph=True)[0]

        def adjoint(v: Image) -> Latent:
            return torch.autograd.grad(value, x, v, retain_graph=True)[0]

        return Tangent(value.detach(), forward, adjoint)
