"""A config is checked against signatures before anything is built, and can name nothing but allowed classes."""

import sys
from pathlib import Path

import pytest
import torch

import ldm.data.hub
import ldm.experiment.experiment  # noqa: F401  whatever ldm itself needs is imported before a hostile target is looked at
from ldm.autoencoder.bottleneck import DiagonalGaussian
from ldm.build import build, check
from ldm.model import MODEL_PACKAGES
from ldm.prior.base import Latents
from ldm.prior.diffusion import Diffusion
from ldm.prior.normal import Normal
from ldm.resolve import ConfigError, resolve
from ldm.stage.rate import Cosine
from ldm.stage.recipe import Recipe
from ldm.types import ContextShape

ADAMW = {"_target_": "torch.optim.AdamW", "_partial_": True, "lr": 1e-3, "betas": [0.9, 0.99]}
COSINE = {"_target_": "ldm.stage.rate.Cosine", "warmup": 3}
RECIPE = {"_target_": "ldm.stage.recipe.Recipe", "steps": 5, "optimizer": ADAMW, "rate": COSINE}
DIFFUSION = {
    "_target_": "ldm.prior.diffusion.Diffusion",
    "backbone": {
        "_target_": "ldm.backbone.unet.UNet",
        "_partial_": True,
        "width": 8,
        "attention": [False],
        "multipliers": [1],
    },
    "schedule": {"_target_": "ldm.diffusion.schedule.Cosine"},
    "parameterization": {"_target_": "ldm.diffusion.parameterization.V"},
    "weighting": {"_target_": "ldm.diffusion.weighting.Prediction"},
    "time": {"_target_": "ldm.diffusion.time.Uniform"},
    "sampler": {"_target_": "ldm.diffusion.sampler.ddim.DDIM"},
    "grid": {"_target_": "ldm.diffusion.grid.Uniform"},
    "guidance": {"_target_": "ldm.diffusion.guidance.classifier_free.ClassifierFree", "_partial_": True, "scale": 2.0},
}
GIVEN = {"latents": Latents((4, 8, 8)), "context": ContextShape()}


def refused(config, *words: str, given=(), where="config") -> str:
    """The message of the refusal, which holds all of `words`."""
    with pytest.raises(ConfigError) as caught:
        check(config, where, given)
    for word in words:
        assert word in str(caught.value), f"{word!r} is not in: {caught.value}"
    return str(caught.value)


def test_nested_nodes_partials_and_given_arguments():
    recipe = build(RECIPE)
    assert (
        isinstance(recipe, Recipe) and recipe.steps == 5 and isinstance(recipe.rate, Cosine) and recipe.rate.warmup == 3
    )
    optimizer = recipe.optimizer([torch.nn.Parameter(torch.zeros(2))])
    assert isinstance(optimizer, torch.optim.AdamW) and optimizer.param_groups[0]["lr"] == 1e-3
    prior = build(DIFFUSION, "prior", **GIVEN)
    assert isinstance(prior, Diffusion) and prior.latents.shape == (4, 8, 8) and prior.steps == 50


def test_lists_and_mappings_keep_their_form():
    built = build({"a": [COSINE, 3], "b": {"c": COSINE}, "d": "word", "e": None})
    assert isinstance(built["a"][0], Cosine) and built["a"][1] == 3 and isinstance(built["b"]["c"], Cosine)
    assert built["d"] == "word" and built["e"] is None


def test_a_config_is_not_altered():
    node = {**RECIPE, "steps": "7"}
    assert build(node).steps == 7 and node["steps"] == "7"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"stepz": 3}, ["first.stepz", "did you mean steps?"]),
        ({"pateince": 3}, ["first.pateince", "did you mean patience?"]),
        ({"xyzzy": 3}, ["first.xyzzy", "it takes", "accumulate"]),
        ({"steps": "abc"}, ["first.steps", "integer", "'abc'"]),
        ({"steps": 1.5}, ["first.steps", "integer", "1.5"]),
        ({"steps": -1}, ["first.steps", "greater than 0", "-1"]),
        ({"steps": None}, ["first.steps", "None"]),
        ({"steps": [3]}, ["first.steps", "[3]"]),
        ({"decay": 1.5}, ["first.decay", "less than or equal to 1"]),
        ({"clip": 0}, ["first.clip", "greater than 0"]),
        ({"validate_every": -2}, ["first.validate_every", "greater than or equal to 0"]),
        ({"compile": "perhaps"}, ["first.compile", "'perhaps'"]),
        ({"optimizer": {**ADAMW, "lr": "abc"}}, ["first.optimizer.lr", "'abc'"]),
        ({"optimizer": {**ADAMW, "lrr": 1.0}}, ["first.optimizer.lrr", "did you mean lr?"]),
        ({"optimizer": {**ADAMW, "betas": [0.9]}}, ["first.optimizer.betas"]),
        ({"optimizer": {**ADAMW, "_partial_": "si"}}, ["first.optimizer._partial_"]),
        (
            {"optimizer": {k: v for k, v in ADAMW.items() if k != "_partial_"}},
            ["first.optimizer: AdamW waits for params, which Recipe gives", "_partial_: true"],
        ),
        ({"optimizer": 3}, ["first.optimizer", "callable"]),
        ({"rate": {**COSINE, "final": 2}}, ["first.rate.final"]),
        ({"rate": {**COSINE, "_partial_": True}}, ["first.rate", "Rate", "_partial_"]),
        ({"rate": "cosine"}, ["first.rate", "'cosine'"]),
        ({"rate": {"_target_": "ldm.diffusion.schedule.Cosine"}}, ["first.rate", "wants a Rate", "schedule.Cosine"]),
        ({"rate": {"_target_": "ldm.stage.rate.Cosin"}}, ["first.rate._target_", "did you mean Cosine?"]),
        ({"rate": {"_target_": "ldm.stage.rat.Cosine"}}, ["first.rate._target_", "did you mean rate?"]),
        ({"rate": {"_target_": "ldm.stage.rate"}}, ["first.rate._target_", "not a class"]),
        (
            {"optimizer": {**ADAMW, "_target_": "torch.optim.AdmaW"}},
            ["first.optimizer._target_", "did you mean AdamW?"],
        ),
        ({"rate": {"_target_": "ldm.stage.rate.Cosine.shape"}}, ["first.rate._target_"]),
        ({"rate": {"_target_": 3}}, ["first.rate._target_", "3"]),
        ({"rate": {"_target_": ""}}, ["first.rate._target_", "''"]),
    ],
)
def test_what_does_not_fit_is_named(change, words):
    refused({**RECIPE, **change}, *words, where="first")


def test_missing_and_given_arguments():
    refused({k: v for k, v in RECIPE.items() if k != "rate"}, "config.rate", "Recipe", "not given")
    refused(DIFFUSION, "config.latents", "not given")
    check(DIFFUSION, given=tuple(GIVEN))
    check({**DIFFUSION, "_partial_": True})
    refused({"_target_": "ldm.autoencoder.bottleneck.DiagonalGaussian"}, "channels")
    assert isinstance(
        build({"_target_": "ldm.autoencoder.bottleneck.DiagonalGaussian", "channels": 4}), DiagonalGaussian
    )
    assert isinstance(build({"_target_": "ldm.prior.normal.Normal"}, **GIVEN), Normal)


def test_errors_below_lists_and_mappings_are_placed():
    refused({"a": [{**COSINE, "warmup": "x"}]}, "config.a[0].warmup")
    refused({"a": {"b": {**COSINE, "warm": 1}}}, "config.a.b.warm", "did you mean warmup?")


NETWORK = {"_target_": "ldm.metric.features.RandomConv", "_partial_": True}
NETWORKS = {"_target_": "ldm.metric.distance.Distances", "networks": {"conv": NETWORK}}
DISTANCES = {"_target_": "ldm.metric.path_length.PathLength"}


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ("none", "metric.networks.other=none: to leave it out say ~metric.networks.other"),
        (None, "metric.networks.other=null: to leave it out say ~metric.networks.other"),
        (
            3,
            "other: Input should be callable; got 3; name its class in _target_, as metric.networks.other._target_=",
        ),
    ],
)
def test_what_stands_beside_nodes_in_a_mapping_is_checked(other, said):
    """The first network is a node, so what pydantic makes of the mapping as a whole is not known."""
    refused({**NETWORKS, "networks": {"conv": NETWORK, "other": other}}, said, where="metric")


def test_nodes_in_a_mapping_are_of_its_class():
    refused(
        {**DISTANCES, "distances": {"rate": COSINE}},
        "metric.distances.rate: PathLength wants a Perceptual here",
        where="metric",
    )
    fine = {"_target_": "ldm.loss.perceptual.LaplacianPyramid"}
    check({**DISTANCES, "distances": {"pyramid": fine}}, "metric")


# Targets that must neither be imported nor run. `{marker}` is a file that none of them may touch.

HOSTILE = [
    {"_target_": "os.system", "command": "touch {marker}"},
    {"_target_": "posix.system", "command": "touch {marker}"},
    {"_target_": "subprocess.Popen", "args": ["touch", "{marker}"]},
    {"_target_": "subprocess.run", "args": ["touch", "{marker}"]},
    {"_target_": "builtins.open", "file": "{marker}", "mode": "w"},
    {"_target_": "builtins.eval", "_partial_": True},
    {"_target_": "builtins.__import__", "name": "antigravity"},
    {"_target_": "pathlib.Path.write_text", "self": "{marker}", "data": ""},
    {"_target_": "pathlib.Path.touch", "self": "{marker}"},
    {"_target_": "torch.load", "f": "{marker}", "weights_only": False},
    {"_target_": "torch.hub.load", "repo_or_dir": "{marker}", "model": "x", "source": "local"},
    {"_target_": "torch.nn.Linear", "in_features": 1, "out_features": 1},
    {"_target_": "torch.optimistic.AdamW"},
    {"_target_": "torch.optim.optimizer.torch.load", "f": "{marker}"},
    {"_target_": "torch.optim.adamw.torch.hub.load", "repo_or_dir": "{marker}", "model": "x"},
    {"_target_": "numpy.load", "file": "{marker}", "allow_pickle": True},
    {"_target_": "pickle.load", "file": "{marker}"},
    {"_target_": "logging.os.system", "command": "touch {marker}"},
    {"_target_": "logging.FileHandler", "filename": "{marker}"},
    {"_target_": "antigravity.webbrowser.open", "url": "{marker}"},
    {"_target_": "this.d.update"},
    {"_target_": "ldm.files.os.system", "command": "touch {marker}"},
    {"_target_": "ldm.files.shutil.rmtree", "path": "{marker}"},
    {"_target_": "ldm.files.Path", "_partial_": True},
    {"_target_": "ldm.files.Path.touch", "self": "{marker}"},
    {"_target_": "ldm.files.write_text", "path": "{marker}", "text": ""},
    {"_target_": "ldm.files.os", "_partial_": True},
    {"_target_": "ldm.stage.launch.subprocess.Popen", "args": ["touch", "{marker}"]},
    {"_target_": "ldm.run.evaluation.subprocess.run", "args": ["touch", "{marker}"]},
    {"_target_": "ldm.build.importlib.import_module", "name": "antigravity"},
    {"_target_": "ldm.build.importlib.abc.Loader"},
    {"_target_": "ldm.build.build", "config": {}},
    {"_target_": "ldm.build.types.FunctionType"},
    {"_target_": "ldm.model.read_tensors", "filename": "{marker}"},
    {"_target_": "ldm.model.LatentModel.load", "folder": "{marker}"},
    {"_target_": "ldm.model.LatentModel.__class__", "_partial_": True},
    {"_target_": "ldm.model.torch.load", "f": "{marker}"},
    {"_target_": "ldm.data.hub.datasets.load_dataset", "path": "{marker}"},
    {"_target_": "lightning.pytorch.utilities.model_helpers.os.system", "command": "touch {marker}"},
    {"_target_": "lightning.pytorch.cli.LightningCLI", "args": ["fit"]},
    {"_target_": "ldm..files.os"},
    {"_target_": "ldm.files.os.system;import os"},
    {"_target_": "ldm-evil.x"},
    {"_target_": "ldmx.y.Z"},
    {"_target_": ["os", "system"]},
]


def armed(node, marker: Path):
    """The node with the marker's path written in."""
    if isinstance(node, dict):
        return {key: armed(value, marker) for key, value in node.items()}
    if isinstance(node, list):
        return [armed(value, marker) for value in node]
    return node.replace("{marker}", str(marker)) if isinstance(node, str) else node


@pytest.mark.parametrize("node", HOSTILE, ids=lambda node: str(node["_target_"]))
def test_hostile_targets_are_refused_unimported(node, tmp_path):
    marker = tmp_path / "marker"
    hostile = armed(node, marker)
    inside = {**DIFFUSION, "schedule": hostile}
    waiting = {**RECIPE, "optimizer": {**hostile, "_partial_": True}}
    listed = {"callbacks": [COSINE, {"deep": hostile}]}
    before = set(sys.modules)
    for config, given in ((hostile, {}), (inside, GIVEN), (waiting, {}), (listed, {})):
        with pytest.raises(ConfigError):
            build(config, **given)
    with pytest.raises(ConfigError):
        build(hostile, allowed=MODEL_PACKAGES)
    new = {name for name in set(sys.modules) - before if not name.startswith("ldm.")}
    assert not new, f"imported: {sorted(new)[:5]}"
    assert not marker.exists() and "antigravity" not in sys.modules and "this" not in sys.modules


def test_the_resolved_class_counts_and_not_the_path(monkeypatch):
    """A foreign class at an allowed path, and an allowed one reached through a foreign module, are both refused."""
    import ldm.files

    monkeypatch.setattr(ldm.files, "Normal", __import__("subprocess").Popen, raising=False)
    with pytest.raises(ConfigError):
        resolve("ldm.files.Normal")
    monkeypatch.setattr(ldm.files, "aliased", __import__("ldm.prior.normal").prior.normal, raising=False)
    with pytest.raises(ConfigError):
        resolve("ldm.files.aliased.Normal")


def test_a_narrower_list_refuses_the_rest_of_ldm():
    assert resolve("ldm.prior.normal.Normal", allowed=MODEL_PACKAGES) is Normal
    for path in (
        "ldm.data.folder.Folder",
        "ldm.logger.wandb.WandB",
        "torch.optim.AdamW",
        "ldm.experiment.experiment.Experiment",
    ):
        with pytest.raises(ConfigError, match="not allowed"):
            resolve(path, allowed=MODEL_PACKAGES)


def test_an_absent_third_party_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ldm.condition.frozen", None)
    monkeypatch.delattr("ldm.condition.frozen", raising=False)
    with pytest.raises(ConfigError, match="ldm.condition.frozen"):
        resolve("ldm.condition.frozen.FrozenText")


def test_arguments_without_their_class_say_what_is_missing():
    """As data.val.root=DIR does where the config's data.val is null."""
    shapes = {"_target_": "ldm.data.shapes.Shapes", "count": 4, "split": "train"}
    config = {"_target_": "ldm.data.module.DataModule", "train": shapes, "image_shape": [3, 32, 32], "batch_size": 2}
    refused(config | {"val": {"root": "DIR"}}, "data.val", "Source", "{'root': 'DIR'}", "in _target_", where="data")


def test_what_is_handed_in_stands_above_the_config_and_a_partial_keeps_its_arguments():
    node = {"_target_": "ldm.nn.norm.Group", "channels": 8, "groups": 2}
    assert len(build(node, channels=6).weight) == 6
    waiting = build({"_target_": "ldm.nn.norm.Group", "_partial_": True, "groups": 2})
    assert waiting.keywords == {"groups": 2} and waiting(8).groups == 2
    assert build(node | {"_partial_": True}, channels=6)().groups == 2
