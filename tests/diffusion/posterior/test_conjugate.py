"""Conjugate gradients against torch's solver."""

import torch

from ldm.diffusion.posterior import conjugate


def conjugate_gradients(operator, r, iterations):
    """Of vectors (b, n)."""

    def shaped(v):
        return operator(v.flatten(1)).view_as(v)

    return conjugate.conjugate_gradients(shaped, r[..., None, None], iterations).flatten(1)


def system(rows=3, size=5):
    root = torch.randn(rows, size, size, dtype=torch.float64)
    s = root @ root.mT + torch.eye(size)
    return s, torch.randn(rows, size, dtype=torch.float64)


def product(s):
    return lambda v: (s @ v[..., None])[..., 0]


def test_as_many_steps_as_there_are_eigenvalues():
    s, r = system()
    assert torch.allclose(conjugate_gradients(product(s), r, 5), torch.linalg.solve(s, r))
    two = torch.diag_embed(torch.tensor([1.0, 4, 4, 1, 4]).double()).expand(3, -1, -1)
    assert torch.allclose(conjugate_gradients(product(two), r, 2), torch.linalg.solve(two, r))


def test_one_step_is_the_steepest_descent():
    s, r = system()
    step = (r * r).sum(1) / (r * product(s)(r)).sum(1)
    assert torch.allclose(conjugate_gradients(product(s), r, 1), step[:, None] * r)


def test_steps_beyond_the_solution_change_nothing():
    s, r = system()
    assert torch.allclose(conjugate_gradients(product(s), r, 40), torch.linalg.solve(s, r))
    assert torch.equal(conjugate_gradients(product(s), 0 * r, 4), 0 * r)


def test_a_row_stops_where_the_system_is_not_positive():
    """p = r at first, with p . S p = 4 - 1 > 0; the second direction has a negative curvature."""
    s, r = torch.diag(torch.tensor([4.0, -1.0]).double())[None], torch.ones(1, 2).double()
    found = conjugate_gradients(product(s), r, 5)
    assert torch.allclose(found, 2 / 3 * r)
    good, right = system(1, 2)
    both = conjugate_gradients(product(torch.cat([s, good])), torch.cat([r, right]), 5)
    assert torch.equal(both[:1], found) and torch.allclose(both[1:], torch.linalg.solve(good, right))


def test_a_singular_system_is_solved_where_it_can_be():
    s, r = torch.diag(torch.tensor([2.0, 0, 5]).double())[None], torch.tensor([[1.0, 0, 1]]).double()
    assert torch.allclose(conjugate_gradients(product(s), r, 9), torch.tensor([[0.5, 0, 0.2]]).double())
