"""Devices by their names."""

import pytest
import torch

from ldm.run.machine import device_of


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "abc", ""])
def test_a_device_that_is_not_there_is_told_beside_those_that_are(name):
    said = f"device={name}: torch has no such device here; this machine has cpu"
    with pytest.raises(ValueError, match=said):
        device_of(name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine with a GPU has it")
def test_without_a_gpu():
    assert device_of("auto") == torch.device("cpu")
    with pytest.raises(ValueError, match="device=cuda: torch has no such device here; this machine has cpu, and auto"):
        device_of("cuda")


def test_a_device_that_is_there():
    assert device_of("cpu") == device_of(torch.device("cpu")) == torch.device("cpu")
