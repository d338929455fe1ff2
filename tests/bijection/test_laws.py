"""Every bijection inverts and has the log-determinant of its Jacobian; and what each of them is, by hand."""

import math
from functools import partial

import pytest
import torch

from ldm.bijection.actnorm import ActNorm
from ldm.bijection.chain import Chain
from ldm.bijection.conv1x1 import Conv1x1
from ldm.bijection.coupling import Coupling
from ldm.bijection.mask import Checkerboard, Halves
from ldm.bijection.multiscale import Multiscale, levels_of
from ldm.bijection.network import ConvNet, Transformer
from ldm.bijection.squeeze import Squeeze
from ldm.bijection.transform.additive import Additive
from ldm.bijection.transform.affine import Affine
from ldm.bijection.transform.sigmoidal import Sigmoidal
from ldm.bijection.transform.spline import RationalQuadratic
from ldm.types import Context, ContextShape
from tests.bijection.laws import context, hold, stirred

SHAPE = (3, 4, 2)
SMALL = partial(ConvNet, width=8, depth=1)
TOKENS = ContextShape(tokens=6)


def coupling(mask=None, transform=None, network=SMALL, shape=SHAPE) -> Coupling:
    return Coupling(mask or Halves(shape[0]), transform or Affine(), network, shape[1:], TOKENS)


MADE = {
    "actnorm": lambda: ActNorm(3),
    "conv1x1": lambda: Conv1x1(3),
    "squeeze": Squeeze,
    "chain": lambda: Chain([ActNorm(3), coupling(), Conv1x1(3), coupling(Checkerboard(3))]),
    "halves": coupling,
    "halves flipped": lambda: coupling(Halves(3, flip=True)),
    "checkerboard": lambda: coupling(Checkerboard(3)),
    "checkerboard flipped": lambda: coupling(Checkerboard(3, flip=True)),
    "additive": lambda: coupling(transform=Additive()),
    "spline": lambda: coupling(Checkerboard(3), RationalQuadratic(5, 2.0)),
    "sigmoidal": lambda: coupling(transform=Sigmoidal(3)),
    "transformer": lambda: coupling(network=partial(Transformer, width=8, depth=1, heads=2)),
    "multiscale": lambda: Multiscale(
        Chain([Conv1x1(12), coupling(shape=(12, 2, 1))]), coupling(Halves(6, flip=True), shape=(6, 2, 1))
    ),
}


@pytest.mark.parametrize("name", MADE)
def test_it_inverts_and_its_log_determinant_is_the_jacobians(name):
    x, c = 1.5 * torch.randn(3, *SHAPE), context(3)
    hold(stirred(MADE[name](), 0.5), x, c)


@pytest.mark.parametrize("name", ["halves", "checkerboard", "spline", "transformer", "multiscale"])
def test_couplings_begin_as_the_identity_and_take_the_context(name):
    made = MADE[name]()
    x, c = 1.5 * torch.randn(4, *SHAPE), context(4)
    if name != "multiscale":  # whose matrix begins as a rotation
        y, log_det = made(x, c)
        torch.testing.assert_close(y, x, rtol=0, atol=1e-6)
        torch.testing.assert_close(log_det, torch.zeros(4), rtol=0, atol=1e-5)
    stirred(made, 0.5)
    with torch.no_grad():
        other = made(x, Context(tokens=c.tokens + 1, mask=c.mask))[0]
        unseen = made(x, Context(tokens=c.tokens + (~c.mask)[:, :, None], mask=c.mask))[0]
        y = made(x, c)[0]
    assert (other - y).abs().flatten(1).amax(1).min() > 1e-4, "the context moves each example"
    torch.testing.assert_close(unseen, y), "a token that does not count"


def test_a_checkerboard_keeps_the_pixels_of_one_colour_and_nothing_else():
    x, c = torch.randn(2, 3, 4, 2), context(2)
    even = (torch.arange(4)[:, None] + torch.arange(2)) % 2 == 0
    for flip in (False, True):
        moved = (stirred(coupling(Checkerboard(3, flip)), 1.0)(x, c)[0] - x).abs() > 1e-6
        assert not moved[:, :, even != flip].any() and moved[:, :, even == flip].all()


def test_halves_keep_a_half():
    x, c = torch.randn(2, 5, 2, 2), context(2)
    for flip, kept in ((False, slice(0, 2)), (True, slice(2, 5))):
        moved = (stirred(coupling(Halves(5, flip), shape=(5, 2, 2)), 1.0)(x, c)[0] - x).abs() > 1e-6
        assert moved.sum() == 2 * 4 * (2 if flip else 3) and not moved[:, kept].any()
    with pytest.raises(ValueError, match=r"here is 1.*realnvp"):
        Halves(1)


def test_squeeze_by_hand():
    """Rows first: the upper two pixels of each four, then the lower two."""
    y, log_det = Squeeze()(torch.arange(8.0).view(1, 1, 2, 4), Context())
    assert y[0, :, 0].tolist() == [[0, 2], [1, 3], [4, 6], [5, 7]] and log_det.tolist() == [0]


def test_the_half_that_leaves_is_the_one_that_the_last_coupling_moved():
    """`below` sees the first half of the squeezed channels: the upper rows."""

    class Noted(Squeeze):
        def forward(self, x, c):
            seen.append(x)
            return x, x.new_ones(len(x))

        def inverse(self, y, c):
            return y, -y.new_ones(len(y))

    seen: list[torch.Tensor] = []
    x = torch.randn(2, 1, 4, 4)
    y, log_det = Multiscale(Chain([]), Noted())(x, Context())
    assert torch.equal(y, x) and log_det.tolist() == [1, 1]
    torch.testing.assert_close(seen[0], torch.stack([x[:, 0, ::2, ::2], x[:, 0, ::2, 1::2]], 1))


def test_actnorm_begins_with_mean_0_and_variance_1_in_every_channel():
    x = torch.randn(50, 3, 4, 2) * torch.tensor([1.0, 5.0, 0.1]).view(3, 1, 1) + 2
    made = Chain([ActNorm(3), Conv1x1(3), ActNorm(3)])
    y = made.begin(x, Context())
    for part in (y, made.parts[0](x, Context())[0]):
        torch.testing.assert_close(part.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-5)
        torch.testing.assert_close(part.var((0, 2, 3), correction=0), torch.ones(3), rtol=1e-4, atol=0)
    torch.testing.assert_close(made(x, Context())[0], y)
    one = ActNorm(1)
    one.begin(torch.full((4, 1, 2, 2), 7.0), Context())
    assert one(torch.zeros(1, 1, 1, 1), Context())[0].abs() < 7001, "a channel that does not vary"


def test_all_levels_begin_from_what_reaches_them():
    made = Multiscale(Chain([ActNorm(4)]), Multiscale(Chain([ActNorm(8)])))
    x = 3 * torch.randn(50, 1, 4, 4) + 1
    y = made.begin(x, Context())
    torch.testing.assert_close(made(x, Context())[0], y)
    inner = Squeeze()(made.squeeze(y, Context())[0][:, :2], Context())[0]
    torch.testing.assert_close(inner.mean((0, 2, 3)), torch.zeros(8), rtol=0, atol=1e-5)
    torch.testing.assert_close(inner.var((0, 2, 3), correction=0), torch.ones(8), rtol=1e-4, atol=0)


def test_the_convolution_begins_as_a_rotation_and_mixes_channels_of_a_pixel():
    made = Conv1x1(5)
    lower, upper = made.triangles()
    w = (made.permutation @ lower @ upper).detach()
    torch.testing.assert_close(w @ w.T, torch.eye(5), rtol=0, atol=1e-5)
    x = torch.randn(2, 5, 3, 2)
    y, log_det = made(x, Context())
    torch.testing.assert_close(y, torch.einsum("ij,bjhw->bihw", w, x))
    torch.testing.assert_close(log_det, torch.zeros(2), rtol=0, atol=1e-4)
    with torch.no_grad():
        made.log_diagonal.add_(0.5)
    torch.testing.assert_close(made(x, Context())[1], torch.full((2,), 0.5 * 5 * 6), rtol=0, atol=1e-4)


def test_a_convolution_cannot_become_singular():
    made = stirred(Conv1x1(4), 0.1)
    with torch.no_grad():
        made.log_diagonal.fill_(-3.0)
    x = torch.randn(2, 4, 1, 1)
    torch.testing.assert_close(made.inverse(made(x, Context())[0], Context())[0], x, rtol=0, atol=1e-3)


def test_log_determinants_are_of_float32_under_autocast():
    made, x, c = stirred(MADE["chain"](), 0.3), torch.randn(3, *SHAPE), context(3)
    wanted = made(x, c)
    with torch.autocast("cpu", torch.bfloat16):
        y, log_det = made(x, c)
        back = made.inverse(y, c)[0]
    assert y.dtype == log_det.dtype == torch.float32
    torch.testing.assert_close(log_det, wanted[1], rtol=0.05, atol=0.5)
    torch.testing.assert_close(back, x, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "levels"),
    [
        *(((2, 1, 1), 0), ((4, 8, 8), 2), ((1, 28, 28), 2), ((3, 32, 32), 3), ((3, 256, 256), 3)),
        *(((1, 7, 7), 0), ((1, 2, 2), 1), ((4, 2, 2), 0), ((4, 8, 6), 1), ((2, 3, 4), 0)),
    ],
)
def test_levels_follow_the_shape(shape, levels):
    assert levels_of(shape, None) == levels


def test_levels_that_are_not_there_are_refused():
    assert levels_of((1, 28, 28), 2) == 2 and levels_of((4, 8, 8), 0) == 0
    with pytest.raises(ValueError, match=r"levels=3: .*\(1, 28, 28\) can be halved 2 times: take levels=2"):
        levels_of((1, 28, 28), 3)


def test_affine_by_hand():
    """s = 2 tanh(r / 2), so that no parameter makes a slope beyond exp(2)."""
    x, parameters = torch.tensor([3.0, 3.0]), torch.tensor([[1.0, 1e9], [0.5, 0.0]])
    y, log = Affine(2.0).forward(x, parameters)
    s = 2 * math.tanh(0.5)
    torch.testing.assert_close(y, torch.tensor([3 * math.exp(s) + 0.5, 3 * math.exp(2)]))
    torch.testing.assert_close(log, torch.tensor([s, 2.0]))
