"""Operations of training: those of a plain pass and its gradient, times updates, however an update is shared out."""

import json

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ldm.stage.flops import Flops
from tests.stage.tiny import autoencoder, first, fit


def of_an_update(batch: int = 4) -> int:
    """Of the tiny first stage, by torch's counter around what a loop by hand would do."""
    own = autoencoder()
    with FlopCounterMode(display=False) as counter:
        own(torch.rand(batch, 3, 8, 8), torch.randn(batch, *own.latent_shape)).image.square().mean().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_stage_has_spent_what_torch_counts_for_an_update_times_updates(tmp_path, accumulate):
    stage = fit(first(steps=6, accumulate=accumulate), tmp_path)
    assert stage.flops.total == 6 * of_an_update() > 0
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows and all(row["flops"] == row["step"] * of_an_update() for row in rows)
    assert stage.journal.cost("first") == {"images": 24, "seconds": rows[-1]["seconds"], "flops": stage.flops.total}
    assert stage.journal.cost("second") == {}


def test_an_update_counts_until_the_next_one_that_is_counted():
    """Of layers of 8 x 8 numbers, so many rows more in each update: 1, 2, 4 are counted, and on two ranks."""
    flops, layer = Flops(), nn.Linear(8, 8, bias=False)
    for update in range(1, 6):
        with flops.of_micro_batch(update, 2, lambda: [layer]), torch.no_grad():
            layer(torch.rand(update, 8))
        flops.update_done()
    assert flops.total == 2 * (2 * 8 * 8) * (1 + 2 + 2 + 4 + 4)
    other = Flops()
    other.load_state_dict(flops.state_dict())
    other.update_done()
    assert other.total == flops.total + 2 * (2 * 8 * 8) * 4
    other.load_state_dict({})
    other.update_done()
    assert other.total is None, "of a checkpoint that does not say"


def test_what_is_compiled_is_counted_as_it_is_written():
    layer, flops = nn.Linear(8, 8, bias=False), Flops()
    compiled = layer._compiled_call_impl = lambda x: x  # in the place of what torch.compile puts there
    with flops.of_micro_batch(1, 1, lambda: [layer]):
        layer(torch.rand(3, 8))
    assert flops.rate == 2 * 3 * 8 * 8 and layer._compiled_call_impl is compiled
