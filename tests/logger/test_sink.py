"""Loggers: they log, and they can never end a run."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import wandb
from PIL import Image

from ldm.logger.sink import Guarded, Sink
from ldm.logger.tensorboard import TensorBoard
from ldm.logger.trackio import Trackio
from ldm.logger.wandb import WandB, _logged_in
from ldm.run.record import Record
from ldm.run.signals import FAILED, FINISHED, PREEMPTED
from tests.logger.wandb_file import Written


class Broken(Sink):
    def __init__(self, breaks: str, error: BaseException):
        self.breaks, self.error, self.calls = breaks, error, []

    def _do(self, act: str) -> None:
        self.calls.append(act)
        if act == self.breaks:
            raise self.error

    def open(self, folder, name, config):
        self._do("open")

    def scalars(self, stage, images, values):
        self._do("scalars")

    def picture(self, stage, images, name, picture):
        self._do("picture")

    def conclude(self, records, report):
        self._do("conclude")

    def close(self, code):
        self._do("close")


CONFIG = {"seed": 3, "name": None, "first": {"optimizer": {"lr": 1e-3, "betas": [0.9, 0.99]}}}
RECORDS = [
    Record(metric="fid", value=12.5, standard_error=0.25, n=8, drawn={"sampler": "ddim"}, images_seen=64),
    Record(metric="psnr", value=30.75, n=8, images_seen=64),
]
# What runs are to be ranked by, and where among the curves.
NUMBERS = {"evaluation/fid": 12.5, "evaluation/fid error": 0.25, "evaluation/psnr": 30.75}


def use(sink: Sink, folder: Path, code: int = FINISHED) -> None:
    report = folder / "report.html"
    report.write_text("<html><body>the run on one page</body></html>")
    sink.open(folder, "run", CONFIG)
    sink.scalars("first", 32, {"loss": 1.0})
    sink.scalars("second", 8, {"loss": 0.5})  # fewer images than before: another stage has its own axis
    sink.picture("second", 8, "samples", Image.new("RGB", (8, 6)))
    sink.conclude(RECORDS, report)
    sink.close(code)


def opened(folder: Path, identity: str | None = None, sink: WandB | None = None) -> Written:
    """What W&B wrote of a run that ended as soon as it was begun, in a folder that has an id or none."""
    folder.mkdir()
    if identity is not None:
        (folder / "wandb_id").write_text(identity)
    sink = sink or WandB()
    sink.open(folder, "run", {})
    assert sink.run.settings.mode == "offline"
    sink.close(FAILED)
    return Written(folder)


@pytest.fixture
def service(monkeypatch):
    """W&B as in a process that has not called it yet: what it read of the environment is kept for a process's life."""
    for name in [name for name in os.environ if name.startswith("WANDB")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    wandb.teardown()
    yield monkeypatch
    wandb.teardown()


@pytest.mark.parametrize("error", [OSError("the disk is full"), SystemExit("the disk is full")])
@pytest.mark.parametrize("act", ["open", "scalars", "picture", "conclude", "close"])
def test_a_broken_logger_is_one_warning(act, error, tmp_path, caplog):
    broken = Broken(act, error)
    with caplog.at_level(logging.WARNING):
        use(Guarded(broken), tmp_path)
    assert [r.message for r in caplog.records] == [
        f"Broken is out ({act}: the disk is full); the run goes on without it"
    ]
    assert broken.calls[-1] == act  # and is left alone from then on


def test_wandb_is_told_all_of_a_run(tmp_path, service):
    use(WandB(), tmp_path)
    told = Written(tmp_path)
    assert [(run.project, run.display_name, run.run_id) for run in told.runs] == [
        ("ldm", "run", (tmp_path / "wandb_id").read_text())
    ]
    assert {key: told.config[key] for key in CONFIG} == CONFIG
    assert told.axes == {f"{part}/*": f"{part}/images" for part in ("first", "second", "evaluation")}
    assert told.history[:2] == [{"first/loss": 1, "first/images": 32}, {"second/loss": 0.5, "second/images": 8}]
    picture, last = told.history[2:]
    assert (picture["second/samples.width"], picture["second/samples.height"], picture["second/images"]) == (8, 6, 8)
    assert last.items() >= {**NUMBERS, "evaluation/images": 64}.items()
    assert told.summary.items() >= NUMBERS.items() and told.codes == [FINISHED] and not told.preempted
    [files] = tmp_path.glob("wandb/offline-run-*/files")
    table = json.loads((files / last["evaluation/records.path"]).read_text())
    assert table["columns"] == ["metric", "value", "standard_error", "n", "drawn.sampler", "images_seen"]
    assert table["data"] == [["fid", 12.5, 0.25, 8, "ddim", 64], ["psnr", 30.75, None, 8, None, 64]]
    assert "the run on one page" in (files / last["report.path"]).read_text()


def test_wandb_goes_offline_without_a_login_and_resumes_its_run(tmp_path, service, caplog):
    service.delenv("WANDB_MODE")
    service.setenv("NETRC", str(tmp_path / "no-netrc"))
    first, again = opened(tmp_path / "first"), opened(tmp_path / "again", (tmp_path / "first" / "wandb_id").read_text())
    assert "did not answer" not in caplog.text, "nobody was asked"
    assert first.runs[0].run_id == again.runs[0].run_id and first.codes == again.codes == [FAILED]


def test_a_run_of_a_wandb_sweep_is_the_agents(tmp_path, service):
    """By an id of its own it would be another run, and the agent's would end without a number."""
    chosen = tmp_path / "config.yaml"
    chosen.write_text("wandb_version: 1\nfirst.optimizer.lr: {value: 0.001}\n")
    agents = {"SWEEP_ID": "swept", "RUN_ID": "given", "PROJECT": "others", "ENTITY": "us"}
    for name, value in (agents | {"SWEEP_PARAM_PATH": str(chosen)}).items():
        service.setenv(f"WANDB_{name}", value)
    use(WandB(project="mine"), tmp_path, PREEMPTED)
    told = Written(tmp_path)
    assert [(r.run_id, r.sweep_id, r.project, r.entity) for r in told.runs] == [("given", "swept", "others", "us")]
    assert told.summary.items() >= NUMBERS.items()
    assert told.config["first.optimizer.lr"] == 0.001 and told.config["first"] == CONFIG["first"]
    assert told.preempted == 1 and told.codes == [PREEMPTED], "so that the agent's sweep starts it again"
    for name in (*agents, "SWEEP_PARAM_PATH"):
        service.delenv(f"WANDB_{name}")
    wandb.teardown()
    again = opened(tmp_path / "again", (tmp_path / "wandb_id").read_text())
    assert again.runs[0].run_id == "given", "and without the agent it goes on as the same"


def test_wandb_joins_the_run_and_project_of_the_environment(tmp_path, service):
    service.setenv("WANDB_RUN_ID", "given")
    service.setenv("WANDB_PROJECT", "others")
    for project, wanted in ((None, "others"), ("mine", "mine")):
        [run] = opened(tmp_path / wanted, "before", WandB(project)).runs
        assert (run.run_id, run.project) == ("given", wanted)


def test_wandb_waits_as_long_as_it_is_told(tmp_path, monkeypatch):
    """By itself it would wait 90 s for its service."""
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


def test_tensorboard_is_told_all_of_a_run(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    use(TensorBoard(), tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    wanted = {"first/loss": (32, 1.0), "second/loss": (8, 0.5)} | {key: (64, value) for key, value in NUMBERS.items()}
    for tag, (step, value) in wanted.items():
        assert [(e.step, e.value) for e in events.Scalars(tag)] == [(step, value)]
        stage = "first" if tag == "first/loss" else "second"
        described = events.SummaryMetadata(tag).summary_description
        assert described == f"x: images that the {stage} stage was trained on"
    [picture] = events.Images("second/samples")
    assert (picture.width, picture.height, picture.step) == (8, 6, 8)

    def text(tag):
        [event] = events.Tensors(f"{tag}/text_summary")
        return event.tensor_proto.string_val[0].decode()

    assert "    seed: 3\n" in text("config") and "      lr: 0.001\n" in text("config").replace("        lr", "      lr")
    assert "| psnr | 30.75 |  | 8 |  | 64 |" in text("report") and str(tmp_path / "report.html") in text("report")
    ranked, begun = (
        HParamsPluginData.FromString(events.SummaryMetadata(f"_hparams_/{part}").plugin_data.content)
        for part in ("experiment", "session_start_info")
    )
    assert [info.name.tag for info in ranked.experiment.metric_infos] == list(NUMBERS)
    words = {key: value.number_value or value.string_value for key, value in begun.session_start_info.hparams.items()}
    assert words == {
        **{"seed": 3, "name": "None", "first.optimizer.lr": 1e-3, "first.optimizer.betas": "[0.9, 0.99]"},
    }


TRACKED = """
import sys
from pathlib import Path
from tests.logger.test_sink import use
from ldm.logger.trackio import Trackio
from trackio.sqlite_storage import SQLiteStorage
import json
for turn in (1, 2):
    use(Trackio(), Path(sys.argv[1]))
print(json.dumps([SQLiteStorage.get_run_records("ldm"), SQLiteStorage.get_logs("ldm", "run")]))
print(json.dumps(SQLiteStorage.get_run_config("ldm", "run")))
"""


def test_trackio_is_told_all_of_a_run_and_goes_on_with_it(tmp_path):
    pytest.importorskip("trackio")
    said = in_a_process(TRACKED, tmp_path, TRACKIO_DIR=str(tmp_path / "trackio_dir")).splitlines()
    (runs, logs), config = map(json.loads, said[-2:])
    assert [run["name"] for run in runs] == ["run"] and len(logs) == 8, "two times four lines of one run"
    for first, second, picture, last in (logs[:4], logs[4:]):
        assert first.items() >= {"first/loss": 1.0, "first/images": 32}.items()
        assert second.items() >= {"second/loss": 0.5, "second/images": 8}.items()
        assert picture["second/samples"]["_type"] == "trackio.image" and picture["second/images"] == 8
        assert last.items() >= {**NUMBERS, "evaluation/images": 64}.items()
        assert (
            "the run on one page"
            in next((tmp_path / "trackio_dir").rglob(Path(last["report"]["file_path"]).name)).read_text()
        )
        assert [row["value"] for row in last["evaluation/records"]["_value"]] == [12.5, 30.75]
    assert config.items() >= CONFIG.items()


def test_a_logger_that_is_not_installed_is_one_warning(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "trackio", None)
    with caplog.at_level(logging.WARNING):
        use(Guarded(Trackio()), tmp_path)
    assert len(caplog.messages) == 1 and "pip install 'ldm[trackio]'" in caplog.text


UNANSWERED = """
import logging, sys
from pathlib import Path
from ldm.logger.sink import Guarded
from ldm.logger.wandb import WandB
logging.basicConfig(level=logging.INFO, stream=sys.stdout)
sink = Guarded(WandB(timeout=3.0))
sink.open(Path(sys.argv[1]), "run", {})
for i in range(200):
    sink.scalars("first", i, {"loss": 1.0})
print("alive", sink.alive)
sink.close(0)
"""

KILLED = """
import logging, os, signal, sys, time
from pathlib import Path
from ldm.logger.sink import Guarded
from ldm.logger.wandb import WandB
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
sink.close(0)
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
