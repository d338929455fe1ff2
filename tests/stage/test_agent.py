"""Ranks under torch's agent: exit codes, the lost one by name, signals."""

import os
import signal
import subprocess
import sys
import threading
import time
from multiprocessing import forkserver
from pathlib import Path

import pytest
import torch

from ldm.command import start
from ldm.resolve import ConfigError
from ldm.run.signals import DIVERGED, FAILED, FINISHED, PREEMPTED
from ldm.stage import launch as ranks
from ldm.stage.agent import RanksEnded, launch, started_elsewhere
from tests.stage.acting import act


@pytest.fixture
def tasks(tmp_path):
    """Gives each rank its task and launches them."""

    def run(*each: str) -> int:
        for rank, task in enumerate(each):
            (tmp_path / str(rank)).write_text(task)
        return launch(len(each), act, str(tmp_path))

    return run


def test_all_that_end_well_give_their_exit_code(tasks, tmp_path):
    assert tasks(str(FINISHED), str(FINISHED)) == FINISHED
    assert [(tmp_path / f"begun-{rank}").read_text() for rank in (0, 1)] == ["2 0", "2 1"]


@pytest.mark.parametrize(("task", "code"), [("raise", FAILED), (str(DIVERGED), DIVERGED)])
def test_one_that_fails_ends_all_with_its_exit_code(tasks, task, code):
    assert tasks("stay", task) == code


def test_one_that_is_killed_is_named(tasks):
    with pytest.raises(RanksEnded, match="rank 1 was ended by SIGKILL"):
        tasks("stay", "die")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_reaches_all(tasks, tmp_path, number):
    """The agent knows nothing of SIGUSR1, and would have raised an error at SIGTERM. What the ranks are forked from stays, since
    it tells how they end: a signal to a whole job is one to it, too."""

    def send() -> None:
        while not all(Path(tmp_path, f"listens-{rank}").exists() for rank in (0, 1)):
            time.sleep(0.01)
        os.kill(forkserver._forkserver._forkserver_pid, number)
        os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    threading.Thread(target=send, daemon=True).start()
    assert tasks("wait", "wait") == PREEMPTED
    assert signal.getsignal(number) == before


def test_what_ranks_are_forked_from_touches_no_device():
    """A process that has looked for GPUs by their driver cannot be forked into one that uses them."""
    looked = "torch._C._cuda_getDeviceCount = torch._C._cuda_init = lambda: os._exit(7)"
    imported = "; ".join(f"import {name}" for name in start._NEEDED)
    environment = os.environ | {"PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
    command = [sys.executable, "-c", f"import os, torch; {looked}; {imported}"]
    assert subprocess.run(command, env=environment, timeout=200, check=False).returncode == 0


@pytest.mark.parametrize(
    "words",
    [{"accelerator": "foo"}, {"accelerator": "cpu", "devices": 0}, {"accelerator": "cpu", "devices": "abc"}]
    + [{"accelerator": "gpu"}] * (not torch.cuda.is_available()),
)
def test_what_this_machine_has_not_is_told_with_what_to_type(words):
    node = {"_target_": "lightning.pytorch.trainer.Trainer"} | words
    with pytest.raises(ConfigError, match=r"^trainer: .* Say trainer=auto for the devices that this machine has$"):
        ranks.to_start(node)


def test_who_starts_the_ranks(monkeypatch):
    for name in [
        name for name in os.environ if name.startswith(("SLURM_", "LOCAL_RANK", "TORCHELASTIC_", "KUBERNETES_"))
    ]:
        monkeypatch.delenv(name)
    node = {"_target_": "lightning.pytorch.trainer.Trainer", "accelerator": "cpu"}
    assert not started_elsewhere()
    assert [ranks.to_start(node | {"devices": devices}) for devices in (1, "auto", 2, "3")] == [1, 1, 2, 3]
    with pytest.raises(ValueError, match=r"trainer.num_nodes=2: start several nodes with `torchrun --nnodes=2"):
        ranks.to_start(node | {"devices": 2, "num_nodes": 2})
    slurm = {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_JOB_NAME": "train", "SLURM_JOB_ID": "7"}
    slurm |= {"SLURM_PROCID": "1", "SLURM_LOCALID": "1", "SLURM_NODEID": "0", "SLURM_NODELIST": "localhost"}
    with monkeypatch.context() as there:
        for name, value in slurm.items():
            there.setenv(name, value)
        assert started_elsewhere() and ranks.to_start(node | {"devices": 2}) == 1
    torchrun = {
        "TORCHELASTIC_RUN_ID": "none",
        "RANK": "5",
        "WORLD_SIZE": "6",
        "LOCAL_RANK": "2",
        "LOCAL_WORLD_SIZE": "3",
    }
    for name, value in torchrun.items():
        monkeypatch.setenv(name, value)
    assert ranks.placed(node | {"devices": 1}) == node | {"devices": 3, "num_nodes": 2}, "torchrun's words decide"
    assert ranks.placed(node | {"devices": [2, 3, 5]})["devices"] == [2, 3, 5], "which ones are meant"
    assert started_elsewhere() and ranks.to_start(node | {"devices": 1}) == 1
