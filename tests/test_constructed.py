"""A model put together in Python is saved and loaded as one of a config is."""

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from ldm.autoencoder.autoencoder import Autoencoder
from ldm.autoencoder.bottleneck import DiagonalGaussian
from ldm.autoencoder.convnet import Decoder, Encoder
from ldm.backbone.unet import UNet
from ldm.build import build, signature_of
from ldm.condition.label import Label
from ldm.condition.none import Unconditional
from ldm.constructed import Constructed, node_of
from ldm.diffusion.grid import Karras as KarrasGrid
from ldm.diffusion.grid import Uniform as UniformGrid
from ldm.diffusion.guidance.classifier_free import ClassifierFree
from ldm.diffusion.guidance.interval import Interval
from ldm.diffusion.parameterization import Velocity
from ldm.diffusion.sampler.dpmpp import DPMpp
from ldm.diffusion.sampler.heun import Heun
from ldm.diffusion.sampler.unipc import UniPC
from ldm.diffusion.schedule import Cosine, Rectified
from ldm.diffusion.time import Uniform
from ldm.diffusion.weighting import Prediction
from ldm.model import LatentModel
from ldm.prior.base import Latents
from ldm.prior.diffusion import Diffusion
from ldm.prior.normal import Normal
from ldm.random import Random
from ldm.resolve import ConfigError
from ldm.types import ContextShape
from tests.pieces import CONF
from tests.runs import compose, shrunk

SHAPE = (3, 16, 16)


def put_together() -> LatentModel:
    torch.manual_seed(0)
    autoencoder = Autoencoder(
        SHAPE,
        functools.partial(Encoder, width=8, multipliers=(1, 1), blocks=1),
        decoder=functools.partial(Decoder, width=8, multipliers=(1, 1), blocks=1),
        bottleneck=DiagonalGaussian(channels=4),
    )
    condition = Label(3, width=8)
    prior = Diffusion(
        Latents(autoencoder.latent_shape),
        condition.shape,
        functools.partial(UNet, width=8, multipliers=(1,), blocks=1, attention=(False,)),
        schedule=Rectified(),
        parameterization=Velocity(),
        weighting=Prediction(),
        time=Uniform(),
        sampler=DPMpp(points=3),
        grid=UniformGrid(),
        guidance=functools.partial(Interval, guidance=functools.partial(ClassifierFree, scale=2.0), low=0.1, high=0.9),
        steps=3,
    )
    model = LatentModel(autoencoder, condition, prior)
    with torch.no_grad():
        for parameter in model.parameters():  # no zero weight hides a mistake
            parameter.add_(0.02 * torch.randn_like(parameter))
    autoencoder.set_statistics(torch.arange(4.0), 1 + torch.arange(4.0))
    return model.eval()


def draw(model: LatentModel) -> torch.Tensor:
    return model.sample({"label": torch.tensor([0, 1, 2])}, Random(3, 0, torch.arange(3)))


def test_it_comes_back_and_draws_the_same(tmp_path):
    model = put_together()
    model.save(tmp_path)
    found = LatentModel.load(tmp_path)
    assert torch.equal(draw(found), draw(model))
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["prior"]["sampler"] == {"_target_": "ldm.diffusion.sampler.dpmpp.DPMpp", "points": 3}
    assert saved["prior"]["backbone"] == {
        **{"_target_": "ldm.backbone.unet.UNet", "width": 8, "multipliers": [1], "blocks": 1, "attention": [False]},
        "_partial_": True,
    }
    assert not {"latents", "context"} & saved["prior"].keys() and saved["plugins"] == {}


def test_one_of_nodes_and_one_of_constructors_are_one(tmp_path):
    """The nodes that are found build what was put together; its weights fit and draw the same."""
    model = put_together()
    model.save(tmp_path)
    nodes = {key: value for key, value in json.loads((tmp_path / "config.json").read_text()).items()}
    built = LatentModel.build(nodes)
    built.load_state_dict(model.state_dict())
    assert torch.equal(draw(built.eval()), draw(model))


def test_what_was_set_after_it_was_built_is_saved(tmp_path):
    model = put_together()
    model.prior.sampler, model.prior.grid, model.prior.steps = Heun(s_churn=0.0), KarrasGrid(rho=5.0), 4
    model.prior.guidance = functools.partial(ClassifierFree, scale=1.5)
    model.prior.sampling_schedule = Cosine()
    model.save(tmp_path)
    found = LatentModel.load(tmp_path)
    assert torch.equal(draw(found), draw(model)) and not torch.equal(draw(found), draw(put_together()))


@pytest.mark.parametrize(
    "words",
    [
        ["autoencoder=kl_f4_small", "condition=text", "backbone=dit_small"],
        ["autoencoder=kl_f4", "condition=label", "condition.classes=3", "backbone=unet_small"],
        ["autoencoder=vq_f4", "condition=none", "backbone=mlp"],
        ["autoencoder=vae", "prior=normal"],
        ["autoencoder=identity", "prior=normal", "condition=none"],
    ],
)
def test_nodes_of_a_built_model_are_those_that_it_was_built_from(tmp_path, words):
    """Every object of a model remembers: what is found of the whole builds the same modules."""
    words = [f"++{word}" if "." in word else word for word in words]
    config = shrunk(compose(*words), tmp_path)
    config["autoencoder"].pop("checkpoint")
    model = LatentModel.build(config)
    model.config = None
    model.save(tmp_path / "model")
    again = LatentModel.load(tmp_path / "model")
    assert str(again) == str(model)


@pytest.mark.parametrize(
    "group",
    [
        f"diffusion/{name}"
        for name in ("schedule", "parameterization", "weighting", "time", "sampler", "grid", "guidance")
    ]
    + ["backbone/position", "backbone/routing"],
)
def test_every_piece_has_the_node_that_built_it(group):
    for file in sorted((CONF / group).glob("*.yaml")):
        node = yaml.safe_load(file.read_text())
        if "_target_" not in node:  # none, or `rotary` of other words
            continue
        found = node_of(build(node), "piece")
        plain = {key: value for key, value in node.items() if not isinstance(value, dict | list)}
        assert {key: found.get(key) for key in plain} == plain
        assert node_of(build(found), "piece") == found


def test_what_waits_for_the_rest_holds_names():
    waits = functools.partial(functools.partial(Tiny, 3), inner=None)
    target = "tests.test_constructed.Tiny"
    assert node_of(waits, "x") == {"_target_": target, "_partial_": True, "channels": 3, "inner": None}


# What cannot be written down


class Here(nn.Module):
    """Of no base that remembers."""


class Tiny(Constructed, nn.Module):
    def __init__(self, channels: int, context: Any, inner: Any = None):
        super().__init__()


def prior(**changed: Any) -> Diffusion:
    kept = vars(put_together().prior) | {
        "schedule": Rectified(),
        "parameterization": Velocity(),
        "weighting": Prediction(),
    }
    names = (
        "latents",
        "context",
        "schedule",
        "parameterization",
        "weighting",
        "time",
        "sampler",
        "grid",
        "guidance",
    )
    words = {name: kept[name] for name in names} | {"backbone": functools.partial(UNet, width=8)} | changed
    return Diffusion(**words)


@pytest.mark.parametrize(
    ("backbone", "said"),
    [
        (
            lambda channels, context: UNet(channels, context, width=8),
            r"prior\.backbone: .*<lambda> does not know what it was",
        ),
        (functools.partial(Tiny, inner=Here()), r"prior\.backbone\.inner: tests\.test_constructed\.Here does not know"),
        (functools.partial(Tiny, inner=torch.ones(2)), r"prior\.backbone\.inner: torch\.Tensor does not know"),
    ],
)
def test_what_no_file_can_name_says_what_to_do(tmp_path, backbone: Callable, said):
    whole = put_together()
    model = LatentModel(whole.autoencoder, whole.condition, prior(backbone=backbone))
    with pytest.raises(ConfigError, match=said) as caught:
        model.save(tmp_path / "model")
    assert "save(folder, config)" in str(caught.value) and not (tmp_path / "model").exists()


def test_a_class_of_a_script_says_where_to_put_it(tmp_path):
    """A notebook's and one inside a function."""

    class Local(Tiny):
        pass

    script = type("Tiny", (Tiny,), {"__module__": "__main__"})
    whole = put_together()
    for each in (Local, script):
        model = LatentModel(whole.autoencoder, whole.condition, prior(backbone=each))
        with pytest.raises(ConfigError, match="Put it into one that is then named as a plugin"):
            model.save(tmp_path / "model")


def test_a_class_of_another_package_is_a_plugin(tmp_path):
    whole = put_together()
    LatentModel(whole.autoencoder, whole.condition, prior(backbone=Tiny)).save(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["plugins"].keys() == {"tests"}
    with pytest.raises(ConfigError, match="needs the plugin tests"):
        LatentModel.load(tmp_path)
    assert isinstance(LatentModel.load(tmp_path, plugins=("tests",)).prior.denoiser.backbone, Tiny)


def test_nodes_that_are_given_are_written(tmp_path):
    model = LatentModel(
        autoencoder := put_together().autoencoder,
        Unconditional(),
        Normal(Latents(autoencoder.latent_shape), ContextShape()),
    )
    nodes = {part: node_of(getattr(model, part), part, ("latents", "context")) for part in ("autoencoder", "condition")}
    model.save(tmp_path, nodes | {"prior": {"_target_": "ldm.prior.normal.Normal"}})
    assert torch.equal(
        LatentModel.load(tmp_path).sample({}, Random(0, 0, torch.arange(2))),
        model.sample({}, Random(0, 0, torch.arange(2))),
    )


class Plain(Constructed):
    """Has no constructor."""


class PlainModule(Constructed, nn.Module):
    """Nor has this; its weights are those of the next class."""


class Weighs(PlainModule):
    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))


@pytest.mark.parametrize("kind", [Plain, PlainModule, UniPC])
def test_a_class_without_a_constructor_takes_no_arguments(kind):
    assert not signature_of(kind).parameters
    with pytest.raises(TypeError, match="unexpected keyword argument 'eta'"):
        kind(eta=1.0)
    assert node_of(kind(), "x") == {"_target_": f"{kind.__module__}.{kind.__name__}"}


def test_a_module_is_set_up_below_one():
    assert list(signature_of(Weighs).parameters) == ["width"]
    assert [name for name, _ in Weighs(3).named_parameters()] == ["weight"]


def test_copies_remember():
    import copy
    import pickle

    sampler = DPMpp(points=3)
    for each in (copy.copy(sampler), copy.deepcopy(sampler), pickle.loads(pickle.dumps(sampler))):
        assert node_of(each, "x") == {"_target_": "ldm.diffusion.sampler.dpmpp.DPMpp", "points": 3}


def test_frozen_dataclasses_remember_too():
    @dataclass(frozen=True)
    class Frozen(Constructed):
        a: int = 1

    assert Frozen(2) == Frozen(a=2) and Frozen(2)._given == ((2,), {})
