"""Masked networks, sigmoidal functions and autoregressive bijections against autograd's Jacobian and their own inverses."""

import pytest
import torch
from torch.autograd.functional import jacobian

from ldm.bijection.autoregressive import Autoregressive, Reversed
from ldm.bijection.chain import Chain
from ldm.bijection.made import MADE
from ldm.bijection.transform.affine import Affine
from ldm.bijection.transform.sigmoidal import Sigmoidal
from ldm.nn.fixup import SMOOTH
from ldm.types import Context, ContextShape

SHAPE, SIZE = (2, 2, 1), 4
TRANSFORMS = {"maf": Affine(), "naf": Sigmoidal(5)}


def moved(module, amount=0.5):
    """Its weights drawn, so that none is zero."""
    torch.manual_seed(1)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(amount * torch.randn_like(p))
    return module


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]], ids=str)
def test_parameters_depend_on_what_comes_before_alone_and_on_all_of_it(order):
    places = torch.tensor(order)
    network, c = moved(MADE(places, 3, ContextShape(), width=32)), Context()
    found = jacobian(lambda x: network(x[None], c)[:, 0], torch.randn(4)).abs().amax(0)
    for i in range(4):
        for j in range(4):
            assert (found[i, j] > 0) == (places[j] < places[i])


def test_every_number_hears_the_context():
    network, x = moved(MADE(torch.arange(4), 2, ContextShape(3), width=16)), torch.randn(1, 4)
    found = jacobian(lambda tokens: network(x, Context(tokens[None, None]))[:, 0], torch.randn(3)).abs()
    assert (found.amax((0, 2)) > 0).all()


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 0, 4, 3, 1]], ids=str)
@pytest.mark.parametrize("width", [3, 13])
def test_numbers_told_one_after_the_other_have_the_parameters_of_a_whole_pass(order, width):
    """Also where some degrees have no hidden unit."""
    network, x = moved(MADE(torch.tensor(order), 2, ContextShape(3), width=width, depth=3)), torch.randn(6, 5)
    c = Context(torch.randn(6, 1, 3))
    memory, before, whole = network.memory(6, c), torch.full((6, 1), torch.nan), network(x, c)
    for number in torch.tensor(order).argsort().tolist():
        torch.testing.assert_close(network(before, c, memory)[:, :, 0], whole[:, :, number])
        before = x[:, number, None]


def test_weights_begin_by_the_inputs_that_are_kept():
    """An output's sum of squared weights is the gain's square on the average, whether it hears one input or all."""
    [layer] = MADE(torch.arange(5), 2, ContextShape(), width=8000, depth=1).layers
    squares, heard = (layer.weight * layer.kept).square().sum(1), layer.kept.sum(1)
    for count in range(1, 5):
        torch.testing.assert_close(squares[heard == count].mean().item(), SMOOTH.gain**2, rtol=0.2, atol=0)


def test_a_single_number_has_parameters_too():
    network = moved(MADE(torch.arange(1), 2, ContextShape(3)))
    one, two = (network(torch.randn(1, 1), Context(torch.full((1, 1, 3), value))) for value in (0.0, 1.0))
    assert one.shape == (2, 1, 1) and not torch.equal(one, two)


def test_the_mixture_of_sigmoids_by_hand():
    x, parameters = torch.randn(6).double(), torch.randn(9, 6)
    w = parameters[:3].softmax(0)
    limit = torch.tensor(20.0).log()
    a, b = (limit * torch.tanh(parameters[3:6] / limit)).exp(), 10 * torch.tanh(parameters[6:] / 10)
    mixture = (w * torch.sigmoid(a * x + b + torch.tensor([-1.0, 0.0, 1.0])[:, None])).sum(0)
    y, log_slope = Sigmoidal(3).forward(x.float(), parameters)
    torch.testing.assert_close(y.double(), 0.1 * x + torch.logit(mixture), rtol=1e-4, atol=1e-5)
    slope = jacobian(lambda x: Sigmoidal(3).forward(x, parameters)[0].sum(), x.float())
    torch.testing.assert_close(log_slope, slope.log(), rtol=1e-3, atol=1e-4)


def test_it_is_finite_and_invertible_wherever_parameters_are():
    torch.manual_seed(0)
    for scale in (0.0, 1.0, 10.0, 1000.0):
        parameters, x = scale * torch.randn(15, 500), 30 * torch.randn(500)
        y, log_slope = Sigmoidal(5).forward(x, parameters)
        assert y.isfinite().all() and log_slope.isfinite().all() and (log_slope >= torch.tensor(0.1).log() - 1e-5).all()
        back, log_back = Sigmoidal(5).inverse(y, parameters)
        torch.testing.assert_close(back, x, rtol=1e-4, atol=1e-4)
        assert log_back.isfinite().all()


def test_its_inverse_has_the_gradient_of_an_implicit_function():
    torch.manual_seed(0)
    parameters, x = torch.randn(15, 4).requires_grad_(), torch.randn(4)
    y = Sigmoidal(5).forward(x, parameters)[0]
    slope = Sigmoidal(5).forward(x, parameters)[1].exp().detach()
    of_y = torch.autograd.grad(y.sum(), parameters)[0]
    found = torch.autograd.grad(Sigmoidal(5).inverse(y.detach(), parameters)[0].sum(), parameters)[0]
    torch.testing.assert_close(found, -of_y / slope, rtol=1e-3, atol=1e-4)


def made(kind: str) -> Chain:
    parts = [
        Autoregressive(SIZE, TRANSFORMS[kind], ContextShape(3), backwards, width=32) for backwards in (False, True)
    ]
    return moved(Chain(parts), 0.1)


@pytest.mark.parametrize("kind", TRANSFORMS)
def test_the_log_determinant_is_autograds_and_the_inverse_comes_back(kind):
    flow, x, c = made(kind), torch.randn(6, *SHAPE), Context(torch.randn(6, 1, 3))
    for each in (flow, Reversed(flow)):
        y, log_det = each(x, c)
        back, log_back = each.inverse(y, c)
        torch.testing.assert_close(back, x, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(log_back, -log_det, rtol=1e-3, atol=1e-3)
    y, log_det = flow(x, c)
    for row in range(2):
        own = c[row : row + 1]
        matrix = jacobian(lambda x, own=own: flow(x, own)[0], x[row : row + 1]).view(SIZE, SIZE)
        torch.testing.assert_close(log_det[row], torch.linalg.slogdet(matrix)[1], rtol=1e-4, atol=1e-4)
    assert all(
        value.isfinite().all()
        for value in flow.inverse(1.3 * torch.randn(100, *SHAPE), Context(torch.randn(100, 1, 3)))
    )


def test_each_pass_inverts_one_number(monkeypatch):
    flow, sizes = Autoregressive(SIZE, Sigmoidal(5), ContextShape()), []
    own = Sigmoidal.inverse
    monkeypatch.setattr(Sigmoidal, "inverse", lambda self, y, p: sizes.append(tuple(y.shape)) or own(self, y, p))
    flow.inverse(torch.randn(3, *SHAPE), Context())
    assert sizes == [(3,)] * SIZE
