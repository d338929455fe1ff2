"""A model is plain config and safetensors: it comes back to the bit, and a stranger's files can do no harm."""

import functools
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from ldm.diffusion.guidance.autoguidance import Autoguidance
from ldm.diffusion.guidance.classifier_free import ClassifierFree
from ldm.model import PARTS, LatentModel, load_weights, write_weights
from ldm.random import Random
from ldm.resolve import ConfigError
from ldm.types import ContextShape
from tests.runs import tiny

CAPTIONS = ["a small red circle", "a large blue star", "", "ünïcode 星"]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return tiny(tmp_path_factory.mktemp("unused"))


def fresh(config, seed=0) -> LatentModel:
    torch.manual_seed(seed)
    parts = {part: dict(config[part]) for part in ("autoencoder", "condition", "prior")}
    parts["autoencoder"].pop("checkpoint", None)
    model = LatentModel.build(parts)
    with torch.no_grad():
        for p in model.parameters():  # no zero weight hides a mistake
            p.add_(0.02 * torch.randn_like(p))
    model.condition.fit(CAPTIONS)
    channels = model.autoencoder.latent_shape[0]
    model.autoencoder.set_statistics(torch.arange(channels) / 10, 1 + torch.arange(channels) / 10)
    return model.eval()


def plain(config) -> dict:
    return {**config, "autoencoder": {k: v for k, v in config["autoencoder"].items() if k != "checkpoint"}}


@pytest.fixture(scope="module")
def saved(config, tmp_path_factory):
    folder, model = tmp_path_factory.mktemp("run") / "model", fresh(config)
    model.save(folder, plain(config))
    with torch.no_grad():
        model.prior.denoiser.backbone.head.bias.add_(1)
    model.save(folder, plain(config), "raw")
    return folder


def batch() -> dict:
    return {"caption": CAPTIONS, "index": torch.arange(4)}


def draw(model) -> torch.Tensor:
    return model.sample(batch(), Random(3, 0, torch.arange(4)))


@pytest.mark.parametrize("backbone", ["unet_small", "dit_small"])
def test_sizes_that_the_prior_cannot_halve_are_told_in_pixels(backbone, tmp_path):
    """A factor of 4 before a network that halves: 28 pixels are a latent of 7."""
    words = ("data.image_shape=[3,28,28]", f"backbone={backbone}")
    if backbone == "dit_small":
        words += ("backbone.patch=2",)
    with pytest.raises(ValueError, match=r"images of 28x28 do not divide by 8, .* good side to 28 is 24 or 32"):
        LatentModel.build(plain(tiny(tmp_path, *words)))
    LatentModel.build(plain(tiny(tmp_path, *words, "data.image_shape=[3,24,32]")))


def test_round_trip_with_the_tokenizer(config, saved):
    made, loaded = fresh(config), LatentModel.load(saved)
    assert not loaded.training and loaded.state_dict().keys() == made.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), made.state_dict().values(), strict=True))
    assert torch.equal(loaded.condition(batch()).tokens, made.condition(batch()).tokens)
    assert torch.equal(draw(loaded), draw(made))
    assert sorted(file.name for file in saved.iterdir()) == ["config.json", "model.safetensors", "raw.safetensors"]
    assert set(json.loads((saved / "config.json").read_text())) == {*PARTS, "made_from", "plugins"}


def test_raw_weights_are_others(config, saved):
    raw = LatentModel.load(saved.parent, "raw")  # the run's directory does as well
    assert torch.equal(raw.prior.denoiser.backbone.head.bias, fresh(config).prior.denoiser.backbone.head.bias + 1)


def test_a_sample_does_not_depend_on_its_batch(saved):
    model, whole = LatentModel.load(saved), draw(LatentModel.load(saved))
    for i in range(4):
        one = model.sample(
            {"caption": CAPTIONS[i : i + 1], "index": torch.tensor([i])}, Random(3, 0, torch.tensor([i]))
        )
        assert torch.allclose(one, whole[i : i + 1], atol=1e-5)


def test_it_is_its_parts_in_order(config):
    """Reconstruction is the decoded mean, clamped; a sample the decoded latent that the prior draws for the condition."""
    model, x = fresh(config), torch.rand(2, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        for weight in model.autoencoder.decoder.parameters():
            weight.mul_(1.5)  # beyond [-1, 1], so that clamping shows
        decoded = model.autoencoder.decode(model.autoencoder.encode(x).mean)
        latents = model.prior.sample(
            (4, *model.autoencoder.latent_shape), model.condition(batch()), Random(3, 0, torch.arange(4))
        )
        images = model.autoencoder.decode(latents)
    assert decoded.abs().max() > 1 and torch.equal(model.reconstruct(x), decoded.clamp(-1, 1))
    assert torch.equal(model.sample_latents(batch(), Random(3, 0, torch.arange(4))), latents)
    assert torch.equal(draw(model), images.clamp(-1, 1)) and images.shape == (4, 3, 32, 32)


def test_the_parts_fit_each_other(config):
    model = fresh(config)
    assert model.prior.latents.shape == model.autoencoder.latent_shape == (4, 8, 8)
    assert model.condition.shape == ContextShape(tokens=8) == model.condition(batch()).shape


def test_another_condition_is_another_image(config):
    """Captions reach the samples, and an empty one is no condition."""
    model, random = fresh(config), Random(3, 0, torch.arange(4))
    plain = model.sample({"index": torch.arange(4), "caption": [""] * 4}, random)
    moved = (draw(model) - plain).abs().amax((1, 2, 3))
    assert (moved > 1e-4).tolist() == [True, True, False, True]


def test_nothing_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="config.json"):
        LatentModel.load(tmp_path)


def test_a_missing_weight_file_is_named(saved, tmp_path):
    (tmp_path / "config.json").write_bytes((saved / "config.json").read_bytes())
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
        LatentModel.load(tmp_path)


def test_another_width_is_told_in_five_lines(saved, tmp_path):
    config = json.loads((saved / "config.json").read_text())
    config["prior"]["backbone"]["width"] = 16
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes((saved / "model.safetensors").read_bytes())
    with pytest.raises(ValueError) as caught:
        LatentModel.load(tmp_path)
    message = str(caught.value)
    assert "does not fit LatentModel" in message and "wanted (" in message and " more" in message
    assert message.count(";") == 4 and len(message) < 1000


def test_missing_and_unexpected_names(tmp_path):
    net = torch.nn.Linear(2, 3)
    save_file({"weight": torch.zeros(3, 2), "extra": torch.zeros(1)}, tmp_path / "w.safetensors")
    before = net.weight.clone()
    with pytest.raises(ValueError, match="bias is missing; extra is not expected"):
        load_weights(net, tmp_path / "w.safetensors")
    assert torch.equal(net.weight, before), "all or none"
    save_file({"a.weight": torch.ones(3, 2), "a.bias": torch.ones(3), "b": torch.zeros(1)}, tmp_path / "w.safetensors")
    load_weights(net, tmp_path / "w.safetensors", prefix="a.")
    assert (net.weight == 1).all()


def test_a_weight_file_is_whole_or_not_there(tmp_path):
    net = torch.nn.Linear(2, 3)
    write_weights(net.state_dict(), tmp_path / "w.safetensors")
    assert [file.name for file in tmp_path.iterdir()] == ["w.safetensors"]
    assert torch.equal(load_file(tmp_path / "w.safetensors")["weight"], net.weight)


@pytest.mark.parametrize(
    ("place", "node"),
    [
        (("prior",), {"_target_": "os.system", "command": "touch {marker}"}),
        (("prior", "schedule"), {"_target_": "pathlib.Path.touch", "self": "{marker}"}),
        (("prior", "backbone"), {"_target_": "subprocess.Popen", "_partial_": True, "args": ["touch", "{marker}"]}),
        (("condition",), {"_target_": "ldm.data.folder.Folder", "root": "/"}),
        (("condition",), {"_target_": "ldm.logger.wandb.WandB"}),
        (("autoencoder", "encoder"), {"_target_": "torch.optim.AdamW", "_partial_": True}),
        (("autoencoder", "bottleneck"), {"_target_": "ldm.experiment.experiment.Experiment", "config": {}}),
        (("autoencoder",), {"_target_": "ldm.model.LatentModel.load", "folder": "{marker}"}),
    ],
)
def test_a_strangers_config_builds_nothing_but_models(saved, tmp_path, place, node):
    marker = tmp_path / "marker"
    config = json.loads((saved / "config.json").read_text())
    inner = config
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = json.loads(json.dumps(node).replace("{marker}", str(marker)))
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes((saved / "model.safetensors").read_bytes())
    with pytest.raises(ConfigError, match=r"\.".join(place)):
        LatentModel.load(tmp_path)
    assert not marker.exists()


def test_a_part_that_is_missing_is_named(config):
    with pytest.raises(ConfigError, match="no condition, prior"):
        LatentModel.build({"autoencoder": config["autoencoder"]})


# Negative prompts, and as many conditions as rows


def guided(model, scale: float):
    model.prior.guidance = functools.partial(ClassifierFree, scale=scale)
    return model


@pytest.mark.parametrize("text", ["a", "a very long negative prompt of blur"])
def test_guidance_moves_away_from_the_negative_prompt(config, text):
    """x = x_negative + 3 (x_c - x_negative), of the network asked for each alone, whichever of the two has more tokens."""
    model = guided(fresh(config), 3.0)
    generator = torch.Generator().manual_seed(0)
    x, t = torch.randn(2, *model.autoencoder.latent_shape, generator=generator), torch.tensor([0.4, 0.8])
    for captions in (["a", "b"], CAPTIONS[:2]):
        c, other = model.condition({"caption": captions}), model.condition({"caption": [text, text]})
        with torch.no_grad():
            found = model.prior.guided()(x, t, c.away_from(model.negative(text)))
            plain, negative = model.prior.denoiser(x, t, c), model.prior.denoiser(x, t, other)
        torch.testing.assert_close(found, negative + 3 * (plain - negative), rtol=1e-4, atol=1e-5)
        assert (plain - negative).abs().max() > 1e-3


def test_a_negative_prompt_in_a_batch(config):
    model, random = guided(fresh(config), 3.0), Random(3, 0, torch.arange(4))
    plain, empty, other = (
        model.sample(batch() | more, random) for more in ({}, {"negative": ""}, {"negative": "blur"})
    )
    assert torch.equal(plain, empty), "an empty one is 'no condition'"
    assert not torch.allclose(plain, other)


def test_a_negative_prompt_without_effect_is_refused(config, tmp_path):
    with pytest.raises(ValueError, match="guidance above 1 moves away from; here guidance=1"):
        guided(fresh(config), 1.0).negative("blur")
    with pytest.raises(ValueError, match="this model is conditioned on label"):
        fresh(tiny(tmp_path, "condition=label", "condition.classes=3")).negative("blur")
    with pytest.raises(ValueError, match="this model's prior Normal has none"):
        fresh(tiny(tmp_path, "prior=normal")).negative("blur")
    model = fresh(config)
    model.prior.guidance = functools.partial(Autoguidance, guide=model.prior.denoiser, scale=3.0)
    with pytest.raises(ValueError, match="take diffusion/guidance=classifier_free"):
        model.negative("blur")


def test_one_condition_for_each_row(config, tmp_path):
    random = Random(0, 0, torch.arange(2))
    with pytest.raises(ValueError, match="3 captions for 2 rows of random numbers: give one for each row"):
        fresh(config).sample({"caption": ["a", "b", "c"]}, random)
    labelled = fresh(tiny(tmp_path, "condition=label", "condition.classes=3"))
    with pytest.raises(ValueError, match="1 labels for 2 rows"):
        labelled.sample({"label": torch.tensor([0])}, random)


# What training sees of a condition


def test_conditions_are_dropped_where_the_number_of_the_example_is_below_drop(tmp_path):
    model = fresh(tiny(tmp_path, "condition=label", "condition.classes=3", "++condition.drop=0.2"))
    n = 400
    label, random = torch.arange(n) % 3, Random(0, 3, torch.arange(n))
    found = model.context({"label": label}, random).tokens[:, 0]
    dropped = random.uniform("drop") < 0.2
    table = model.condition.tokens.weight
    assert torch.equal(found, table[torch.where(dropped, 3, label)])
    assert 60 < dropped.sum() < 100  # 80, five deviations about it
    assert torch.equal(model.condition({"label": label}).tokens[:, 0], table[label]), "sampling drops none"


NEVER = "guidance asks for the answer without a condition, which condition.drop=0 never trains"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["++condition.drop=0", "diffusion.guidance.scale=3"], True),
        (["++condition.drop=0.1", "diffusion.guidance.scale=3"], False),
        (["++condition.drop=0", "diffusion.guidance.scale=1"], False),
        (["condition=none", "diffusion.guidance.scale=3"], False),
        (["++condition.drop=0", "prior=normal"], False),
    ],
)
def test_guidance_away_from_what_was_never_trained_is_said_once(words, said, tmp_path, caplog):
    model = fresh(tiny(tmp_path, *words))
    if model.condition.needs:
        model.sample(batch(), Random(3, 0, torch.arange(4)))
    assert caplog.text.count(NEVER) == said


# What the prior models


def test_latents_are_drawn_and_whitened_from_images_and_from_a_cache(config):
    """(mean + std eps - m) / s, from the encoder's posterior or from the same numbers of a cache."""
    model, random = fresh(config), Random(1, 2, torch.arange(2))
    model.autoencoder.set_statistics(*(torch.full((model.autoencoder.latent_shape[0],), value) for value in (0.5, 2.0)))
    x = torch.rand(2, *model.autoencoder.image_shape) * 2 - 1
    raw = model.autoencoder.posterior(x)
    wanted = (raw.mean + raw.std * random.normal("posterior", model.autoencoder.latent_shape) - 0.5) / 2
    torch.testing.assert_close(model.latent({"image": x}, random), wanted)
    torch.testing.assert_close(model.latent({"mean": raw.mean, "std": raw.std}, random), wanted)
