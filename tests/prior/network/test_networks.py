"""Networks of autoregressive priors: the order by gradients, with no blind spot, and one position at a time with a memory."""

import pytest
import torch
import torch.nn.functional as F

from ldm.prior.network.base import Network
from ldm.prior.network.pixelcnn import Layer, PixelCNN
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
def test_both_stacks_of_a_pixelcnn_are_gated_by_the_context():
    """Equation 4, of the vertical stack; and what its context adds to the horizontal one's halves before their gate."""
    layer, v, s = Layer(2, 1, 3, 0.0).double(), torch.randn(1, 2, 3, 4).double(), torch.randn(1, 3).double()
    above, along = (layer.by_context.weight @ s[0]).chunk(2)
    a, b = (layer.vertical(F.pad(v, (1, 1, 0, 0))) + above[:, None, None]).chunk(2, dim=1)
    down, link = layer.down(v, s)
    torch.testing.assert_close(down, a.tanh() * b.sigmoid())
    torch.testing.assert_close(link - layer.down(v, torch.zeros_like(s))[1], along[:, None, None].expand(1, 4, 2, 4))


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


@pytest.mark.parametrize("readout, rank", [(None, 4), (7, 7)])
@torch.no_grad()
def test_outputs_span_as_many_dimensions_as_are_read_out(readout, rank):
    own = PixelCNN(1, 12, ContextShape(), width=4, depth=2, reach=1, readout=readout).double()
    found = own(torch.randn(1, 1, 6, 6).double(), Context())[0].flatten(1) - own.head[-1].bias[:, None]
    assert torch.linalg.matrix_rank(found) == rank
