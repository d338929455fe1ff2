"""What a shell sees: exit codes, messages that fit a screen, signals, ranks. Few processes, for each costs seconds."""

import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from ldm.command.grammar import settable
from ldm.command.terminal import guarded
from ldm.experiment.experiment import Experiment
from ldm.run.signals import DIVERGED, FAILED, FINISHED, PREEMPTED, Diverged, StopFlag
from tests.runs import compose, rows, tiny

ROOT = Path(__file__).parents[2]
NARROW = [
    *(
        "trainer=cpu",
        "logger=none",
        "metric=offline",
        "autoencoder=kl_f4_small",
        "backbone=unet_small",
        "prior.steps=2",
    ),
    *("data.train.count=16", "data.val.count=6", "data.batch_size=4", "data.workers=0", "evaluation.samples=4"),
    *("autoencoder.encoder.width=8", "autoencoder.decoder.width=8", "backbone.width=8", "backbone.multipliers=[1,1]"),
    *("condition.width=8", "condition.depth=1", "condition.vocabulary=300", "condition.heads=2"),
]
# Steps in which Adam is all but linear in the gradient, so that rounding stays rounding.
LINEAR = [
    f"{stage}.optimizer.{word}" for stage in ("first", "second") for word in ("eps=1.0", "lr=0.1", "weight_decay=0.0")
]

pytestmark = pytest.mark.usefixtures("unchecked_file")


def words(folder: Path, name: str, *more: str) -> list[str]:
    return [*NARROW, f"name={name}", f"runs={folder}/runs", f"store={folder}/store-{name}", *more]


def start(*command: str) -> subprocess.Popen:
    command = [sys.executable, *command]
    environment = {key: value for key, value in os.environ.items() if key != "HYDRA_FULL_ERROR"} | {
        "OMP_NUM_THREADS": "1"
    }
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, cwd=ROOT
    )


def finish(process: subprocess.Popen, code: int) -> str:
    said, _ = process.communicate(timeout=280)  # only what hangs takes so long
    assert process.returncode == code, said[-3000:]
    return said


def in_process(arguments: list[str]) -> int:
    return Experiment(compose(*map(settable, arguments))).run()


def weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    return {
        f"{kind}/{key}": value
        for kind in ("model", "raw")
        for key, value in load_file(folder / "runs" / name / "model" / f"{kind}.safetensors").items()
    }


def test_exit_codes(capsys):
    def fail(error):
        raise error

    assert guarded(lambda: None) == guarded(lambda: FINISHED) == 0
    assert guarded(lambda: PREEMPTED) == 75
    assert guarded(lambda: fail(ValueError("a [word] in brackets"))) == FAILED == 1
    assert guarded(lambda: fail(Diverged("too far"))) == DIVERGED == 3
    said = capsys.readouterr().err
    assert "ValueError: a [word] in brackets" in said and "Diverged: too far" in said and "Traceback" not in said


@pytest.mark.parametrize("said", ["short", "a long line " * 30 + "[bold] with 100 %"])
def test_a_file_gets_whole_lines_without_padding(capsys, said):
    assert guarded(lambda: logging.getLogger("ldm").info(said)) == FINISHED
    out = capsys.readouterr().out
    assert re.fullmatch(r"\d\d:\d\d:\d\d ", out[:9]) and out[9:] == f"{said}\n"


def test_the_whole_error_on_demand(monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(ZeroDivisionError):
        guarded(lambda: 1 // 0)


def test_an_error_is_short_on_the_terminal_and_whole_in_the_log(tmp_path, monkeypatch, capfd):
    def fail(self):
        raise RuntimeError("the disk is gone")

    monkeypatch.setattr(Experiment, "_second_stage", fail)
    assert guarded(lambda: Experiment(tiny(tmp_path)).run()) == FAILED
    said = capfd.readouterr().err
    assert "RuntimeError: the disk is gone" in said and "Traceback" not in said
    log = (tmp_path / "runs" / "run" / "log.txt").read_text()
    assert "Traceback" in log and "the disk is gone" in log
    assert not (tmp_path / "runs" / "run" / "lock.json").exists()
    monkeypatch.undo()
    assert guarded(lambda: Experiment(tiny(tmp_path)).run()) == FINISHED, "and the same command goes on"


def test_each_run_of_a_process_has_its_own_log(tmp_path):
    for name in ("one", "two"):
        guarded(lambda name=name: Experiment(tiny(tmp_path, "prior=normal", name=name, steps=1)).run())
    assert "two" not in (tmp_path / "runs" / "one" / "log.txt").read_text()


def test_a_run_that_diverges_ends_with_3(tmp_path):
    config = tiny(tmp_path)
    config["first"] |= {"steps": 12, "patience": 2, "picture_every": 0, "validate_every": 0}
    config["first"]["optimizer"]["lr"] = 1e30
    assert guarded(lambda: Experiment(config).run()) == DIVERGED


def test_settable():
    assert settable("first.clip=2") == "++first.clip=2" and settable("prior=normal") == "prior=normal"
    for argument in ("hydra.run.dir=x", "+a.b=1", "~logger", "--cfg", "stage@first=first", "first.steps"):
        assert settable(argument) == argument


def test_misspelt_words_get_a_suggestion(tmp_path):
    key = start("train.py", *words(tmp_path, "a", "first.stepz=3"))
    group = start("train.py", *words(tmp_path, "b", "prior=difusion"))
    said = finish(key, FAILED)
    assert "first.stepz" in said and "did you mean steps?" in said and "Traceback" not in said
    assert len(said.splitlines()) < 24 and not (tmp_path / "runs").exists()
    said = finish(group, FAILED)
    assert "difusion" in said and "diffusion" in said.replace("difusion", "") and "Traceback" not in said


def test_the_first_signal_is_noted_and_the_second_ends(monkeypatch):
    """What comes within two seconds is the first once more: sent to a whole job, it comes by way of the parent, too."""
    flag, ended, now = StopFlag(), [], [100.0]
    flag.install()
    monkeypatch.setattr("ldm.run.signals.os._exit", ended.append)
    monkeypatch.setattr("ldm.run.signals.time.monotonic", lambda: now[0])
    assert not flag.agreed() and flag.agreed(True) and not flag.raised
    for now[0] in (100.0, 100.1, 101.9):
        os.kill(os.getpid(), signal.SIGUSR1)
        assert flag.agreed() and not ended
    now[0] = 102.1
    os.kill(os.getpid(), signal.SIGTERM)
    assert ended == [128 + signal.SIGTERM]


def test_sigterm_is_75_and_the_same_command_goes_on(tmp_path):
    more = ["first.steps=3", "second.steps=80", "second.log_every=1", "second.picture_every=0"]
    arguments = words(tmp_path, "cut", *more)
    process, journal = start("train.py", *arguments), tmp_path / "runs" / "cut" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (journal.exists() and '"second"' in journal.read_text()):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0][-3000:]
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    said = finish(process, PREEMPTED)
    assert "goes on from here" in said
    reached = max(row["step"] for row in rows(tmp_path / "runs" / "cut", "second"))
    assert 0 < reached < 80
    assert in_process(arguments) == FINISHED
    assert in_process(words(tmp_path, "whole", *more)) == FINISHED
    found, wanted = weights(tmp_path, "cut"), weights(tmp_path, "whole")
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)
    assert rows(tmp_path / "runs" / "cut") == rows(tmp_path / "runs" / "whole")


def test_two_ranks_are_one_run(tmp_path):
    more = ["first.steps=3", "second.steps=3", "first.log_every=1", "second.log_every=1", *LINEAR]
    both = start("train.py", *words(tmp_path, "two", *more, "trainer.devices=2"))
    assert in_process(words(tmp_path, "one", *more)) == FINISHED
    assert "GPU available" not in finish(both, FINISHED), "Lightning is quiet"
    assert sorted(each.name for each in (tmp_path / "runs").iterdir()) == ["one", "two"]
    one, two = weights(tmp_path, "one"), weights(tmp_path, "two")
    worst = {key: (one[key].float() - two[key].float()).abs().max().item() for key in one if one[key].numel()}
    assert max(worst.values()) < 1e-5, max(worst, key=worst.get)
    logged = [
        [(row["stage"], row["step"], row["images"]) for row in rows(tmp_path / "runs" / name)]
        for name in ("one", "two")
    ]
    assert logged[0] == logged[1]
    for a, b in zip(rows(tmp_path / "runs" / "one"), rows(tmp_path / "runs" / "two"), strict=True):
        assert a.keys() == b.keys() and all(a[k] == pytest.approx(b[k], rel=1e-3, abs=1e-4) for k in a if k != "stage")


def test_a_first_stage_that_is_given_on_two_ranks(tmp_path):
    """Each rank takes it, trains none, and it stands in the config and in the model."""
    assert in_process(words(tmp_path, "given", "first.steps=1", "second.steps=1")) == FINISHED
    given = tmp_path / "runs" / "given"
    more = [f"autoencoder.checkpoint={given}", "second.steps=1", "trainer.devices=2"]
    finish(start("train.py", *words(tmp_path, "both", *more)), FINISHED)
    run = tmp_path / "runs" / "both"
    assert {row["stage"] for row in rows(run)} == {"second"}
    assert yaml.safe_load((run / "config.yaml").read_text())["autoencoder"]["checkpoint"] == str(given)
    ours, theirs = (load_file(each / "model" / "model.safetensors") for each in (run, given))
    names = [name for name in theirs if name.startswith("autoencoder.") and "latent_" not in name]
    assert names and all(torch.equal(ours[name], theirs[name]) for name in names)


def test_torchrun_starts_a_lost_rank_again(tmp_path):
    """Its words alone say how many ranks there are; a critic plays along; the run without a name has one directory and goes on
    in it."""
    more = [
        "first.steps=2",
        "second.steps=60",
        "second.save_every=5",
        "loss=kl_gan",
        "loss.adversarial.critic_start=0",
        "loss.adversarial.start=1",
    ]
    arguments = [word for word in words(tmp_path, "", *more) if not word.startswith("name=")]
    agent = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1", "train.py"]
    process = start(*agent, *arguments)
    deadline = time.monotonic() + 200
    while not list(tmp_path.glob("runs/*/checkpoints/second/step-5/manifest.json")):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0][-3000:]
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(max(children, key=int)), signal.SIGKILL)
    said = finish(process, FINISHED)
    assert "was killed, or ended without a word" in said and "second stage goes on after update" in said
    (run,) = (tmp_path / "runs").iterdir()
    assert json.loads((run / "run.json").read_text())["status"] == "finished"
    assert max(row["step"] for row in rows(run)) == 60 and (run / "report.html").exists()


def test_a_sweep_with_ranks(tmp_path):
    """Two jobs of two ranks each: two directories, no rank has one of its own; the same command finds all done, by our launcher
    and by Hydra's."""
    arguments = [word for word in words(tmp_path, "both", "first.steps=1", "second.steps=1") if "store-" not in word]
    arguments += [f"store={tmp_path}/store", "trainer.devices=2", "seed=0,1", "-m"]
    said = finish(start("train.py", *arguments), FINISHED)
    own = sorted(each.name for each in (tmp_path / "runs" / "both").iterdir())
    assert own == ["multirun.yaml", "report", "seed-0", "seed-1", "sweep.json"]
    assert "seed-0" in said and "finished" in said and "psnr" in said
    run = tmp_path / "runs" / "both"
    before = {file: file.stat().st_mtime_ns for file in run.glob("seed-*/**/*")}
    again = finish(start("train.py", *arguments), FINISHED)
    assert "job 1 of 2" in said and "job 1 of 2" not in again, "what is finished is left alone"
    theirs = finish(start("train.py", *arguments, "hydra/launcher=basic"), FINISHED)
    assert theirs.count("is finished under the same words") == 2
    assert {file: file.stat().st_mtime_ns for file in run.glob("seed-*/**/*")} == before


def test_a_prompt_may_hold_commas(tmp_path):
    assert in_process(words(tmp_path, "run", "first.steps=1", "second.steps=1")) == FINISHED
    prompt = 'a star, red = "bright", it\'s [large] {and} $odd'
    said = start(
        "sample.py", f"run={tmp_path}/runs/run", f"prompt={prompt}", "n=3", "guidance=2", f"out={tmp_path}/out"
    )
    finish(said, FINISHED)
    assert sorted(file.name for file in (tmp_path / "out").glob("0*.png")) == ["0000.png", "0001.png", "0002.png"]
    assert (tmp_path / "out" / "grid.png").exists()
    assert json.loads((tmp_path / "out" / "samples.json").read_text())["captions"] == [prompt] * 3
