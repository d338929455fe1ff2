"""Plugins: what users write may use every one, what a file asks for only those that are named; nothing is imported before."""

import functools
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from ldm import plugins
from ldm.build import build
from ldm.command.compose import Words, composed
from ldm.command.evaluate import measure_again
from ldm.command.help import help_text
from ldm.command.words import heard, misspelt
from ldm.experiment.check import checked
from ldm.experiment.experiment import Experiment
from ldm.interop.first_stage import pretrained
from ldm.model import PARTS, LatentModel
from ldm.resolve import PACKAGES, ConfigError, resolve
from ldm.run.signals import FINISHED
from ldm.signature import check, declared
from tests.pieces import CONF
from tests.plugin_package import write_package, write_words
from tests.runs import tiny

NAME = "mynets"


@pytest.fixture(autouse=True)
def fresh(tmp_path, monkeypatch):
    """No plugin is there; the working directory is empty; what a test imports is forgotten."""
    monkeypatch.setenv(plugins.ENVIRONMENT, "")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    plugins.installed.cache_clear()
    before = set(sys.modules)
    yield
    for module in set(sys.modules) - before:
        if module.partition(".")[0] in (NAME, plugins.BESIDE):
            del sys.modules[module]
    plugins.installed.cache_clear()


@pytest.fixture
def mark(tmp_path) -> Path:
    return tmp_path / "mark"


@pytest.fixture
def installed(tmp_path, mark, monkeypatch):
    write_package(tmp_path / "site", NAME, mark, entry_point=True)
    monkeypatch.syspath_prepend(tmp_path / "site")
    return tmp_path / "site" / NAME


@pytest.fixture
def importable(tmp_path, mark, monkeypatch):
    """A package without an entry point."""
    write_package(tmp_path / "site", NAME, mark, entry_point=False)
    monkeypatch.syspath_prepend(tmp_path / "site")
    return tmp_path / "site" / NAME


@pytest.fixture
def beside(mark):
    write_package(Path.cwd(), plugins.BESIDE, mark, entry_point=False)
    return Path.cwd() / plugins.BESIDE


def net(package=NAME, **words):
    return {"_target_": f"{package}.net.Net", "_partial_": True, **words}


# What there is


def test_the_three_kinds(installed, beside):
    assert plugins.named() == () and plugins.known() == (NAME, plugins.BESIDE)
    plugins.name([plugins.BESIDE])
    assert plugins.named() == (plugins.BESIDE,) and plugins.known() == (plugins.BESIDE, NAME)
    assert os.environ[plugins.ENVIRONMENT] == plugins.BESIDE  # which children inherit


def test_versions(installed, beside):
    assert (plugins.version(NAME), plugins.version(plugins.BESIDE)) == ("1.5", None)
    assert plugins.version("hydra") is not None  # of the distribution hydra-core


@pytest.mark.parametrize(
    ("package", "said"),
    [
        ("mynet", "plugin mynet: there is no such package; did you mean mynets"),
        ("nowhere", "there is no such package; it is looked for among the installed packages and here"),
        ("my/nets", "wanted the name of a package, as mynets"),
        ("mynets.nowhere", "there is no such package"),
    ],
)
def test_a_plugin_that_is_not_there(installed, package, said):
    with pytest.raises(ValueError, match=said):
        plugins.name([package])
    assert plugins.named() == ()


def test_a_folder_in_the_working_directory_that_no_plugin_is(mark):
    """Only `my_ldm` and named packages are found there: runs leave a folder `wandb`."""
    write_package(Path.cwd(), "wandb_of_a_run", mark, entry_point=False)
    with pytest.raises(ModuleNotFoundError):
        __import__("wandb_of_a_run")


def test_a_named_package_may_lie_in_the_working_directory(mark):
    write_package(Path.cwd(), NAME, mark, entry_point=False)
    with pytest.raises(ConfigError, match="mynets.net.Net is not allowed"):
        build(net())
    plugins.name([NAME])
    assert isinstance(build(net())(channels=1, context=None), nn.Module)


# What may be built


@pytest.mark.parametrize("kind", ["installed", "beside"])
def test_what_a_user_writes_is_built(kind, request):
    request.getfixturevalue(kind)
    package = {"installed": NAME, "beside": plugins.BESIDE}[kind]
    assert build(net(package, width=3)).keywords == {"width": 3}
    with pytest.raises(ConfigError, match="widht: Net has no such argument; did you mean width"):
        build(net(package, widht=3))


def test_a_package_without_an_entry_point_is_named_first(importable, mark):
    with pytest.raises(ConfigError, match=r"mynets.net.Net is not allowed; .* say plugins=\[mynets\]"):
        resolve("mynets.net.Net")
    assert not mark.exists()
    plugins.name([NAME])
    assert resolve("mynets.net.Net").__name__ == "Net"


def test_what_comes_from_a_file_is_built_of_named_plugins_alone(installed, beside, mark):
    for package in (NAME, plugins.BESIDE):
        with pytest.raises(ConfigError, match="is not allowed"):
            resolve(f"{package}.net.Net", allowed=PACKAGES)
        assert not mark.exists()
        plugins.name([package])
        assert resolve(f"{package}.net.Net", allowed=PACKAGES)
        mark.unlink()


@pytest.mark.parametrize(("path", "hint"), [("mynets.net.Net", True), ("torch.nn.Linear", False), ("os.system", False)])
def test_only_what_may_be_a_users_own_is_said_to_be_a_plugin(path, hint):
    """No message says to open Python or torch to what a file asks for."""
    with pytest.raises(ConfigError) as caught:
        resolve(path)
    assert ("say plugins=" in str(caught.value)) == hint


def test_a_plugin_opens_no_other_package(installed):
    """Neither one that it imports nor one whose name begins as its own."""
    for path in ("mynets.net.nn.Linear", "mynets.net.Path", "mynetsmore.net.Net", "torch.nn.Linear"):
        with pytest.raises(ConfigError):
            resolve(path)


def test_a_named_package_that_is_not_installed(monkeypatch):
    monkeypatch.setenv(plugins.ENVIRONMENT, NAME)
    with pytest.raises(ConfigError, match="needs the package mynets, which is not installed"):
        resolve("mynets.net.Net")


# Words


def test_words_of_a_plugin_are_known_helped_with_composed_and_checked(installed, mark):
    write_words(installed, "backbone", "tiny", f"# Of one layer.\n_target_: {NAME}.net.Net\n_partial_: true\n")
    assert misspelt(["backbone=tiny"], CONF) is None
    assert misspelt(["backbone=tinny"], CONF).startswith("backbone=tinny: no such backbone; did you mean tiny?")
    compose = functools.partial(composed, CONF, "config")
    Words.register()
    assert "tiny" in help_text(["--help"], CONF, "config", compose)
    said = help_text(["--help", "backbone=tiny"], CONF, "config", compose)
    assert "Of one layer." in said and "backbone.width: int = 1" in said
    assert compose(["backbone=tiny"])["prior"]["backbone"] == net()
    with pytest.raises(ConfigError, match="backbone.widht: Net has no such argument; did you mean width"):
        check({"backbone": net(widht=3)})
    assert not mark.exists()


def test_words_of_a_given_folder_are_known(tmp_path):
    write_words(tmp_path, "prior", "mine", "_target_: ldm.prior.normal.Normal\n")
    for words in (["--config-dir", str(tmp_path / "conf")], [f"--config-dir={tmp_path / 'conf'}"]):
        assert misspelt(["prior=mine", *words], CONF) is None
        assert misspelt(["prior=mien", *words], CONF).startswith("prior=mien: no such prior; did you mean mine?")


def test_a_word_that_ldm_has_too_is_refused(installed):
    """Hydra would take ldm's, without a word of the other."""
    write_words(installed, "prior", "normal", "_target_: ldm.prior.normal.Normal\n")
    with pytest.raises(SystemExit, match="ldm and mynets both have the word prior=normal"):
        heard(["seed=1"], CONF)


@pytest.mark.parametrize(
    "word", ["plugins=mynets", "plugins=[mynets]", "++plugins=['mynets']", "--plugins=mynets,my_ldm"]
)
def test_plugins_are_named_on_the_command_line(importable, beside, word):
    assert heard([word, "seed=1"], CONF)[0].lstrip("+").startswith("plugins=[mynets")
    assert NAME in plugins.named() and (plugins.BESIDE in plugins.named()) == (plugins.BESIDE in word)


@pytest.mark.parametrize("given", [["plugins=mynet"], []])
def test_a_misspelt_plugin_is_told(installed, given, monkeypatch):
    if not given:
        monkeypatch.setenv(plugins.ENVIRONMENT, "mynet")
    with pytest.raises(SystemExit, match="plugin mynet: there is no such package; did you mean mynets"):
        heard(given, CONF)


def test_a_run_names_its_plugins(installed, tmp_path):
    config = tiny(tmp_path)
    config["prior"]["backbone"] = net()
    config["autoencoder"].pop("checkpoint")
    assert checked(config)["plugins"] == [NAME] and plugins.named() == (NAME,)


def test_a_config_names_no_plugin_by_itself(importable, tmp_path):
    config = tiny(tmp_path) | {"plugins": [NAME]}
    config["autoencoder"].pop("checkpoint")
    with pytest.raises(ConfigError, match=r"the config says mynets.*LDM_PLUGINS=mynets"):
        checked(config)


# Sources


@pytest.mark.parametrize(
    ("source", "arguments", "free"),
    [
        ("import dataclasses\n@dataclasses.dataclass(frozen=True)\nclass C:\n    a: int = 1\n", ["a"], False),
        ("from .base import B\nclass C(B):\n    pass\n", ["b"], False),
        ("from . import base\nclass C(base.B):\n    pass\n", [], True),
        ("import attrs\n@attrs.define\nclass C:\n    a: int\n", [], True),
        ("from typing import NamedTuple\nclass C(NamedTuple):\n    a: int\n", [], True),
        ("import abc\nclass C(abc.ABC):\n    pass\n", [], False),
    ],
)
def test_a_source_that_does_not_tell_refuses_nothing(importable, source, arguments, free):
    (importable / "base.py").write_text("class B:\n    def __init__(self, b: int): ...\n")
    name = f"m{abs(hash(source))}"
    (importable / f"{name}.py").write_text(source)
    plugins.name([NAME])
    found = declared(f"{NAME}.{name}.C")
    assert (list(found.arguments), found.free) == (arguments, free)


def test_a_relative_import_of_a_package_begins_at_itself(importable):
    (importable / "base.py").write_text("class B:\n    def __init__(self, b: int): ...\n")
    (importable / "__init__.py").write_text("from .base import B\n\n\nclass C(B):\n    pass\n")
    plugins.name([NAME])
    assert list(declared(f"{NAME}.C").arguments) == ["b"]


# Files


def model_of(package, folder: Path) -> LatentModel:
    config = tiny(folder)
    config["autoencoder"].pop("checkpoint")
    config["prior"]["backbone"] = net(package)
    return LatentModel.build(config)


def test_a_saved_model_records_the_plugins_that_it_needs(installed, tmp_path, caplog):
    model_of(NAME, tmp_path).save(tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    saved = json.loads(file.read_text())
    assert saved["plugins"] == {NAME: "1.5"}
    with pytest.raises(
        ConfigError, match=r"model needs the plugin mynets 1\.5, .*plugins=\[mynets\].*LDM_PLUGINS=mynets"
    ):
        LatentModel.load(tmp_path / "model")
    found = LatentModel.load(tmp_path / "model", plugins=(NAME,))
    assert type(found.prior.denoiser.backbone).__module__ == "mynets.net" and not caplog.text
    with pytest.raises(ConfigError, match="needs the plugin"):  # the argument was of that call
        LatentModel.load(tmp_path / "model")
    file.write_text(json.dumps(saved | {"plugins": {NAME: "1.4"}}))
    plugins.name([NAME])
    LatentModel.load(tmp_path / "model")
    assert "was saved with mynets 1.4, and here is 1.5" in caplog.text


def test_a_model_of_a_folder_beside_has_no_version(beside, tmp_path):
    model_of(plugins.BESIDE, tmp_path).save(tmp_path / "model")
    assert json.loads((tmp_path / "model" / "config.json").read_text())["plugins"] == {plugins.BESIDE: None}
    with pytest.raises(ConfigError, match="needs the plugin my_ldm, whose code"):
        LatentModel.load(tmp_path / "model")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    assert Experiment(tiny(folder, "metric=none")).run() == FINISHED
    return folder / "runs" / "run"


def hostile(run: Path, part: str, package: str, claimed: object) -> Path:
    """The run's model with a node of a package in one part, and what it claims to need."""
    file = run / "model" / "config.json"
    config = json.loads(file.read_text())
    if part == "prior":
        config["prior"]["backbone"] = net(package)
    elif part == "autoencoder":
        config["autoencoder"]["encoder"] = net(package)
    else:
        config["condition"] = {"_target_": f"{package}.net.Net", "channels": 1, "context": None}
    file.write_text(json.dumps(config | {"plugins": claimed}))
    return run


@pytest.mark.parametrize("kind", ["installed", "importable", "beside"])
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("claimed", [{}, {"mynets": "9", "my_ldm": None}, {"ldm": "1"}, [["mynets"]], None])
def test_a_strangers_model_runs_nothing(finished, tmp_path, mark, kind, part, claimed, request):
    """Whatever is installed, lies about, or is claimed: its code is not even imported."""
    request.getfixturevalue(kind)
    package = plugins.BESIDE if kind == "beside" else NAME
    run = hostile(shutil.copytree(finished, tmp_path / "run"), part, package, claimed)
    with pytest.raises(ConfigError, match=f"needs the plugin {package}"):
        LatentModel.load(run)
    if part == "autoencoder":
        with pytest.raises(ConfigError, match=f"needs the plugin {package}"):
            pretrained(run).config((3, 32, 32))
    assert not mark.exists() and package not in sys.modules


def test_the_mark_would_be_left(installed, finished, tmp_path, mark):
    """The test above bites: named, the package is imported."""
    run = hostile(shutil.copytree(finished, tmp_path / "run"), "prior", NAME, {})
    with pytest.raises(ValueError, match=r"model\.safetensors does not fit"):
        LatentModel.load(run, plugins=(NAME,))
    assert mark.exists()


def test_a_strangers_run_is_not_measured(installed, finished, tmp_path, mark):
    run = shutil.copytree(finished, tmp_path / "run")
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["metric"] = {"x": {"_target_": f"{NAME}.net.Net"}}
    (run / "config.yaml").write_text(yaml.safe_dump(config | {"plugins": [NAME]}))
    with pytest.raises(ConfigError, match="needs the plugin mynets"):
        measure_again(str(run), 2, None, None, 0, "average", None, "cpu")
    assert not mark.exists()


def test_a_strangers_first_stage_is_not_trained_on(installed, finished, tmp_path, mark):
    run = hostile(shutil.copytree(finished, tmp_path / "run"), "autoencoder", NAME, {})
    with pytest.raises(ConfigError, match="needs the plugin mynets"):
        Experiment(tiny(tmp_path, f"autoencoder.checkpoint={run}"))
    assert not mark.exists()


def test_a_strangers_prior_is_not_begun_from(installed, finished, tmp_path, mark):
    run = hostile(shutil.copytree(finished, tmp_path / "run"), "prior", NAME, {})
    with pytest.raises(ConfigError, match="needs the plugin mynets"):
        Experiment(tiny(tmp_path, f"+prior.checkpoint={run}")).run()
    assert not mark.exists()


def test_weights_of_a_plugins_network_come_back(installed, tmp_path):
    torch.manual_seed(0)
    model = model_of(NAME, tmp_path)
    model.save(tmp_path / "model")
    found = LatentModel.load(tmp_path / "model", plugins=[NAME])
    assert torch.equal(found.prior.denoiser.backbone.only.weight, model.prior.denoiser.backbone.only.weight)
