"""What is read off a class's source is what the class says when it is imported."""

import ast
import inspect
import re
import sys

import pytest

from ldm.build import signature_of
from ldm.resolve import ConfigError, resolve
from ldm.signature import BESIDE, check, declared, documented
from tests.pieces import CONF
from tests.runs import compose

TARGETS = sorted(
    {
        target
        for file in CONF.rglob("*.yaml")
        for target in re.findall(r"_target_: ([\w.]+)", file.read_text(encoding="utf-8"))
        if not target.startswith(("hydra_plugins.", "optuna.", "ldm.command."))  # which Hydra builds itself
    }
)


@pytest.mark.parametrize("target", TARGETS)
def test_arguments_are_those_of_the_class(target):
    found = declared(target)
    parameters = signature_of(resolve(target)).parameters.values()
    if sys.version_info >= (3, 11, 7):
        assert [*parameters] == [*inspect.signature(resolve(target)).parameters.values()]
    named = [each for each in parameters if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]
    assert list(found.arguments) == [each.name for each in named]
    assert any(each.kind is each.VAR_KEYWORD for each in parameters) == found.free
    for each in named:
        argument = found.arguments[each.name]
        assert (argument.default is None) == (each.default is each.empty), each.name
        value = each.default if argument.default is None else argument.value()
        assert value == each.default or value == ast.unparse(argument.default), each.name


@pytest.mark.parametrize("target", [target for target in TARGETS if target.startswith("ldm.")])
def test_every_argument_has_its_line(target):
    """Help tells it, and so does the docstring."""
    missing = [name for name, each in declared(target).arguments.items() if not each.doc]
    assert not missing, f"{target}: the docstring says nothing of {', '.join(missing)}"


def test_kinds_without_the_packages_that_others_name():
    arguments = declared("ldm.stage.recipe.Recipe").arguments
    with pytest.raises(ConfigError, match=r"^first\.steps: Input should be greater than 0; got 0"):
        check({"first": {"_target_": "ldm.stage.recipe.Recipe", "steps": 0}})
    assert arguments["compile"].kind() is bool
    assert arguments["decay"].value() == 0.999 and "0 to 1" not in arguments["decay"].doc
    assert arguments["rate"].kind() is not arguments["clip"].kind(), "a class of ours is told by its import only"


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (
            {"a": [{"_target_": "ldm.diffusion.sampler.ddim.DDIM", "etta": 1}]},
            "a[0].etta: DDIM has no such argument; did",
        ),
        (
            {"a": {"_target_": "ldm.diffusion.sampler.ddim.DDIM", "eta": 2}},
            "a.eta: Input should be less than or equal to 1",
        ),
        (
            {"autoencoder": {"_target_": "ldm.autoencoder.autoencoder.Autoencoder", "chekpoint": 1}},
            "autoencoder.chekpoint",
        ),
        ({"_target_": "ldm.stage.rate.Cosine", "x": 1}, "x: Cosine has no such argument; it takes warmup, final"),
    ],
)
def test_a_wrong_argument(config, said):
    with pytest.raises(ConfigError, match=f"^{re.escape(said)}"):
        check(config)


@pytest.mark.parametrize(
    "config",
    [
        {"autoencoder": {"_target_": "ldm.autoencoder.autoencoder.Autoencoder", "checkpoint": "x"}},
        {"a": {"_target_": "os.system", "command": "x"}},
        {"a": {"_target_": "logging.Handler", "levl": 1}},
        {"a": {"_target_": "ldm.nowhere.Nothing", "x": 1}},
        {"a": {"_target_": "ldm.stage.rate.Nothing", "x": 1}},
        {"a": {"_target_": 3}},
        {"a": {"_target_": "ldm.stage.rate.Cosine", "_partial_": True, "final": 0.1}},
    ],
)
def test_what_only_the_classes_can_tell_is_left_to_them(config):
    check(config)


def test_nothing_is_imported_to_be_read(tmp_path, monkeypatch):
    """Nor run: a module that would leave a trace is read, and a strange one is not even looked for."""
    package = tmp_path / "lightning" / "pytorch" / "profilers"
    package.mkdir(parents=True)
    for folder in (package, package.parent, package.parent.parent):
        folder.joinpath("__init__.py").write_text("raise AssertionError('imported')\n")
    package.joinpath("mine.py").write_text(
        "class Mine:\n    def __init__(self, a: int = 1, *, b=2, **rest):\n        1 / 0\n"
    )
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    found = declared("lightning.pytorch.profilers.mine.Mine")
    assert list(found.arguments) == ["a", "b"] and found.free and found.arguments["a"].kind() is int
    check({"_target_": "lightning.pytorch.profilers.mine.Mine", "a": 2, "whatever": 3})


@pytest.mark.parametrize("experiment", sorted(file.stem for file in (CONF / "experiment").glob("*.yaml")))
def test_every_experiment_passes(experiment):
    check(
        {
            key: value
            for key, value in compose(f"experiment={experiment}").items()
            if key not in ("backbone", "diffusion")
        }
    )


def test_words_beside_a_part_are_told_by_its_yamls():
    for file in (CONF / "autoencoder").glob("*.yaml"):
        assert "\ncheckpoint: null" in file.read_text(encoding="utf-8"), file
    assert {part for part, words in BESIDE.items() if "checkpoint" in words} == {"autoencoder", "prior"}


def test_documented():
    doc = """What it is.

    Arguments:
        a, b: one line
            and another.
        c (float, optional): a number: of things (default: 1).
    Raises:
        ValueError: never.
    """
    wanted = {"a": "one line and another.", "b": "one line and another.", "c": "a number: of things (default: 1)."}
    assert documented(inspect.cleandoc(doc)) == documented(doc) == wanted
