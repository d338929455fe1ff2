"""The same weights give the same numbers as zuko's and nflows' layers, where these have them."""

from functools import partial

import pytest
import torch

from ldm.bijection.actnorm import ActNorm
from ldm.bijection.autoregressive import Autoregressive
from ldm.bijection.conv1x1 import Conv1x1
from ldm.bijection.coupling import Coupling
from ldm.bijection.mask import Checkerboard, Halves
from ldm.bijection.network import ConvNet
from ldm.bijection.squeeze import Squeeze
from ldm.bijection.transform.additive import Additive
from ldm.bijection.transform.affine import Affine
from ldm.bijection.transform.sigmoidal import Sigmoidal
from ldm.bijection.transform.spline import RationalQuadratic
from ldm.types import Context, ContextShape
from tests.bijection.laws import stirred

CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def close(ours, theirs) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, **CLOSE)


def both_ways(ours, theirs, x: torch.Tensor) -> None:
    """Against nflows: outputs and log-determinants, there and back."""
    with torch.no_grad():
        y = ours(x, Context())
        close(y, theirs(x))
        close(ours.inverse(y[0], Context()), theirs.inverse(y[0]))


def test_actnorm_is_nflows():
    normalization = pytest.importorskip("nflows.transforms.normalization", reason="the extra `peers`")
    ours, theirs = stirred(ActNorm(3), 0.5), normalization.ActNorm(3).eval()
    with torch.no_grad():
        theirs.log_scale.copy_(ours.log_scale.flatten())
        theirs.shift.copy_((ours.bias * ours.log_scale.exp()).flatten())
    both_ways(ours, theirs, torch.randn(4, 3, 2, 5))


def test_squeeze_is_nflows_but_for_the_order_of_channels():
    """Theirs has the four pixels of a channel one after the other, ours the channels of a pixel."""
    reshape = pytest.importorskip("nflows.transforms.reshape", reason="the extra `peers`")
    x = torch.randn(2, 3, 4, 6)
    theirs = reshape.SqueezeTransform()(x)[0].unflatten(1, (3, 4)).transpose(1, 2).flatten(1, 2)
    assert torch.equal(Squeeze()(x, Context())[0], theirs)


def test_the_convolution_is_nflows():
    """Without the permutation, which theirs has before the matrix and ours behind it; their diagonal is positive."""
    lu = pytest.importorskip("nflows.transforms.lu", reason="the extra `peers`")
    ours, theirs = stirred(Conv1x1(4), 0.3), lu.LULinear(4)
    with torch.no_grad():
        ours.permutation.copy_(torch.eye(4))
        ours.signs.fill_(1)
        theirs.lower_entries.copy_(ours.lower[theirs.lower_indices])
        theirs.upper_entries.copy_(ours.upper[theirs.upper_indices])
        theirs.unconstrained_upper_diag.copy_((ours.log_diagonal.exp() - theirs.eps).expm1().log())
        x = torch.randn(5, 4, 2, 3)
        y, log_det = ours(x, Context())
        rows, of_each = theirs(x.permute(0, 2, 3, 1).reshape(-1, 4))
    torch.testing.assert_close(y.permute(0, 2, 3, 1).reshape(-1, 4), rows, **CLOSE)
    torch.testing.assert_close(log_det, of_each.view(5, -1).sum(1), **CLOSE)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("transform", ["affine", "additive", "spline"])
@pytest.mark.parametrize("mask", ["halves", "checkerboard"])
def test_couplings_are_zukos(mask, transform, flip):
    """On maps of any shape, which zuko takes as one vector: its coupling is given a mask of all numbers and our network."""
    transforms = pytest.importorskip("zuko.transforms", reason="the extra `peers`")
    own = {"affine": Affine(), "additive": Additive(), "spline": RationalQuadratic(5, 2.0)}[transform]
    shape = (4, 2, 3)
    division = {"halves": Halves, "checkerboard": Checkerboard}[mask](4, flip)
    ours = stirred(Coupling(division, own, partial(ConvNet, width=8, depth=1), shape[1:], ContextShape()), 0.5)
    x = torch.randn(3, *shape)
    moved = division.put(torch.zeros(1, *shape), torch.ones(1, division.outputs, 2, 3)).flatten().bool()

    def meta(kept: torch.Tensor):
        """zuko's transform of the moved numbers, with the parameters of our network."""
        whole = torch.zeros(len(kept), moved.numel())
        whole[:, ~moved] = kept
        parameters = ours._asked(whole.view(-1, *shape), Context())
        blank = torch.zeros(len(kept), *shape)
        rows = [division.put(blank, each).flatten(1)[:, moved] for each in parameters]
        if transform != "spline":
            shift, log = (
                (rows[1], own.bound * torch.tanh(rows[0] / own.bound))
                if transform == "affine"
                else (rows[0], 0 * rows[0])
            )
            made = transforms.MonotonicAffineTransform(shift, log)
            made.log_scale, made.scale = log, log.exp()  # theirs is bounded by another curve
        else:
            made = transforms.MonotonicRQSTransform(*torch.zeros(3, 5), bound=2.0)
            knots = own._knots(torch.stack(rows))
            made.horizontal, made.vertical, made.derivatives = (each.movedim(0, -1) for each in knots)
        return transforms.DependentTransform(made, 1)

    peer = transforms.CouplingTransform(meta, ~moved)
    with torch.no_grad():
        y, log_det = ours(x, Context())
        theirs, theirs_log = peer.call_and_ladj(x.flatten(1))
        torch.testing.assert_close(y.flatten(1), theirs, **CLOSE)
        torch.testing.assert_close(log_det, theirs_log, **CLOSE)
        torch.testing.assert_close(peer.inv(y.flatten(1)).view_as(x), ours.inverse(y, Context())[0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("depth", [1, 2])
def test_masked_networks_and_their_splines_are_nflows(depth):
    """Theirs has the parameters of a number one after the other, and slopes of softplus(0) where ours are 1."""
    autoregressive = pytest.importorskip("nflows.transforms.autoregressive", reason="the extra `peers`")
    bins, numbers, width = 5, 4, 12
    own = RationalQuadratic(bins, 2.0)
    ours = stirred(Autoregressive(numbers, own, ContextShape(), width=width, depth=depth), 0.5)
    theirs = autoregressive.MaskedPiecewiseRationalQuadraticAutoregressiveTransform(
        features=numbers,
        hidden_features=width,
        num_bins=bins,
        num_blocks=depth - 1,
        use_residual_blocks=False,
        activation=torch.nn.functional.silu,
        tails="linear",
        tail_bound=2.0,
    )
    net = theirs.autoregressive_net
    for mine, other in zip(
        ours.network.layers, (net.initial_layer, *(each.linear for each in net.blocks)), strict=True
    ):
        assert torch.equal(mine.kept, other.mask)
        other.load_state_dict(mine.state_dict(), strict=False)

    def by_number(rows: torch.Tensor) -> torch.Tensor:
        return rows.unflatten(0, (own.count, numbers)).transpose(0, 1).flatten(0, 1)

    x = 1.5 * torch.randn(20, numbers, 1, 1)
    with torch.no_grad():
        assert torch.equal(by_number(ours.network.head.kept), net.final_layer.mask)
        net.final_layer.weight.copy_(by_number(ours.network.head.weight))
        bias = ours.network.head.bias.unflatten(0, (own.count, numbers)).clone()
        bias[2 * bins :] += torch.tensor(1 - own.min_slope).expm1().log()
        net.final_layer.bias.copy_(by_number(bias.flatten()))
        y, log_det = ours(x, Context())
        theirs_y, theirs_log = theirs(x.flatten(1))
        close((y.flatten(1), log_det), (theirs_y, theirs_log))
        back, log_back = ours.inverse(y, Context())
        their_back, their_log_back = theirs.inverse(y.flatten(1))
        torch.testing.assert_close(back.flatten(1), their_back, rtol=0, atol=1e-4)
        torch.testing.assert_close(log_back, their_log_back, rtol=0, atol=1e-3)


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("transform", ["affine", "sigmoidal"])
def test_autoregressive_flows_are_zukos(transform, backwards):
    """zuko takes the slopes of its monotone functions by autograd, and inverts all numbers in each of its passes."""
    transforms = pytest.importorskip("zuko.transforms", reason="the extra `peers`")
    own, numbers = {"affine": Affine(), "sigmoidal": Sigmoidal(5)}[transform], 4
    ours = stirred(Autoregressive(numbers, own, ContextShape(), backwards, width=12), 1.0)

    def meta(x: torch.Tensor):
        parameters = ours.network(x, Context())
        if transform == "affine":
            log, shift = own._of(parameters)
            made = transforms.MonotonicAffineTransform(shift, log)
            made.log_scale, made.scale = log, log.exp()  # theirs is bounded by another curve
        else:
            made = transforms.MonotonicTransform(lambda x: own.forward(x, parameters)[0])
        return transforms.DependentTransform(made, 1)

    peer, x = transforms.AutoregressiveTransform(meta, numbers), torch.randn(6, numbers, 1, 1)
    with torch.no_grad():
        y, log_det = ours(x, Context())
        theirs, theirs_log = peer.call_and_ladj(x.flatten(1))
        close((y.flatten(1), log_det), (theirs, theirs_log))
        torch.testing.assert_close(peer.inv(y.flatten(1)).view_as(x), ours.inverse(y, Context())[0], rtol=0, atol=1e-4)
