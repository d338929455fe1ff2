import pytest
import torch

from ldm.backbone.routing import Routing, put_back, taken


def test_some_tokens_are_kept_and_go_back_to_their_places():
    torch.manual_seed(0)
    x, routing = torch.randn(64, 10, 3), Routing(skipped=0.7)
    kept = routing.kept(x)
    assert kept.shape == (64, 3)
    assert all(len(set(row)) == 3 for row in kept.tolist()) and len({tuple(row) for row in kept.tolist()}) > 50
    count = torch.bincount(kept.flatten(), minlength=10)
    assert count.min() > 5, "every place is kept at times"
    part = taken(x, kept)
    assert all(torch.equal(part[i], x[i, kept[i]]) for i in range(64))
    assert torch.equal(put_back(x, part, kept), x)
    moved = put_back(x, part + 1, kept) - x
    torch.testing.assert_close(moved.sum(1), torch.full((64, 3), 3.0))
    shared = taken(x[:1], kept)
    assert torch.equal(shared[5], x[0, kept[5]])


def test_at_least_one_token_is_kept():
    assert Routing(skipped=0.99).kept(torch.randn(2, 4, 1)).shape == (2, 1)


def test_a_route_around_nothing_is_refused():
    assert Routing(before=2, after=1).span(4) == (2, 3)
    with pytest.raises(ValueError, match=r"leaves 2 \+ 2 layers to all tokens and there are only 4"):
        Routing(before=2, after=2).span(4)
