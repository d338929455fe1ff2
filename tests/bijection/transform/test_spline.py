"""The rational-quadratic spline is monotone, ends as the identity, and is what its paper and a peer say."""

import pytest
import torch

from ldm.bijection.transform.spline import RationalQuadratic


def drawn(spline: RationalQuadratic, *shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Numbers inside and outside of the square, and parameters for them."""
    return 1.5 * spline.bound * (2 * torch.rand(shape) - 1), 2 * torch.randn(spline.count, *shape)


@pytest.mark.parametrize("bins", [1, 2, 8])
@pytest.mark.parametrize(("dtype", "spread"), [(torch.float32, 0.5), (torch.float64, 2.0)])
def test_it_inverts_and_its_slope_is_the_derivative(bins, dtype, spread):
    """Where a spline is nearly flat, float32 no longer says where on it a number came from: there it is float64's affair."""
    spline = RationalQuadratic(bins, 2.0)
    x, parameters = (each.to(dtype) for each in drawn(spline, 500, 3))
    parameters = parameters * spread / 2
    x.requires_grad_()
    y, log = spline.forward(x, parameters)
    [slope] = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(log, slope.log(), rtol=1e-4, atol=1e-4)
    back, log_back = spline.inverse(y, parameters)
    torch.testing.assert_close(back, x, rtol=0, atol=1e-4)
    torch.testing.assert_close(log_back, -log, rtol=1e-3, atol=1e-3)


def test_it_is_the_identity_with_parameters_0_and_outside():
    spline = RationalQuadratic(5, 2.0)
    x, parameters = drawn(spline, 1000)
    y, log = spline.forward(x, torch.zeros_like(parameters))
    torch.testing.assert_close(y, x, rtol=0, atol=1e-5)
    torch.testing.assert_close(log, torch.zeros_like(x), rtol=0, atol=1e-5)
    for one, way in (spline.forward(x, parameters), 1), (spline.inverse(x, parameters), -1):
        outside = x.abs() >= 2
        assert torch.equal(one[0][outside], x[outside]) and not one[1][outside].any(), way
    at = torch.tensor([-2.0, 2.0])
    ends = spline.forward(at.sign() * 1.99999, parameters[:, :2])
    torch.testing.assert_close(ends[0], at, rtol=0, atol=1e-3), "no jump at the ends"
    torch.testing.assert_close(ends[1], torch.zeros(2), rtol=0, atol=0.1), "nor of the slope"


def test_a_bin_by_hand():
    """Two bins of equal width and heights 1 and 3 of a square of side 4, slope d at the middle knot; without least values.

    At the middle of the left bin xi = 1/2, s = 1/2, and equation 4 gives
    y = -2 + (s / 4 + d_0 / 4) / (s + (d_1 + d_0 - 2 s) / 4).
    """
    spline = RationalQuadratic(2, 2.0, 1e-9, 1e-9, 1e-9)
    d = 3.0
    raw = torch.tensor([0.0, 0.0, 0.0, 3.0, 0.0])
    raw[3] = torch.tensor(3.0).log()  # heights 1 : 3
    raw[4] = torch.expm1(torch.tensor(d)).log() - torch.expm1(torch.tensor(1.0)).log()
    y, _ = spline.forward(torch.tensor([-1.0]), raw[:, None])
    assert y.item() == pytest.approx(-2 + (0.5 / 4 + 1 / 4) / (0.5 + (d + 1 - 1) / 4), abs=1e-5)
    knot, slope = spline.forward(torch.tensor([0.0]), raw[:, None])
    assert knot.item() == pytest.approx(-1, abs=1e-5) and slope.exp().item() == pytest.approx(d, abs=1e-4)


def test_hostile_parameters_leave_it_finite():
    """Very unequal bins are bounded by their least sizes: in float32 no slope is 0 or infinite."""
    spline = RationalQuadratic(8, 3.0)
    x, parameters = drawn(spline, 2000)
    for huge in (100 * parameters, torch.full_like(parameters, -1e4)):
        x.requires_grad_()
        y, log = spline.forward(x, huge)
        back, log_back = spline.inverse(x.detach(), huge)
        assert all(each.isfinite().all() for each in (y, log, back, log_back))
        assert torch.autograd.grad(y.sum() + log.sum(), x)[0].isfinite().all()


def test_bins_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="1000 bins of width 0.001"):
        RationalQuadratic(1000)


def test_it_is_nflows():
    """With the same widths, heights and slopes; nflows begins its slopes elsewhere, so that parameter is shifted."""
    pytest.importorskip("nflows", reason="the extra `peers`")
    from nflows.transforms.splines.rational_quadratic import unconstrained_rational_quadratic_spline

    spline = RationalQuadratic(6, 2.5)
    x, parameters = drawn(spline, 400, 2)
    widths, heights, slopes = parameters.movedim(0, -1).split([6, 6, 5], -1)
    shift = torch.expm1(torch.tensor(1 - spline.min_slope)).log()
    own = {"tails": "linear", "tail_bound": 2.5}
    for inverse in (False, True):
        theirs = unconstrained_rational_quadratic_spline(x, widths, heights, slopes + shift, inverse=inverse, **own)
        ours = (spline.inverse if inverse else spline.forward)(x, parameters)
        torch.testing.assert_close(ours[0], theirs[0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(ours[1], theirs[1], rtol=1e-4, atol=1e-4)


def test_it_is_zukos():
    """With the same knots and slopes."""
    pytest.importorskip("zuko", reason="the extra `peers`")
    from zuko.transforms import MonotonicRQSTransform

    spline = RationalQuadratic(6, 2.5)
    x, parameters = drawn(spline, 400)
    widths, heights, slopes = parameters.movedim(0, -1).split([6, 6, 5], -1)
    peer = MonotonicRQSTransform(widths, heights, slopes, bound=2.5)
    peer.horizontal, peer.vertical, peer.derivatives = (knots.movedim(0, -1) for knots in spline._knots(parameters))
    y, log = peer.call_and_ladj(x)
    ours = spline.forward(x, parameters)
    torch.testing.assert_close(ours[0], y, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours[1], log, rtol=1e-4, atol=1e-4)
