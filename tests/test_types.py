"""A context's parts stay together: dropped, joined, cut and moved, example by example."""

import pytest
import torch

from ldm.types import Context, ContextShape


def context(b: int = 4) -> Context:
    """Example i holds i in every part; the null is -1 and its mask is the first token alone."""
    rows = torch.arange(float(b)).view(b, 1, 1)
    empty = Context(torch.full((1, 3, 2), -1.0), torch.tensor([[True, False, False]]), torch.full((1, 5, 2, 2), -1.0))
    mask = torch.arange(3)[None] < torch.arange(b)[:, None].clamp(1, 3)
    return Context(rows.expand(b, 3, 2), mask, rows[..., None].expand(b, 5, 2, 2), empty)


def test_its_shape_is_what_a_backbone_reads():
    assert context().shape == ContextShape(2, 5) and Context().shape == ContextShape()


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_an_example_is_dropped_where_its_number_is_below_p(p):
    c, u = context(), torch.tensor([0.9, 0.29, 0.3, 0.0])
    found = c.drop(p, u)
    for i in range(4):
        value = -1.0 if u[i] < p else float(i)
        assert (found.tokens[i] == value).all() and (found.spatial[i] == value).all()
        assert torch.equal(found.mask[i], c.empty.mask[0] if u[i] < p else c.mask[i])
    assert found.empty is c.empty


def test_a_part_is_dropped_by_itself():
    c = context()
    found = c.drop(1.0, torch.zeros(4), ("spatial",))
    assert torch.equal(found.tokens, c.tokens) and torch.equal(found.mask, c.mask)
    assert (found.spatial == -1).all() and found.empty is c.empty


def test_the_null_is_the_learnt_one_for_every_example():
    null = context().null()
    assert null.tokens.shape == (4, 3, 2) and (null.tokens == -1).all() and (null.spatial == -1).all()
    assert null.mask.tolist() == [[True, False, False]] * 4
    bare = Context(torch.zeros(2, 1, 3))
    assert bare.null() is bare and bare.drop(1.0, torch.zeros(2)) is bare, "nothing was learnt for it"


def test_contexts_are_joined_in_order_and_cut():
    c = context()
    both = Context.cat([c, c.null()])
    for name in ("tokens", "mask", "spatial"):
        part = getattr(both, name)
        assert torch.equal(part[:4], getattr(c, name)) and torch.equal(part[4:], getattr(c.null(), name))
        assert torch.equal(getattr(both[2:5], name), part[2:5])
    assert both.empty is c.empty and both[2:5].empty is c.empty
    assert Context.cat([Context(), Context()]).tokens is None


def test_everything_is_moved():
    found = context().to("meta")
    parts = [found.tokens, found.mask, found.spatial, found.empty.tokens, found.empty.mask, found.empty.spatial]
    assert all(part.device.type == "meta" for part in parts)
