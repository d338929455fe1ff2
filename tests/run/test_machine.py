"""Devices by their names, and the arithmetic of the CPU."""

import subprocess
import sys

import pytest
import torch

from ldm.run.machine import device_of

_FLUSHED = """
import torch
from ldm.run.machine import flush_denormals
torch.set_num_threads(2)
flush_denormals()
tiny = torch.full((4_000_000,), 1e-39)  # enough for both threads
print((tiny * 1.0).count_nonzero().item(), (torch.full((4_000_000,), 2e-38) * 1.0).count_nonzero().item())
"""


def test_tiny_numbers_are_zero_in_all_threads():
    """In a process of its own, in which torch has computed nothing before."""
    done = subprocess.run([sys.executable, "-c", _FLUSHED], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "4000000"]


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
