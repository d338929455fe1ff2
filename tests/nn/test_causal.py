"""The causal transformer: its order by gradients, its memory against a whole pass, and tokens that do not count."""

import pytest
import torch

from ldm.nn.causal import CausalTransformer, Places
from ldm.types import Context

N, WIDTH, HEADS = 6, 16, 2


def made(context: int | None = 3) -> CausalTransformer:
    own = CausalTransformer(2, 4, context, WIDTH, 2, HEADS).double().eval()
    with torch.no_grad():
        for p in own.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return own


def places() -> Places:
    angles = torch.rand(1, N, WIDTH // HEADS // 2, dtype=torch.float64)
    return Places(torch.randn(1, N, WIDTH).double(), torch.cat([angles.cos(), angles.sin()], dim=-1))


def context(rows: int, mask: list[bool] | None = None) -> Context:
    tokens = torch.randn(rows, 3, 3).double()
    return Context(tokens, None if mask is None else torch.tensor(mask).expand(rows, 3))


def test_an_output_depends_on_all_inputs_before_it_and_on_no_other():
    own, at, c = made(), places(), context(1, [True, True, False])
    x = torch.randn(1, N, 2).double()
    jacobian = torch.autograd.functional.jacobian(lambda x: own(x, at, c)[0], x)[:, :, 0]  # (n, o, n, i)
    depends = jacobian.abs().amax((1, 3)) > 0
    assert torch.equal(depends, torch.ones(N, N, dtype=torch.bool).tril(-1))


@pytest.mark.parametrize("mask", [None, [True, False, True], [False, False, False]])
def test_with_a_memory_outputs_are_those_of_a_whole_pass(mask):
    own, at, c = made(), places(), context(2, mask)
    x = torch.randn(2, N, 2).double()
    memory, before, found = own.memory(2, N, c), torch.randn(2, 1, 2).double(), []
    with torch.no_grad():
        for i in range(N):
            found.append(own(before, at, c, memory))
            before = x[:, i : i + 1]
        torch.testing.assert_close(torch.cat(found, dim=1), own(x, at, c))


def test_tokens_of_the_context_that_do_not_count_change_nothing():
    own, at, c = made(), places(), context(2, [True, False, True])
    x = torch.randn(2, N, 2).double()
    other = Context(c.tokens + torch.tensor([[0.0], [1.0], [0.0]]), c.mask)
    torch.testing.assert_close(own(x, at, other), own(x, at, c))
    counted = Context(c.tokens + torch.tensor([[1.0], [0.0], [0.0]]), c.mask)
    assert (own(x, at, counted) - own(x, at, c)).abs().amin((1, 2)).min() > 0
    assert made(None)(x, at, Context()).shape == (2, N, 4)


def test_places_go_backwards():
    at = places()
    assert torch.equal(at.reversed().added[0, 0], at.added[0, -1])
    assert torch.equal(at.reversed()[1:3].rotation[0, 1], at.rotation[0, -3])


def test_a_head_has_room_for_two_axes():
    with pytest.raises(ValueError, match="need a multiple of 12 as width; got 16"):
        CausalTransformer(2, 4, None, 16, 1, 3)
