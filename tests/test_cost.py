import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ldm.backbone.dit import DiT
from ldm.backbone.mlp import MLP
from ldm.backbone.routing import Routing
from ldm.cost import FlopCounter, backbone_flops, flops
from ldm.nn.attention import Attention
from ldm.types import ContextShape


def test_flops_are_their_closed_form():
    x = torch.empty(2, 5, 8, device="meta")
    assert flops(nn.Linear(8, 3), x)[0] == 2 * 10 * 8 * 3
    # Queries, keys, values and output; then scores and their use, for each pair of tokens.
    assert flops(Attention(8, heads=2), x)[0] == 2 * 10 * 8 * (24 + 8) + 2 * 2 * (2 * 5 * 5 * 8)
    assert flops(nn.Conv2d(3, 4, 3, padding=1), torch.empty(1, 3, 6, 6, device="meta"))[0] == 2 * 36 * 9 * 3 * 4


def test_a_backbone_is_counted_with_its_context():
    own = 2 * (
        3 * 8 + 2 * (8 * 8) + 2 * (8 * 16) + 2 * (8 * 16) + 8 * 3
    )  # stem, told, two blocks' tellings and insides
    own += 2 * 2 * (8 * 16)
    options = {"width": 8, "depth": 2}
    assert backbone_flops(MLP(3, ContextShape(), **options), (3, 1, 1), ContextShape()) == own
    told, mapped = ContextShape(tokens=5), ContextShape(spatial=2)
    assert backbone_flops(MLP(3, told, **options), (3, 1, 1), told) == own + 2 * 5 * 8
    assert backbone_flops(MLP(3, mapped, **options), (3, 1, 1), mapped) == own + 2 * 2 * 8


def test_a_context_counts_as_one_token():
    """Keys and values of one token, then queries, output, scores and their use, in each block of a DiT."""
    told, options = ContextShape(tokens=5), {"width": 8, "depth": 2, "heads": 2, "patch": 1}
    alone = backbone_flops(DiT(3, ContextShape(), **options), (3, 2, 2), ContextShape())
    attended = 2 * 5 * 16 + 2 * 4 * 8 * (8 + 8) + 2 * (2 * 4 * 8)
    assert backbone_flops(DiT(3, told, **options), (3, 2, 2), told) == alone + 2 * attended


def test_counting_leaves_everything_as_it_was():
    """Weights, modes of every part and torch's generator, of a network that draws random numbers in training."""
    net = DiT(4, ContextShape(6), width=16, depth=3, heads=2, dropout=0.5, routing=Routing())
    net.blocks[1].eval()
    before, modes = {k: v.clone() for k, v in net.state_dict().items()}, [m.training for m in net.modules()]
    state = torch.get_rng_state()
    backbone_flops(net, (4, 8, 8), ContextShape(6))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[k], v) and not v.is_meta for k, v in net.state_dict().items())
    assert [m.training for m in net.modules()] == modes and all(p.requires_grad for p in net.parameters())


class Halves(nn.Module):
    """A network that forgets to bring z back to its size."""

    def forward(self, z, log_snr, c):
        return z[..., ::2, ::2]


def test_a_network_whose_output_has_another_shape_is_told_by_shapes_alone():
    with pytest.raises(ValueError, match=r"here \(1, 4, 8, 8\); Halves gave \(1, 4, 4, 4\)"):
        backbone_flops(Halves(), (4, 8, 8), ContextShape())


def test_a_gradient_of_a_gradient_is_counted():
    """As of a penalty on a critic's gradient: forward 3 x 8 x 8, its gradient for x, and the three products of their gradient;
    torch's own counter fails here."""
    layer = nn.Linear(8, 8, bias=False)
    x = torch.rand(3, 8, requires_grad=True)
    with FlopCounter() as counter:
        slope = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)[0]
        slope.square().sum().backward()
    product = 2 * 3 * 8 * 8
    assert counter.total % product == 0 and counter.total >= 5 * product


def test_it_counts_what_torch_counts():
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Flatten(2), Transposed(), Attention(8, heads=2))
    counts = []
    for mode in (FlopCounter(), FlopCounterMode(display=False)):
        with mode:
            network(torch.rand(2, 3, 6, 6)).sum().backward()
        counts.append(mode.total if isinstance(mode, FlopCounter) else mode.get_total_flops())
    assert counts[0] == counts[1] > 0


class Transposed(nn.Module):
    def forward(self, x):
        return x.transpose(1, 2)
