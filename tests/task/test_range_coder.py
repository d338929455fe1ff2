"""The range coder against entropies that are known, and against what it must not survive."""

import math

import pytest
import torch

from ldm.task.tools.range_coder import decode, encode

pytest.importorskip("constriction")

P = torch.tensor([0.5, 0.25, 0.125, 0.125]).double()


def alike(count, p=P):
    """The same law for every number."""
    for _ in range(count):
        yield p


def following(count):
    """A chain that stays where it is with probability 0.9, of four states; it begins anywhere."""
    law = torch.full((4,), 0.25).double()
    for _ in range(count):
        place = yield law
        law = torch.full((4,), 0.1 / 3).double()
        law[place] = 0.9


def test_as_long_as_the_entropy():
    """8,000 numbers in the proportions of their law: 1.75 bits each."""
    places = torch.arange(4).repeat_interleave((8000 * P).long())[torch.randperm(8000)].tolist()
    coded = encode(places, alike(8000))
    assert coded.bits == pytest.approx(14000) and 14000 <= 8 * len(coded.data) + 8 <= 14000 * 1.002 + 8
    assert decode(coded.data, alike(8000)) == places


def test_laws_follow_what_was_there():
    """A run of 2,000 costs 2 bits and then -log2 0.9 each."""
    coded = encode([3] * 2000, following(2000))
    assert coded.bits == pytest.approx(2 - 1999 * math.log2(0.9)) and 8 * len(coded.data) <= coded.bits + 8
    assert decode(coded.data, following(2000)) == [3] * 2000


def test_short_messages_waste_little():
    """60 messages of some 100 to 350 bits: cut to the bytes that are needed, within 2 % all together."""
    total = wanted = 0
    for count in range(60, 180, 2):
        places = torch.multinomial(P, count, replacement=True).tolist()
        coded = encode(places, alike(count))
        assert decode(coded.data, alike(count)) == places
        total, wanted = total + 8 * len(coded.data), wanted + coded.bits
    assert total <= 1.02 * wanted


def test_what_is_held_for_impossible_has_a_code():
    p = torch.tensor([1.0, 0.0, 0.0]).double()
    coded = encode([0, 0, 2, 0, 1], alike(5, p))
    assert decode(coded.data, alike(5, p)) == [0, 0, 2, 0, 1] and 40 <= 8 * len(coded.data) <= 48
    assert len(encode([0] * 500, alike(500, p)).data) <= 1, "what is certain costs nothing"


def test_a_difference_of_rounding_changes_no_table():
    noise = 1 + 1e-13 * torch.randn(4).double()
    places = torch.multinomial(P, 500, replacement=True).tolist()
    p = torch.tensor([0.4, 0.3, 0.2, 0.1]).double()
    assert decode(encode(places, alike(500, p)).data, alike(500, p * noise)) == places


def test_other_laws_or_other_data_say_something_else():
    places = torch.multinomial(P, 500, replacement=True).tolist()
    data = encode(places, alike(500)).data
    assert decode(data, alike(500, P.flip(0))) != places
    assert decode(b"\xff" * 40, alike(500)) != places


def test_a_law_of_no_numbers_is_refused():
    with pytest.raises(ArithmeticError, match="a probability is no finite number"):
        encode([0], alike(1, P * torch.nan))
