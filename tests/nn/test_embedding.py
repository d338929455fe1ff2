import math

import pytest
import torch

from ldm.nn.embedding import LogSnrEmbedding, StepEmbedding, sinusoidal


def decreasing_table():
    """The shape of a scaled-linear table's log-SNR: finer steps at its end."""
    t = torch.linspace(0.001, 1, 1000, dtype=torch.float64)
    return tuple((7 - 12 * t - 0.5 * t.log()).tolist())


def test_sinusoidal_is_its_formula():
    got = sinusoidal(torch.tensor([0.0, 3.0]), 4)
    low = 10000**-0.5
    wanted = [[1, 1, 0, 0], [math.cos(3), math.cos(3 * low), math.sin(3), math.sin(3 * low)]]
    torch.testing.assert_close(got, torch.tensor(wanted))


def test_log_snr_embedding_separates_levels_and_takes_infinities():
    embedding = LogSnrEmbedding(32)
    levels = torch.tensor([math.inf, 20.0, 1.0, 0.9, 0.0, -20.0, -math.inf])
    got = embedding(levels)
    assert got.isfinite().all()
    assert torch.equal(got[0], got[1]) and torch.equal(got[-1], got[-2])
    assert torch.cdist(got[1:-1], got[1:-1]).add(torch.eye(5)).min() > 0.1


def test_log_snr_is_embedded_on_the_scale_of_a_thousand_steps():
    """500 (1 - log_snr / 20): 0 at 20, 500 at 0, 1000 at -20; and 250 at the middle of another limit."""
    steps = torch.tensor([0.0, 475.0, 500.0, 1000.0])
    torch.testing.assert_close(LogSnrEmbedding(8)(torch.tensor([20.0, 1.0, 0.0, -20.0])), sinusoidal(steps, 8))
    torch.testing.assert_close(LogSnrEmbedding(8, 4.0)(torch.tensor([2.0])), sinusoidal(torch.tensor([250.0]), 8))


def test_step_embedding_finds_every_integer_through_float32():
    table = decreasing_table()
    embedding = StepEmbedding(8, table)
    steps = embedding.step(torch.tensor(table, dtype=torch.float32))
    assert torch.equal(steps, torch.arange(1000, dtype=steps.dtype))
    torch.testing.assert_close(embedding(torch.tensor(table).float()[[7]]), sinusoidal(torch.tensor([7.0]), 8))


def test_step_embedding_interpolates_and_clamps():
    embedding = StepEmbedding(8, (3.0, 1.0, -5.0))
    steps = embedding.step(torch.tensor([9.0, 2.0, 1.0, -2.0, -math.inf]))
    torch.testing.assert_close(steps, torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0], dtype=steps.dtype))


def test_wrong_tables_and_widths_are_refused():
    with pytest.raises(ValueError, match="strictly decreasing"):
        StepEmbedding(8, (1.0, 1.0))
    with pytest.raises(ValueError, match="got 7; use 8"):
        LogSnrEmbedding(7)
