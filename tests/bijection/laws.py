"""What every bijection promises: it inverts, and its log-determinant is that of autograd's Jacobian."""

import torch
from torch import Tensor, nn

from ldm.bijection.base import Bijection
from ldm.types import Context


def stirred(module: nn.Module, deviation: float = 0.2) -> nn.Module:
    """The module with weights none of which is at a value that hides a mistake."""
    with torch.no_grad():
        for p in module.parameters():
            p.add_(deviation * torch.randn_like(p) / max(1.0, p[0].numel() ** 0.5 if p.ndim > 1 else 1.0))
    return module.eval()


def context(rows: int, width: int = 6) -> Context:
    """Two tokens for each example, of which one counts in the first."""
    mask = torch.ones(rows, 2, dtype=torch.bool)
    mask[0, 1] = False
    return Context(tokens=torch.randn(rows, 2, width), mask=mask)


def jacobian(bijection: Bijection, x: Tensor, c: Context) -> Tensor:
    """log|det| of each example of a batch x, (b,), by autograd."""
    found = []
    for i in range(len(x)):
        row = c[i : i + 1]
        whole = torch.autograd.functional.jacobian(lambda one, row=row: bijection(one, row)[0], x[i : i + 1])
        found.append(torch.linalg.slogdet(whole.reshape(x[i].numel(), -1).double())[1])
    return torch.stack(found)


def hold(bijection: Bijection, x: Tensor, c: Context, atol: float = 1e-4) -> None:
    """Forward and inverse agree, in both orders, and so do their log-determinants with each other and with autograd's."""
    with torch.no_grad():
        y, log_det = bijection(x, c)
        back, log_back = bijection.inverse(y, c)
        other = torch.randn_like(y)
        again = bijection(bijection.inverse(other, c)[0], c)[0]
    assert log_det.shape == log_back.shape == (len(x),) and y.dtype == log_det.dtype == torch.float32
    torch.testing.assert_close(back, x, rtol=0, atol=atol)
    torch.testing.assert_close(again, other, rtol=0, atol=atol)
    torch.testing.assert_close(log_back, -log_det, rtol=1e-5, atol=atol)
    torch.testing.assert_close(jacobian(bijection, x, c), log_det.double(), rtol=1e-4, atol=atol)
