"""Loggers: they log, and they can never end a run."""

import logging
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from ldm.callback.sink import Guarded, Sink, TensorBoard, WandB, _logged_in


class Broken(Sink):
    def __init__(self, breaks: str):
        self.breaks, self.calls = breaks, []

    def _do(self, act: str) -> None:
        self.calls.append(act)
        if act == self.breaks:
            raise OSError("the disk is full")

    def open(self, folder, name, config):
        self._do("open")

    def scalars(self, stage, images, values):
        self._do("scalars")

    def picture(self, stage, images, name, picture):
        self._do("picture")

    def close(self):
        self._do("close")


def use(sink: Sink, folder) -> None:
    sink.open(folder, "run", {"seed": 0})
    sink.scalars("first", 32, {"loss": 1.0})
    sink.scalars("second", 8, {"loss": 0.5})  # fewer images than before: another stage has its own axis
    sink.picture("second", 8, "samples", Image.new("RGB", (8, 8)))
    sink.close()


@pytest.mark.parametrize("act", ["open", "scalars", "picture", "close"])
def test_a_broken_logger_is_one_warning(act, tmp_path, caplog):
    broken = Broken(act)
    with caplog.at_level(logging.WARNING):
        use(Guarded(broken), tmp_path)
    assert [r.message for r in caplog.records] == [
        f"Broken is out ({act}: the disk is full); the run goes on without it"
    ]
    assert broken.calls[-1] == act  # and is left alone from then on


def test_wandb_goes_offline_without_a_login_and_resumes_its_run(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    sink = WandB()
    use(sink, tmp_path)
    assert sink.run.settings.mode == "offline"
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    again = WandB()
    again.open(tmp_path, "run", {})
    assert again.run.id == sink.run.id
    again.close()


def test_wandb_waits_as_long_as_it_is_told(tmp_path, monkeypatch):
    """By itself it would wait 90 s for its service."""
    import wandb

    waits = []

    def init(settings, **arguments):
        waits.append((arguments["mode"], settings.init_timeout))
        raise wandb.errors.CommError("nobody is there")

    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setenv("WANDB_MODE", "online")
    with pytest.raises(wandb.errors.CommError):
        WandB(timeout=3.0).open(tmp_path, "run", {})
    assert waits == [("online", 3.0), ("offline", 3.0)]


def test_wandb_draws_each_stage_over_its_own_images():
    sink, rows = WandB(), []
    sink.run = SimpleNamespace(log=rows.append)
    sink.scalars("second", 8, {"loss": 0.5, "rate": 2.0})
    assert rows == [{"second/loss": 0.5, "second/rate": 2.0, "second/images": 8}]


def test_a_login_is_a_key_or_a_line_for_the_host(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_BASE_URL", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert not _logged_in(), "there is no such file"
    (tmp_path / "netrc").write_text("machine example.org login user password word\n")
    assert not _logged_in(), "it is of another host"
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password word\n")
    assert _logged_in()
    (tmp_path / "netrc").unlink()
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert _logged_in()


def test_tensorboard_writes_events(tmp_path):
    pytest.importorskip("tensorboard")
    use(TensorBoard(), tmp_path)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("second/loss")] == [(8, 0.5)]
    assert events.Tags()["images"] == ["second/samples"]


UNANSWERED = """
import logging, sys
from pathlib import Path
from ldm.callback.sink import Guarded, WandB
logging.basicConfig(level=logging.INFO, stream=sys.stdout)
sink = Guarded(WandB(timeout=3.0))
sink.open(Path(sys.argv[1]), "run", {})
for i in range(200):
    sink.scalars("first", i, {"loss": 1.0})
print("alive", sink.alive)
sink.close()
"""

KILLED = """
import logging, os, signal, sys, time
from pathlib import Path
from ldm.callback.sink import Guarded, WandB
logging.basicConfig(level=logging.WARNING, stream=sys.stdout)

def below(pid):
    own = [int(c) for task in Path(f"/proc/{pid}/task").iterdir() for c in (task / "children").read_text().split()]
    return own + [deeper for child in own for deeper in below(child)]

sink = Guarded(WandB())
sink.open(Path(sys.argv[1]), "run", {})
sink.scalars("first", 1, {"loss": 1.0})
services = below(os.getpid())
for pid in services:
    os.kill(pid, signal.SIGKILL)
for i in range(100):
    sink.scalars("first", i + 2, {"loss": 1.0})
    time.sleep(0.01)
sink.close()
print("services", len(services), "alive", sink.alive)
"""


def in_a_process(code: str, folder: Path, **environment: str) -> str:
    """What a program says that has a W&B service of its own."""
    own = {key: value for key, value in os.environ.items() if not key.startswith("WANDB")} | environment
    command = [sys.executable, "-c", code, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env=own, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_wandb_without_an_answer_goes_offline_soon(tmp_path):
    """Logged in, but nobody is there: by itself it would wait 90 s and end the run (faults.md, L20)."""
    # The discard port, closed.
    said = in_a_process(UNANSWERED, tmp_path, WANDB_API_KEY="0" * 40, WANDB_BASE_URL="http://127.0.0.1:9")
    assert "alive True" in said and "logged offline" in said and "wandb sync" in said
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))


def test_wandbs_service_is_killed_in_the_middle(tmp_path):
    said = in_a_process(KILLED, tmp_path, WANDB_MODE="offline")
    assert "alive False" in said and "services 0" not in said and said.count("WandB is out") == 1
