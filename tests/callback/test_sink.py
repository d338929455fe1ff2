"""Loggers: they log, and they can never end a run."""

import logging

import pytest
from PIL import Image

from ldm.callback.sink import Guarded, Sink, TensorBoard, WandB


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


def test_tensorboard_writes_events(tmp_path):
    pytest.importorskip("tensorboard")
    use(TensorBoard(), tmp_path)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("second/loss")] == [(8, 0.5)]
    assert events.Tags()["images"] == ["second/samples"]
