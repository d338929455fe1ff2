"""Measurement operators: adjoints, pseudo-inverses, derivatives."""

import pytest
import torch
import torch.nn.functional as F

from ldm.diffusion.posterior.base import Measurement
from ldm.diffusion.posterior.operator import Composed, Downsample, Identity, Mask
from tests.diffusion.posterior.exact import matrix

LINEAR = {
    "identity": Identity(),
    "mask": Mask(torch.tensor([[1.0, 0, 1, 1], [0, 0, 1, 0]]).double()[None, None]),
    "downsample": Downsample(2),
}


@pytest.mark.parametrize("name", LINEAR)
def test_adjoint_and_pseudo_inverse_are_those_of_the_matrix(name):
    operator = LINEAR[name]
    a = matrix(operator)
    y = torch.randn(3, len(a), dtype=torch.float64)
    shaped = y.view(3, *operator(torch.zeros(1, 1, 2, 4).double()).shape[1:])
    assert torch.allclose(operator.adjoint(shaped).flatten(1), y @ a)
    assert torch.allclose(operator.pseudo_inverse(shaped).flatten(1), y @ torch.linalg.pinv(a).T)


def test_a_square_is_averaged():
    x = torch.tensor([[1.0, 2, 0, 0], [3, 6, 0, 4]])[None, None]
    assert Downsample(2)(x).flatten().tolist() == [3, 1]
    with pytest.raises(ValueError, match="3 pixels does not divide by the factor 2"):
        Downsample(2)(torch.zeros(1, 1, 3, 4))


@pytest.mark.parametrize("name", LINEAR)
def test_a_tangent_is_the_derivative(name):
    """Of A(z^3 / 3): H d = A(z^2 d) and H^T v = z^2 A^T v."""
    operator = LINEAR[name]
    z, d = torch.randn(2, 3, 1, 2, 4, dtype=torch.float64)
    tangent = Composed(operator, lambda z: z**3 / 3).at(z)
    v = torch.randn_like(tangent.value)
    assert torch.allclose(tangent.value, operator(z**3 / 3))
    assert torch.allclose(tangent.forward(d), operator(z**2 * d))
    assert torch.allclose(tangent.adjoint(v), z**2 * operator.adjoint(v))
    plain = operator.at(z)
    assert torch.equal(plain.value, operator(z)) and torch.equal(plain.forward(d), operator(d))
    assert torch.equal(plain.adjoint(v), operator.adjoint(v))


def test_a_mask_may_differ_from_row_to_row():
    mask = torch.tensor([[1.0, 0], [0, 1]]).view(2, 1, 1, 2)
    assert Mask(mask)(torch.full((2, 3, 1, 2), 5.0))[:, 2, 0].tolist() == [[5, 0], [0, 5]]


@pytest.mark.parametrize("noise", [-0.1, float("nan")])
def test_noise_is_a_deviation(noise):
    with pytest.raises(ValueError, match="0 or more; got"):
        Measurement(Identity(), torch.zeros(1, 1, 1, 1), noise)


def test_a_tangent_goes_through_attention():
    """Whose quick kernels have no second derivative: against a difference of the function."""
    weights = torch.randn(3, 4, 4, dtype=torch.float64)

    def function(z):
        tokens = z.flatten(2).mT
        q, k, v = (tokens @ each for each in weights)
        return F.scaled_dot_product_attention(q, k, v).mT.reshape(z.shape)

    z, d = torch.randn(2, 2, 4, 2, 3, dtype=torch.float64)
    found = Composed(Identity(), function).at(z).forward(d)
    assert torch.allclose(found, (function(z + 1e-6 * d) - function(z - 1e-6 * d)) / 2e-6, atol=1e-6)


def test_a_function_that_is_linear_has_one_tangent():
    """Its second derivative is none, which is no reason to fail."""
    tangent = Composed(Downsample(2), lambda z: 3 * z + 1).at(torch.zeros(1, 1, 2, 2))
    assert tangent.forward(torch.ones(1, 1, 2, 2)).item() == 3 and tangent.value.item() == 1
