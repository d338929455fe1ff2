"""The held-out loss by quarter of the time."""

import math

import pytest
import torch
from torch import nn

from ldm.diffusion.time import Uniform
from ldm.prior.base import Latents
from ldm.prior.cnf import CNF, FlowMatching
from ldm.prior.mean_flow import MeanFlow
from ldm.prior.quarters import by_quarter
from ldm.random import Random
from ldm.types import Context, ContextShape


def test_each_loss_stands_in_the_quarter_of_its_time():
    t = torch.tensor([0.0, 0.2499, 0.25, 0.6, 0.75, 1.0])
    found = by_quarter(torch.arange(6.0), t)
    kept = {name: [None if math.isnan(x) else x for x in values.tolist()] for name, values in found.items()}
    assert kept == {
        "loss_t0": [0, 1, None, None, None, None],
        "loss_t1": [None, None, 2, None, None, None],
        "loss_t2": [None, None, None, 3, None, None],
        "loss_t3": [None, None, None, None, 4, 5],
    }


class Nothing(nn.Module):
    """A field of zeros, under which the loss of flow matching is |eps - z|^2."""

    def __init__(self, channels, context, time):
        super().__init__()

    def forward(self, z, log_snr, c):
        return torch.zeros_like(z)


@pytest.mark.parametrize(
    "make",
    [
        lambda *shapes: CNF(*shapes, Nothing, FlowMatching()),
        lambda *shapes: MeanFlow(*shapes, Nothing, Uniform(0.0), equal=1.0),
    ],
    ids=["flow matching", "mean flow"],
)
def test_flows_say_it_of_the_times_that_they_drew(make):
    """Where both times of a mean flow are the same, the later is the greater of two draws."""
    flow, z = make(Latents((1, 2, 2)), ContextShape()), torch.zeros(64, 1, 2, 2)
    random = Random(0, -1, torch.arange(64))
    found = flow.held_out(z, Context(), random)
    t = random.stratified("time")
    if isinstance(flow, MeanFlow):
        t = torch.maximum(t, random.uniform("other time"))
    wanted = random.normal("noise", (1, 2, 2)).square().flatten(1).mean(1)
    for k in range(4):
        inside = (t >= k / 4) & (t < (k + 1) / 4)
        assert torch.equal(found[f"loss_t{k}"].isfinite(), inside)
        torch.testing.assert_close(found[f"loss_t{k}"][inside], wanted[inside])
