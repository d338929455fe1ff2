"""Hydra's sweepers and launchers beside ours: the same jobs, names and values, and what is finished is left alone by all."""

import json
import re
import shutil
import sys
from pathlib import Path

import hydra
import pytest
import yaml
from hydra.core.plugins import Plugins
from omegaconf import DictConfig, OmegaConf

from ldm.command import launcher
from ldm.command.job import JobFailed, job, value
from ldm.command.launcher import prepared
from ldm.command.words import heard
from ldm.files import write_json, write_text
from ldm.run.directory import asked_for
from ldm.run.record import Record, write
from ldm.run.signals import FINISHED, PREEMPTED
from tests.pieces import CONF

# Stands for train.py in the processes of our launcher: a run that is finished at once, with one number, its seed doubled.
SCRIPT = """
import json, pathlib, sys
words = dict(word.lstrip("+").split("=", 1) for word in sys.argv[1:])
run = pathlib.Path(words["runs"].strip("'")) / words["name"].strip("'")
run.mkdir(parents=True, exist_ok=True)
with open(pathlib.Path(__file__).with_name("ran.txt"), "a") as file:
    file.write(words["name"].strip("'") + "\\n")
(run / "run.json").write_text('{"status": "finished"}')
(run / "records.jsonl").write_text(json.dumps({"metric": "doubled", "value": 2.0 * float(words["seed"])}) + "\\n")
"""

# A sweeper that searches as Optuna's does: a batch after the other, each from what the last one returned.
SWEEPER = """
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper

class Climber(Sweeper):
    told = []
    def __init__(self, steps):
        self.steps = steps
    def setup(self, *, hydra_context, task_function, config):
        given = dict(hydra_context=hydra_context, task_function=task_function, config=config)
        self.launcher = Plugins.instance().instantiate_launcher(**given)
    def sweep(self, arguments):
        seed = 1
        for step in range(self.steps):
            returned = self.launcher.launch([[f"seed={seed}", *arguments]], initial_job_idx=step)
            Climber.told.append(returned[0].return_value)
            seed = int(Climber.told[-1])

node = {"_target_": "hydra_plugins.climber.Climber", "steps": 3}
ConfigStore.instance().store(group="hydra/sweeper", name="climber", node=node)
"""


class Place:
    """A folder in which sweeps are called, in this process; the jobs of another launcher are done here, too."""

    def __init__(self, folder: Path, conf: Path, monkeypatch):
        self.folder, self.runs, self.conf, self.patch = folder, folder / "runs", conf, monkeypatch
        self.script = folder / "script.py"
        self.script.write_text(SCRIPT)
        self.codes: dict[str, int] = {}

    def train(self, config: dict) -> int:
        """What a job of another launcher does: as the script."""
        run = self.runs / config["name"]
        with open(self.folder / "ran.txt", "a") as file:
            file.write(config["name"] + "\n")
        code = self.codes.get(config["name"], FINISHED)
        if code == FINISHED:
            run.mkdir(parents=True, exist_ok=True)
            write_json(run / "run.json", {"status": "finished", "asked": asked_for(config)})
            write(run / "records.jsonl", Record(metric="doubled", value=2.0 * config["seed"]))
        return code

    def check(self, config: DictConfig) -> dict:
        if config["seed"] < 0:
            sys.exit("seed: to be positive")
        return OmegaConf.to_container(config, resolve=True)

    def sweep(self, *words: str) -> None:
        given = heard(["-m", f"runs={self.runs}", *words], self.conf)
        self.patch.setattr(sys, "argv", ["train.py", *prepared(given, [sys.executable, str(self.script)])])

        @hydra.main(config_path=str(self.conf), config_name="config", version_base="1.3")
        def main(config: DictConfig):
            return job(lambda words: self.check(config), self.train)

        main()

    def ran(self) -> list[str]:
        """The runs that were trained since the last time."""
        file = self.folder / "ran.txt"
        names = file.read_text().splitlines() if file.exists() else []
        file.unlink(missing_ok=True)
        return names


@pytest.fixture(scope="module")
def conf(tmp_path_factory) -> Path:
    return stripped(tmp_path_factory.mktemp("conf"))


def stripped(folder: Path, **more: dict) -> Path:
    """conf/ without its groups, which composes in a moment, and with `more` in their place."""
    whole = yaml.safe_load((CONF / "config.yaml").read_text(encoding="utf-8"))
    defaults = [each for each in whole["defaults"] if each == "_self_" or "override" in next(iter(each))]
    write_text(folder / "config.yaml", yaml.safe_dump(whole | {"defaults": defaults} | more))
    shutil.copytree(CONF / "hydra", folder / "hydra")
    return folder


@pytest.fixture
def place(tmp_path, conf, monkeypatch) -> Place:
    monkeypatch.chdir(tmp_path)
    return Place(tmp_path, conf, monkeypatch)


@pytest.fixture
def climber(tmp_path, monkeypatch):
    """The values that the searching sweeper was told."""
    folder = tmp_path / "plugins" / "hydra_plugins"
    folder.mkdir(parents=True)
    (folder / "climber.py").write_text(SWEEPER)
    monkeypatch.syspath_prepend(str(folder.parent))
    from hydra_plugins.climber import Climber

    Plugins.instance().register(Climber)
    yield Climber.told
    sys.modules.pop("hydra_plugins.climber")


def test_hydras_words_run_a_process_a_job(place):
    place.sweep("name=s", "seed=1,2", "hydra.launcher.n_jobs=2")
    assert sorted(place.ran()) == ["s/seed-1", "s/seed-2"]
    rows = json.loads((place.runs / "s" / "sweep.json").read_text())
    assert [(row["run"], row["status"]) for row in rows] == [("s/seed-1", "finished"), ("s/seed-2", "finished")]
    assert sorted(each.name for each in place.folder.iterdir()) == ["runs", "script.py"], "Hydra writes nothing beside"
    place.sweep("name=s", "seed=1,2,3")
    assert place.ran() == ["s/seed-3"]


def test_a_job_has_the_same_name_under_any_launcher(place):
    awkward = ("store=D/a,D/a-b,'D/a, b'", "evaluation.samples=3", "seed=0,1", "keep=all")
    for words in (("name=ours",), ("name=theirs", "hydra/launcher=basic")):
        place.sweep(*words, *awkward)
    names = [name.partition("/") for name in place.ran()]
    ours, theirs = ([label for sweep, _, label in names if sweep == each] for each in ("ours", "theirs"))
    assert ours == theirs and len(set(ours)) == 6
    assert [re.sub(r"[0-9a-f]{8}$", "HASH", label) for label in ours[:3]] == [
        *("store-D-a_seed-0-HASH", "store-D-a_seed-1-HASH", "store-D-a-b_seed-0-HASH")
    ]


def test_what_is_finished_is_left_alone_by_another_launcher_under_the_same_words_only(place, capsys):
    place.sweep("name=s", "seed=1,2", "hydra/launcher=basic")
    assert place.ran() == ["s/seed-1", "s/seed-2"]
    place.sweep("name=s", "seed=1,3", "hydra/launcher=basic")
    assert place.ran() == ["s/seed-3"]
    assert "s/seed-1 is finished under the same words" in capsys.readouterr().out
    place.sweep("name=s", "seed=1,2", "evaluation.samples=7", "hydra/launcher=basic")
    assert place.ran() == ["s/seed-1", "s/seed-2"]
    write_json(place.runs / "s" / "seed-1" / "run.json", {"status": "stopped"})
    place.sweep("name=s", "seed=1,2", "evaluation.samples=7", "hydra/launcher=basic")
    assert place.ran() == ["s/seed-1"]


def test_a_run_that_another_launcher_made_anew_is_not_what_our_sweep_left(place):
    place.sweep("name=s", "seed=1,2")
    place.sweep("name=s", "seed=2,3", "evaluation.samples=7", "hydra/launcher=basic")
    assert place.ran() == ["s/seed-1", "s/seed-2", "s/seed-2", "s/seed-3"]
    place.sweep("name=s", "seed=1,2")
    assert place.ran() == ["s/seed-2"]


@pytest.mark.parametrize("by", ["ldm", "basic"])
def test_a_sweeper_that_searches_is_told_the_objective(place, climber, by):
    """Doubled each time: 1, 2, 4."""
    words = ["name=s", f"hydra/launcher={by}", "hydra/sweeper=climber", "objective=doubled"]
    place.sweep(*words)
    assert climber == [2.0, 4.0, 8.0] and place.ran() == ["s/seed-1", "s/seed-2", "s/seed-4"]
    place.sweep(*words)
    assert climber == [2.0, 4.0, 8.0] * 2 and place.ran() == []


def test_the_objectives_are_newest_values_of_records_by_name(tmp_path):
    old, new = Record(metric="a", value=1.0), Record(metric="a", value=2.0)
    write(tmp_path / "records.jsonl", old, Record(metric="b", value=3.0), new)
    assert value(tmp_path, None) is None and value(tmp_path, "a") == 2.0 and value(tmp_path, ["b", "a"]) == [3.0, 2.0]
    with pytest.raises(JobFailed, match=r"objective=c: .* has no such record. There are a, b"):
        value(tmp_path, ["a", "c"])


def test_a_job_of_another_launcher_that_fails_ends_its_sweep_with_an_error(place, capsys):
    place.codes = {"s/seed-1": 1}
    with pytest.raises(SystemExit, match="1"):
        place.sweep("name=s", "seed=1,2", "hydra/launcher=basic")
    assert place.ran() == ["s/seed-1", "s/seed-2"], "which is the launcher's to say: basic tries all"
    assert "s/seed-1 did not finish (exit code 1)" in capsys.readouterr().err


def test_a_job_of_another_launcher_that_is_stopped_ends_the_process(place):
    place.codes = {"s/seed-1": PREEMPTED}
    with pytest.raises(SystemExit, match=str(PREEMPTED)):
        place.sweep("name=s", "seed=1,2", "hydra/launcher=basic")
    assert place.ran() == ["s/seed-1"]


def test_a_failed_job_of_ours_is_told_to_the_sweeper(place, capsys):
    place.script.write_text("import sys; sys.exit('ValueError: no' if 'seed=1' in sys.argv else 0)")
    with pytest.raises(SystemExit, match="1"):
        place.sweep("name=s", "seed=1,2")
    rows = json.loads((place.runs / "s" / "sweep.json").read_text())
    assert [row["status"] for row in rows] == ["failed", "finished"]
    said = capsys.readouterr().err
    assert "s/seed-1: failed; the same command tries it again" in said and "Traceback" not in said
    assert "Error executing job" not in said


def test_a_wrong_word_of_a_job_of_another_launcher_is_an_error_of_that_job(place, capsys):
    with pytest.raises(SystemExit, match="1"):
        place.sweep("name=s", "seed=1,-2", "hydra/launcher=basic")
    assert "seed: to be positive" in capsys.readouterr().err
    assert place.ran() == ["s/seed-1"]


def test_without_a_name_each_sweep_is_its_own(place):
    for _ in range(2):
        place.sweep("seed=1,2")
    assert len(list(place.runs.iterdir())) == 2 and len(place.ran()) == 4


@pytest.mark.parametrize(("given", "wanted"), [("name='my sweep'", "my sweep"), ("name=my sweep", "my sweep")])
def test_a_quoted_name_is_the_name_in_it(place, given, wanted):
    place.sweep(given, "seed=1")
    assert [each.name for each in place.runs.iterdir()] == [wanted]
    assert place.ran() == [f"{wanted}/only"]


def test_a_sweep_has_one_name(place):
    with pytest.raises(SystemExit, match="name=a,b: name= is of the whole sweep"):
        place.sweep("name=a,b", "seed=1")


def test_the_users_directory(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    found = prepared(heard(["-m", "name=s", "runs=~/my runs"], CONF), "x")
    assert f"runs='{tmp_path}/my runs'" in found


def test_flags_may_stand_anywhere():
    """Hydra's own parser takes no word after a flag that follows a word."""
    found = prepared(["name=s", "seed=1,2", "--config-dir", "there", "keep=all", "-m", "runs=x"], "x")
    common = "hydra.job.config.override_dirname.exclude_keys=['keep','name','runs']"
    assert found == ["--config-dir", "there", "-m", "name=s", "seed=1,2", "keep=all", "runs=x", common]


@pytest.mark.parametrize("count", ["0", "many"])
def test_a_number_of_processes(place, count, capsys):
    with pytest.raises(SystemExit):
        place.sweep("name=s", "seed=1,2", f"hydra.launcher.n_jobs={count}")
    assert "hydra.launcher.n_jobs: Input should be" in capsys.readouterr().err


def test_our_launcher_is_of_the_package_that_hydra_asks_for(place):
    place.sweep("name=s", "seed=1")
    found = [each for each in Plugins.instance().class_name_to_class if each.startswith("hydra_plugins.ldm.")]
    assert found == ["hydra_plugins.ldm.Launcher"]
    assert Path(sys.modules["hydra_plugins.ldm"].__file__).is_relative_to(launcher._NAMESPACE)
