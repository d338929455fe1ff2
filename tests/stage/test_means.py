"""Means by hand: over the parts of an update, updates, examples and ranks."""

import math

import pytest
import torch
import torch.distributed as dist
from torch import multiprocessing as processes

from ldm.stage.means import ExampleMeans, Means


def test_means_of_updates_of_two_parts_each():
    means = Means()
    for one, two in ((1.0, 3.0), (5.0, 7.0)):
        means.add({"a": torch.tensor(one)}, 0.5)
        means.add({"a": torch.tensor(two)}, 0.5)
        means.end_update()
    found, beside = means.take(torch.tensor([9.0, 8.0]))
    assert found == {"a": 4.0} and beside == [9.0, 8.0]
    means.add({"b": torch.tensor(math.nan)})
    means.end_update()
    means.add({"b": torch.tensor(6.0), "c": torch.tensor(math.inf), "d": torch.tensor(5.0)})
    means.end_update()
    wanted = {"b": 3.0, "c": 0.0, "d": 5.0}
    assert means.take(torch.zeros(1))[0] == wanted, (
        "begun anew; what is not finite counts as 0, what was not there as nothing"
    )


def test_means_of_examples_leave_out_those_that_have_no_such_number():
    means = ExampleMeans()
    means.add({"a": torch.tensor([1.0, math.nan, 4.0]), "b": torch.full((3,), math.nan)})
    means.add({"a": torch.tensor([10.0])})
    assert means.take() == {"a": 5.0, "b": 0.0}


def rank(number: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=number, world_size=2)
    means, examples = Means(), ExampleMeans()
    means.add({"a": torch.tensor([2.0, 6.0][number])})
    means.end_update()
    examples.add({"a": torch.tensor([[1.0, 2.0, 3.0], [10.0]][number])})
    torch.save([means.take(torch.tensor([3.0])), examples.take()], f"{folder}/{number}.pt")
    dist.destroy_process_group()


def test_means_are_those_of_both_ranks(tmp_path):
    processes.start_processes(rank, (str(tmp_path),), nprocs=2, start_method="fork")
    for number in range(2):
        (found, beside), examples = torch.load(tmp_path / f"{number}.pt", weights_only=True)
        assert found == {"a": 4.0} and beside == [3.0] and examples == {"a": 4.0}


@pytest.mark.parametrize("share", [1.0, 0.25])
def test_a_state_goes_on(share):
    one, other = Means(), Means()
    one.add({"a": torch.tensor(8.0)}, share)
    one.end_update()
    other.load_state_dict(one.state_dict())
    assert other.take(torch.zeros(1))[0] == {"a": 8.0 * share}
