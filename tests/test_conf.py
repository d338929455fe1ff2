"""The config tree: every file builds something that exists, with arguments that it takes, in every place it can take."""

import inspect
import re
import shlex
from pathlib import Path

import pytest
import yaml

from ldm.build import check, is_node
from ldm.command.apply import apply
from ldm.command.compose import composed
from ldm.command.evaluate import measure_again
from ldm.command.sample import sample
from ldm.command.words import heard
from ldm.experiment.experiment import Experiment
from ldm.resolve import resolve
from ldm.signature import PIECES
from ldm.signature import check as check_signatures
from tests.pieces import CONF
from tests.runs import compose

ENTRIES = {"train.py": "config", "sample.py": "sample", "evaluate.py": "evaluate"}
FILES = sorted(
    file for file in CONF.rglob("*.yaml") if not file.is_relative_to(CONF / "hydra")
)  # which Hydra builds itself
# What is handed to a node beside its config, by whoever builds it.
GIVEN = {"condition": ("first",), "prior": ("latents", "context"), "alignment": ("width", "grid")}
# A group lands at a key of its own name, but for these.
PLACES = {"stage": ("first", "second"), "optimizer": ("first.optimizer", "second.optimizer")}

OF_FINISHED = {"task", "diffusion/posterior"}  # groups of `ldm apply` alone

# A group below a word of another one is there where that word was chosen.
BELOW = {
    "backbone/position": ("backbone=dit",),
    "backbone/routing": ("backbone=dit",),
    "prior/head": ("prior=pixelcnn",),
    "prior/transform": ("prior=tarflow",),
}


def group(file: Path) -> str:
    return file.parent.relative_to(CONF).as_posix()


def name(file: Path) -> str:
    return file.relative_to(CONF).as_posix()


OPTIONS = [file for file in FILES if file.parent != CONF and group(file) != "experiment"]
EXPERIMENTS = [file for file in FILES if group(file) == "experiment"]


def choices(file: Path) -> list[tuple[str, str]]:
    """The words that choose a file, each with the key at which it lands."""
    own, places = group(file), PLACES.get(group(file), ())
    if not places:
        return [(f"{own}={file.stem}", own.replace("/", "."))]
    return [(f"{own}@{place}={file.stem}", place) for place in places]


def at(config: dict, key: str) -> dict:
    for part in key.split("."):
        config = config[part]
    return config


@pytest.mark.parametrize("file", FILES, ids=name)
def test_a_target_resolves(file):
    """Also of nodes that another one holds, wherever they stand."""

    def walk(value):
        if is_node(value):
            resolve(value["_target_"], name(file))
        for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            walk(item)

    walk(yaml.safe_load(file.read_text(encoding="utf-8")))


@pytest.mark.parametrize("file", [file for file in OPTIONS if group(file) == "task"], ids=name)
def test_every_task_fits(file, tmp_path):
    check(compose(f"task={file.stem}", missing=str(tmp_path), name="apply")["task"], "task")


@pytest.mark.parametrize("file", [file for file in OPTIONS if group(file) == "diffusion/posterior"], ids=name)
def test_every_posterior_fits(file, tmp_path):
    words = ("task=super_resolution", f"diffusion/posterior={file.stem}")
    check(compose(*words, missing=str(tmp_path), name="apply")["task"], "task")


@pytest.mark.parametrize("file", [file for file in OPTIONS if group(file) not in OF_FINISHED], ids=name)
def test_every_option_fits(file, tmp_path):
    for word, place in choices(file):
        config = compose(*BELOW.get(group(file), ()), word, missing=str(tmp_path))
        node = dict(at(config, place))
        node.pop("checkpoint", None)  # takes the place of an autoencoder's parts, as Experiment reads it
        if is_node(node):
            check(node, place, GIVEN.get(place, ()))
        else:
            check(node, place)
        Experiment(config)


@pytest.mark.parametrize("file", EXPERIMENTS, ids=name)
def test_every_experiment_fits(file, tmp_path):
    config = compose(f"experiment={file.stem}", missing=str(tmp_path))
    assert config["experiment"] == file.stem, "numbers are grouped under the experiment's own name"
    Experiment(config)


@pytest.mark.parametrize("file", EXPERIMENTS, ids=name)
def test_an_experiment_says_how_it_is_run(file):
    header = file.read_text(encoding="utf-8").split("defaults:")[0]
    assert f"# python train.py experiment={file.stem}" in header


@pytest.mark.parametrize("file", EXPERIMENTS, ids=name)
def test_commands_of_a_header_fit(file):
    """Also those of sizes that nobody here can train; what follows three spaces is explanation."""
    header = file.read_text(encoding="utf-8").split("defaults:")[0]
    commands = [line.removeprefix("# ").split("   ")[0] for line in header.splitlines() if "# python" in line]
    for _, entry, *words in map(shlex.split, commands):
        plain = composed(CONF, ENTRIES[entry], heard(words, CONF, ENTRIES[entry]))
        if entry == "train.py":
            check_signatures({key: value for key, value in plain.items() if key not in PIECES})


@pytest.mark.parametrize(("entry", "function"), [("sample", sample), ("apply", apply), ("evaluate", measure_again)])
def test_the_other_entry_points_name_their_arguments(entry, function):
    """conf/sample.yaml and the like are the arguments of the functions that they call, no more and no less."""
    wanted = inspect.signature(function).parameters
    assert compose(name=entry).keys() == wanted.keys()


def test_nothing_but_choices():
    """A yaml is plain data: no tag that a loader would build something from."""
    for file in FILES:
        assert "!!" not in file.read_text(encoding="utf-8"), name(file)


# Groups whose classes are other packages', or several of ours.
ELSEWHERE = {"optimizer": "torch.optim", "trainer": "lightning", "callback": "lightning", "hydra": "hydra_plugins"}
ELSEWHERE |= {"hydra/sweeper/sampler": "optuna.samplers", "hydra/sweeper/pruner": "optuna.pruners"}
ELSEWHERE |= {"prior/transform": "ldm.bijection.transform"}


def test_a_word_stands_where_its_class_stands():
    """conf/a/b/x.yaml builds a class of ldm.a: a folder of words is a package."""
    wrong = []
    for file in sorted(CONF.rglob("*.yaml")):
        own, group = file.parent.relative_to(CONF).as_posix(), file.relative_to(CONF).parts[0]
        target = re.search(r"^_target_: (\S+)", file.read_text(encoding="utf-8"), re.MULTILINE)
        package = ELSEWHERE.get(own, ELSEWHERE.get(group, f"ldm.{group}"))
        if target and len(file.relative_to(CONF).parts) > 1 and not target[1].startswith(f"{package}."):
            wrong.append(f"{file.relative_to(CONF)}: {target[1]}")
    assert not wrong
