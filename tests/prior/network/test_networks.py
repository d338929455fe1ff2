"""Networks of autoregressive priors: the order by gradients, with no blind spot, and one position at a time with a memory."""

import pytest
import torch

from ldm.prior.network.base import Network
from ldm.prior.network.pixelcnn import PixelCNN
from ldm.prior.network.transformer import Transformer
from ldm.types import Context, ContextShape

H, W = 4, 5


def pixelcnn(context: ContextShape) -> Network:
    return PixelCNN(2, 3, context, width=6, depth=4, reach=1)


def transformer(context: ContextShape) -> Network:
    return Transformer(2, 3, context, width=16, depth=2, heads=2)


@pytest.fixture(params=[pixelcnn, transformer], ids=lambda make: make.__name__)
def network(request) -> Network:
    own = request.param(ContextShape(tokens=3)).double().eval()
    with torch.no_grad():
        for p in own.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return own


def context(rows: int) -> Context:
    return Context(torch.randn(rows, 2, 3).double(), torch.tensor([[True, False]]).expand(rows, 2))


def test_a_position_depends_on_all_before_it_in_row_major_order_and_on_no_other(network):
    """The gated PixelCNN has no blind spot: also what is above and to the right is seen."""
    c, e = context(1), torch.randn(1, 2, H, W).double()
    jacobian = torch.autograd.functional.jacobian(lambda e: network(e, c)[0].flatten(1), e)[:, :, 0]  # (o, n, i, h, w)
    depends = jacobian.abs().amax((0, 2)).flatten(1) > 0
    assert torch.equal(depends, torch.ones(H * W, H * W, dtype=torch.bool).tril(-1))


def test_every_position_depends_on_the_context(network):
    e, c = torch.randn(2, 2, H, W).double(), context(2)
    other = Context(c.tokens + torch.tensor([[1.0], [0.0]]), c.mask)
    with torch.no_grad():
        assert (network(e, other) - network(e, c)).abs().amax(1).min() > 0


@torch.no_grad()
def test_with_a_memory_positions_are_those_of_a_whole_pass(network):
    e, c = torch.randn(3, 2, H, W).double(), context(3)
    memory, before, found = network.memory((3, H, W), c), torch.randn(3, 2, 1, 1).double(), []
    for i in range(H * W):
        found.append(network(before, c, memory))
        before = e[:, :, i // W, i % W, None, None]
    assert all(each.shape == (3, 3, 1, 1) for each in found)
    torch.testing.assert_close(torch.cat(found, dim=2).view(3, 3, H, W), network(e, c))


def test_a_kernel_reaches_as_far_as_it_says():
    """Of two layers with reach 1 a position sees one row (the shift) and two more above it, and two columns beside that."""
    own = PixelCNN(1, 1, ContextShape(), width=4, depth=2, reach=1).double()
    e = torch.randn(1, 1, 7, 7).double().requires_grad_()
    own(e, Context())[0, 0, 5, 3].backward()
    seen = e.grad[0, 0] != 0
    wanted = torch.zeros(7, 7, dtype=torch.bool)
    wanted[2:5, 1:6] = True
    wanted[5, 0:3] = True
    assert torch.equal(seen, wanted)
