"""Our networks with diffusers' weights give diffusers' outputs, and back; the peer is run in the test."""

import inspect
import json
import logging
import shutil
from fnmatch import fnmatch

import pytest
import torch
from safetensors.torch import load_file, save_file

from ldm.autoencoder.autoencoder import Autoencoder
from ldm.backbone.unet import UNet
from ldm.build import build
from ldm.diffusion.schedule import Linear, ScaledLinear
from ldm.interop.diffusers import (
    autoencoder_from_diffusers,
    autoencoder_to_diffusers,
    unet_from_diffusers,
    unet_to_diffusers,
)
from ldm.interop.diffusers_autoencoder import AUTOENCODER, VQ, autoencoder_node, latent_statistics
from ldm.interop.diffusers_config import ForeignModelError
from ldm.interop.diffusers_names import autoencoder_names, unet_names
from ldm.interop.diffusers_unet import UNET, USUAL_UNET, unet_node
from ldm.interop.first_stage import pretrained
from ldm.model import write_weights
from ldm.nn.embedding import LogSnrEmbedding, StepEmbedding
from ldm.types import Context, ContextShape

diffusers = pytest.importorskip("diffusers")

STEPS = torch.tensor([0, 1, 500, 999])


def log_snr_of(steps, table):
    return table.log_snr((steps + 1).double() / table.steps).float()


def random_latent(channels, size):
    return torch.randn(len(STEPS), channels, size, size, generator=torch.Generator().manual_seed(0))


def random_tokens(width):
    return torch.randn(len(STEPS), 7, width, generator=torch.Generator().manual_seed(1))


def assert_same_unet(ours, theirs, tokens_width, size, table):
    z, tokens = random_latent(ours.channels, size), random_tokens(tokens_width)
    with torch.no_grad():
        got = ours(z, log_snr_of(STEPS, table), Context(tokens))
        wanted = theirs.eval()(z, STEPS, tokens).sample
    assert wanted.std() > 1e-2  # a network that gives nothing would agree with anything
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)


def test_unet_gives_the_peers_output(shared):
    folder = shared / "interop" / "tiny_unet_dir"
    theirs = diffusers.UNet2DConditionModel.from_pretrained(folder)
    assert_same_unet(unet_from_diffusers(folder), theirs, 32, 8, ScaledLinear())


@pytest.mark.parametrize(
    "changes",
    [
        {"attention_head_dim": [2, 4], "use_linear_projection": True},
        {"resnet_time_scale_shift": "scale_shift", "norm_eps": 1e-6},
        {"transformer_layers_per_block": 2, "layers_per_block": 1},
        {"down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_unet_of_other_settings(changes, shared, tmp_path):
    config = json.loads((shared / "interop" / "tiny_unet_dir" / "config.json").read_text()) | changes
    theirs = diffusers.UNet2DConditionModel.from_config(config)
    theirs.save_pretrained(tmp_path)
    assert_same_unet(unet_from_diffusers(tmp_path, Linear()), theirs, 32, 8, Linear())


def test_unet_out_and_in_again(shared, tmp_path):
    ours = unet_from_diffusers(shared / "interop" / "tiny_unet_dir")
    unet_to_diffusers(ours, tmp_path / "unet")
    theirs = diffusers.UNet2DConditionModel.from_pretrained(tmp_path / "unet")
    assert_same_unet(ours, theirs, 32, 8, ScaledLinear())


@pytest.mark.parametrize(
    "changes",
    [
        {"resnet_time_scale_shift": "scale_shift", "norm_eps": 1e-3, "norm_num_groups": 16},
        {"attention_head_dim": [2, 4], "layers_per_block": 1, "transformer_layers_per_block": 2},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_unet_of_other_settings_out_again(changes, shared, tmp_path):
    """What is written says all that was read."""
    config = json.loads((shared / "interop" / "tiny_unet_dir" / "config.json").read_text()) | changes
    diffusers.UNet2DConditionModel.from_config(config).save_pretrained(tmp_path / "theirs")
    ours = unet_from_diffusers(tmp_path / "theirs")
    unet_to_diffusers(ours, tmp_path / "unet")
    assert_same_unet(ours, diffusers.UNet2DConditionModel.from_pretrained(tmp_path / "unet"), 32, 8, ScaledLinear())


def test_dropout_is_read(shared):
    config = json.loads((shared / "interop" / "tiny_unet_dir" / "config.json").read_text())
    assert unet_node(config | {"dropout": 0.25}, ScaledLinear())["dropout"] == 0.25


def test_unet_told_log_snr_is_no_peers(tmp_path):
    unet = UNet(4, ContextShape(16), width=32, multipliers=(1,), attention=(True,))
    with pytest.raises(ForeignModelError, match="log-SNR"):
        unet_to_diffusers(unet, tmp_path / "unet")


def assert_same_autoencoder(ours, theirs):
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(2)) * 2 - 1
    scale = theirs.config.scaling_factor
    with torch.no_grad():
        got, wanted = ours.encode(x), theirs.eval().encode(x).latent_dist
        torch.testing.assert_close(got.mean, wanted.mean * scale, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(got.std, wanted.std * scale, atol=1e-5, rtol=1e-5)
        z = random_latent(4, 8)[:2]
        decoded = theirs.decode(z / scale).sample
        assert decoded.std() > 1e-2
        torch.testing.assert_close(ours.decode(z), decoded, atol=1e-5, rtol=1e-5)


def test_autoencoder_gives_the_peers_output(shared):
    folder = shared / "interop" / "tiny_vae_dir"
    assert_same_autoencoder(autoencoder_from_diffusers(folder), diffusers.AutoencoderKL.from_pretrained(folder))


def test_autoencoder_without_its_options(shared, tmp_path):
    config = json.loads((shared / "interop" / "tiny_vae_dir" / "config.json").read_text())
    config |= {"use_quant_conv": False, "use_post_quant_conv": False, "mid_block_add_attention": False}
    theirs = diffusers.AutoencoderKL.from_config(config | {"layers_per_block": 1})
    theirs.save_pretrained(tmp_path / "vae")
    assert_same_autoencoder(autoencoder_from_diffusers(tmp_path), theirs)  # the directory of a pipeline


def test_autoencoder_out_and_in_again(shared, tmp_path):
    ours = autoencoder_from_diffusers(shared / "interop" / "tiny_vae_dir")
    autoencoder_to_diffusers(ours, tmp_path / "vae")
    assert_same_autoencoder(ours, diffusers.AutoencoderKL.from_pretrained(tmp_path / "vae"))
    mean, std = torch.tensor([0.1, -0.2, 0.3, 0.0]), torch.tensor([1.0, 2.0, 3.0, 4.0])
    ours.set_statistics(mean, std)
    autoencoder_to_diffusers(ours, tmp_path / "vae")
    again = autoencoder_from_diffusers(tmp_path / "vae")
    torch.testing.assert_close((again.latent_mean, again.latent_std), (mean, std))


def test_pickles_are_not_read(shared, tmp_path):
    config = (shared / "interop" / "tiny_vae_dir" / "config.json").read_text()
    (tmp_path / "config.json").write_text(config)
    (tmp_path / "diffusion_pytorch_model.bin").write_bytes(b"anything")
    with pytest.raises(FileNotFoundError, match="only safetensors"):
        autoencoder_from_diffusers(tmp_path)


def test_foreign_settings_are_refused_by_name(shared):
    config = json.loads((shared / "interop" / "tiny_unet_dir" / "config.json").read_text())
    with pytest.raises(ForeignModelError, match="class_embed_type is timestep"):
        unet_node(config | {"class_embed_type": "timestep"}, ScaledLinear())
    with pytest.raises(ForeignModelError, match="KDownBlock2D"):
        unet_node(config | {"down_block_types": ["KDownBlock2D", "DownBlock2D"]}, ScaledLinear())
    with pytest.raises(ForeignModelError, match="cross_attention_dim is"):
        unet_node(config | {"cross_attention_dim": [32, 64]}, ScaledLinear())
    with pytest.raises(
        ForeignModelError, match=r"down_block_types names 2 blocks and block_out_channels \[32, 64, 64\]"
    ):
        unet_node(config | {"block_out_channels": [32, 64, 64]}, ScaledLinear())
    with pytest.raises(ForeignModelError, match="a config of AutoencoderTiny; wanted one of AutoencoderKL"):
        autoencoder_node({"_class_name": "AutoencoderTiny"})
    with pytest.raises(ForeignModelError, match="act_fn is relu"):
        autoencoder_node({"act_fn": "relu"})


def test_unknown_keys_are_named(caplog):
    with caplog.at_level(logging.WARNING, "ldm"):
        autoencoder_node({"_name_or_path": "x", "sampel_size": 64})
    assert caplog.messages == ["AutoencoderKL has no sampel_size: ignored, as diffusers ignores it"]


@pytest.mark.parametrize(
    "ours, theirs",
    [(AUTOENCODER, "AutoencoderKL"), (VQ, "VQModel"), (UNET | USUAL_UNET, "UNet2DConditionModel")],
    ids=["vae", "vq", "unet"],
)
def test_every_default_is_the_installed_peers(ours, theirs):
    found = inspect.signature(getattr(diffusers, theirs).__init__).parameters
    defaults = {key: p.default for key, p in found.items() if key != "self"}
    defaults = {key: list(value) if isinstance(value, tuple) else value for key, value in defaults.items()}
    assert ours == defaults


def small_vae(**settings):
    """With latents of its own scale: an encoder's output is made larger."""
    torch.manual_seed(0)
    vae = diffusers.AutoencoderKL(**{"block_out_channels": (32,), **settings}).eval()
    vae.quant_conv.weight.data *= 3
    return vae


def without(folder, *keys, **changes):
    """The config in `folder` as an early version would have written it."""
    config = json.loads((folder / "config.json").read_text())
    config = {key: value for key, value in config.items() if key not in keys} | changes
    (folder / "config.json").write_text(json.dumps(config))
    return config


@pytest.mark.parametrize("key", [key for key in AUTOENCODER if key not in ("block_out_channels",)])
def test_an_autoencoder_without_a_key_is_the_peers(key, tmp_path):
    small_vae().save_pretrained(tmp_path)
    without(tmp_path, key)
    theirs = diffusers.AutoencoderKL.from_pretrained(tmp_path)
    assert_same_small_autoencoder(autoencoder_from_diffusers(tmp_path), theirs, theirs.config.scaling_factor)


def test_an_early_config_of_four_keys_is_the_peers(tmp_path):
    """Without a scaling factor it is Stable Diffusion's: the latent's deviation is 1 / 0.18215."""
    settings = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    small_vae(**settings, block_out_channels=[32, 64]).save_pretrained(tmp_path)
    without(tmp_path, *(AUTOENCODER.keys() - settings.keys() - {"block_out_channels"}))
    ours = autoencoder_from_diffusers(tmp_path)
    assert_same_small_autoencoder(ours, diffusers.AutoencoderKL.from_pretrained(tmp_path), 0.18215)
    torch.testing.assert_close(ours.latent_std, torch.full((4,), 1 / 0.18215))
    assert ours.image_shape == (3, 32, 32)


def test_names_of_attention_before_2023(tmp_path):
    """query, key, value and proj_attn, as in the files of early models."""
    small_vae().save_pretrained(tmp_path)
    theirs = diffusers.AutoencoderKL.from_pretrained(tmp_path)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = {}
    for name, value in load_file(tmp_path / "diffusion_pytorch_model.safetensors").items():
        for new, early in old.items():
            name = name.replace(f".{new}.", f".{early}.")
        state[name] = value
    assert any(".proj_attn." in name for name in state)
    save_file(state, tmp_path / "diffusion_pytorch_model.safetensors")
    assert_same_small_autoencoder(autoencoder_from_diffusers(tmp_path), theirs, 0.18215)


def test_every_tensor_must_have_its_place(tmp_path):
    small_vae().save_pretrained(tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    save_file(state | {"encoder.more": torch.ones(1)}, file)
    with pytest.raises(ForeignModelError, match="hold 1 tensors that ours has no place for, as .*encoder.more"):
        autoencoder_from_diffusers(tmp_path)
    save_file({name: value for name, value in state.items() if name != "quant_conv.bias"}, file)
    with pytest.raises(ForeignModelError, match="lack 1 tensors that the config promises, as .*quant_conv.bias"):
        autoencoder_from_diffusers(tmp_path)
    save_file(state | {"quant_conv.bias": torch.ones(9)}, file)
    with pytest.raises(ForeignModelError, match=r"make \(9,\), but encoder.mix.bias is \(8,\)"):
        autoencoder_from_diffusers(tmp_path)


def test_what_is_loaded_is_in_evaluation_and_swish_is_silu(tmp_path):
    small_vae(act_fn="swish").save_pretrained(tmp_path)
    assert not autoencoder_from_diffusers(tmp_path).training


def test_an_autoencoder_of_patches_is_no_peers(tmp_path):
    node = autoencoder_node({"block_out_channels": [32], "sample_size": 16})
    node["encoder"]["patch"] = node["decoder"]["patch"] = 2
    with pytest.raises(ForeignModelError, match="knows no pixel-unshuffle; patch is 2 here, not 1"):
        autoencoder_to_diffusers(build(node, "autoencoder"), tmp_path / "vae")


def test_a_shift_goes_out_and_in(tmp_path):
    small_vae(shift_factor=0.25, scaling_factor=0.5, sample_size=48).save_pretrained(tmp_path / "theirs")
    ours = autoencoder_from_diffusers(tmp_path / "theirs")
    autoencoder_to_diffusers(ours, tmp_path / "vae")
    config = json.loads((tmp_path / "vae" / "config.json").read_text())
    assert (config["shift_factor"], config["scaling_factor"], config["sample_size"]) == (0.25, 0.5, 48)


def test_a_scaling_factor_of_null_scales_nothing(tmp_path):
    """diffusers keeps the null, with which its model works and its pipelines do not."""
    small_vae().save_pretrained(tmp_path)
    without(tmp_path, scaling_factor=None)
    theirs = diffusers.AutoencoderKL.from_pretrained(tmp_path)
    assert theirs.config.scaling_factor is None
    assert_same_small_autoencoder(autoencoder_from_diffusers(tmp_path), theirs, 1.0)


def assert_same_small_autoencoder(ours, theirs, scale):
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(2)) * 2 - 1
    with torch.no_grad():
        got, wanted = ours.encode(x), theirs.encode(x).latent_dist
        torch.testing.assert_close(got.mean, wanted.mean * scale, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(got.std, wanted.std * scale, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(ours.decode(got.mean), theirs.decode(wanted.mean).sample, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "given, mean, std",
    [
        ({}, [0.0] * 2, [1 / 0.18215] * 2),
        ({"scaling_factor": 0.5, "shift_factor": 0.25}, [0.25] * 2, [2.0] * 2),
        ({"scaling_factor": 0.5, "latents_mean": [1.0, 2.0], "latents_std": [3.0, 4.0]}, [1.0, 2.0], [6.0, 8.0]),
        ({"scaling_factor": None, "latents_mean": [1.0, 2.0], "latents_std": [3.0, 4.0]}, [1.0, 2.0], [3.0, 4.0]),
    ],
)
def test_whitening_by_hand(given, mean, std):
    torch.testing.assert_close(
        latent_statistics({"latent_channels": 2} | given), (torch.tensor(mean), torch.tensor(std))
    )


@pytest.mark.parametrize(
    "given",
    [
        {"scaling_factor": 0},
        {"latents_mean": [1.0] * 4},
        {"latents_mean": [1.0], "latents_std": [1.0], "shift_factor": 1},
    ],
)
def test_whitening_that_says_two_things_or_none_is_refused(given):
    with pytest.raises(ForeignModelError, match=next(iter(given))):
        latent_statistics(given)


def test_an_image_size_of_two_sides():
    assert autoencoder_node({"sample_size": [48, 64]})["image_shape"] == [3, 48, 64]


@pytest.mark.parametrize("shards", [False, True])
def test_weights_of_half_precision_alone_are_read(shards, tmp_path):
    theirs = small_vae().half()
    theirs.save_pretrained(tmp_path, variant="fp16", max_shard_size="100KB" if shards else "10GB")
    assert (len(list(tmp_path.glob("*.fp16*.safetensors"))) > 1) is shards
    ours = autoencoder_from_diffusers(tmp_path)
    assert_same_small_autoencoder(ours, theirs.float(), 0.18215)
    assert all(value.dtype == torch.float32 for value in ours.state_dict().values())


def test_full_precision_is_preferred_and_a_lost_shard_is_named(tmp_path):
    small_vae().half().save_pretrained(tmp_path, variant="fp16")
    small_vae().save_pretrained(tmp_path, max_shard_size="100KB")
    whole = diffusers.AutoencoderKL.from_pretrained(tmp_path)
    assert_same_small_autoencoder(autoencoder_from_diffusers(tmp_path), whole, 0.18215)
    assert not torch.equal(whole.encoder.conv_in.weight, whole.encoder.conv_in.weight.half().float())
    (tmp_path / "diffusion_pytorch_model-00002-of-00007.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="lacks diffusion_pytorch_model-00002-of-00007.safetensors"):
        autoencoder_from_diffusers(tmp_path)


def test_from_the_hub_half_precision_comes_only_where_there_is_no_other(tmp_path, monkeypatch):
    small_vae().half().save_pretrained(tmp_path / "vae", variant="fp16")
    asked = []

    def download(name, allow_patterns, ignore_patterns):
        """What the hub's client would bring of a repository with these files."""
        asked.append(name)
        files = [file for file in (tmp_path / "vae").iterdir()]
        brought = tmp_path / f"brought{len(asked)}" / "vae"
        brought.mkdir(parents=True)
        for file in files:
            path = f"vae/{file.name}"
            if any(fnmatch(path, p) for p in allow_patterns) and not any(fnmatch(path, p) for p in ignore_patterns):
                shutil.copy(file, brought)
        return str(brought.parent)

    monkeypatch.setattr("ldm.interop.diffusers.snapshot_download", download)
    autoencoder_from_diffusers("owner/name")
    assert asked == ["owner/name"] * 2
    small_vae().save_pretrained(tmp_path / "vae")
    autoencoder_from_diffusers("owner/name")
    assert len(asked) == 3 and not list((tmp_path / "brought3").rglob("*fp16*"))


class TestPretrained:
    """`autoencoder.checkpoint=`: the weights arrive, by value."""

    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(4)) * 2 - 1

    def built(self, source, shape=(3, 16, 16)):
        """As an experiment does: the checkpoint's node with fresh weights, and then its weights."""
        own = pretrained(source)
        torch.manual_seed(9)
        autoencoder = build(own.config(shape), "autoencoder").eval()
        fresh = {name: value.clone() for name, value in autoencoder.state_dict().items()}
        own.load_into(autoencoder)
        return autoencoder, fresh

    @torch.no_grad()
    def test_of_diffusers(self, tmp_path):
        theirs = small_vae(shift_factor=0.5)
        theirs.save_pretrained(tmp_path / "vae")
        for source in (tmp_path, tmp_path / "vae"):
            autoencoder, fresh = self.built(source)
            assert autoencoder.image_shape == (3, 16, 16)
            wanted = theirs.encode(self.x).latent_dist
            torch.testing.assert_close(autoencoder.posterior(self.x).mean, wanted.mean, atol=1e-5, rtol=1e-5)
            white = (wanted.mean - 0.5) * 0.18215
            torch.testing.assert_close(autoencoder.encode(self.x).mean, white, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(
                autoencoder.decode_raw(wanted.mean), theirs.decode(wanted.mean).sample, atol=1e-5, rtol=1e-5
            )
            kernel = "encoder.stem.weight"
            assert torch.equal(autoencoder.state_dict()[kernel], theirs.encoder.conv_in.weight)
            assert not torch.equal(fresh[kernel], theirs.encoder.conv_in.weight)

    def test_of_ours(self, tmp_path):
        """The averaged weights, from a run's directory or its model/."""
        node = autoencoder_node({"block_out_channels": [32], "latent_channels": 3}, (3, 32, 32))
        torch.manual_seed(1)
        trained = build(node, "autoencoder").eval()
        trained.set_statistics(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([4.0, 5.0, 6.0]))
        config = {"autoencoder": node, "condition": {}, "prior": {}}
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "config.json").write_text(json.dumps(config))
        state = {f"autoencoder.{name}": value for name, value in trained.state_dict().items()}
        write_weights(state | {"prior.x": torch.ones(1)}, tmp_path / "model" / "model.safetensors")
        write_weights({name: value + 1 for name, value in state.items()}, tmp_path / "model" / "raw.safetensors")
        for source in (tmp_path, tmp_path / "model"):
            autoencoder, fresh = self.built(source)
            assert autoencoder.image_shape == (3, 16, 16)
            for name, value in trained.state_dict().items():
                assert torch.equal(autoencoder.state_dict()[name], value)
            assert any(not torch.equal(fresh[name], value) for name, value in trained.state_dict().items())


@pytest.mark.parametrize("part", ["UNet2DConditionModel_sd15", "AutoencoderKL_sd_f8c4"])
def test_published_checkpoints_find_their_places(part, shared):
    """Names and shapes of Stable Diffusion 1.5, without its weights."""
    theirs = json.loads((shared / "interop" / f"diffusers_{part}.json").read_text())
    if part.startswith("UNet"):
        node = unet_node(theirs["config"], ScaledLinear()) | {"time": LogSnrEmbedding}  # a table has no meta tensor
        with torch.device("meta"):
            ours = build(node)(channels=4, context=ContextShape(tokens=768))
        names = unet_names(ours)
    else:
        with torch.device("meta"):
            ours = build(autoencoder_node(theirs["config"]))
        names = autoencoder_names(ours)
    assert sorted(name for parts in names.values() for name in parts) == sorted(theirs["keys"])
    own = ours.state_dict()
    for name, parts in names.items():
        rows = [theirs["keys"][part] for part in parts]
        assert own[name].shape[0] == sum(shape[0] for shape in rows)
        assert own[name].numel() == sum(torch.Size(shape).numel() for shape in rows)


def test_built_parts_are_ours(shared):
    folder = shared / "interop"
    assert isinstance(autoencoder_from_diffusers(folder / "tiny_vae_dir", (3, 64, 64)), Autoencoder)
    assert isinstance(unet_from_diffusers(folder / "tiny_unet_dir").time, StepEmbedding)


def vq_model(**more):
    """A VQModel of theirs, with attention in its levels, whose weights and codes are all drawn."""
    torch.manual_seed(0)
    words = {"block_out_channels": (8, 16), "norm_num_groups": 4, "num_vq_embeddings": 17, "sample_size": 16}
    down, up = ("DownEncoderBlock2D", "AttnDownEncoderBlock2D"), ("AttnUpDecoderBlock2D", "UpDecoderBlock2D")
    theirs = diffusers.VQModel(down_block_types=down, up_block_types=up, **words | more).eval()
    with torch.no_grad():
        for p in theirs.parameters():
            p.add_(0.1 * torch.randn_like(p))
        theirs.quantize.embedding.weight.normal_()
    return theirs


@torch.no_grad()
def test_codes_come_in_and_go_out(tmp_path):
    """The latents before quantisation, the codes that are nearest, and the images of both; and their own tensors again."""
    theirs = vq_model(scaling_factor=0.5)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = autoencoder_from_diffusers(tmp_path / "theirs")
    x, z = torch.rand(2, 3, 16, 16) * 2 - 1, torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(ours.posterior(x).mean, theirs.encode(x).latents, atol=1e-5, rtol=1e-4)
    codes = theirs.quantize(theirs.encode(x).latents)[2][2].view(2, 8, 8)
    assert torch.equal(ours.codes(x), codes) and codes.unique().numel() > 3
    torch.testing.assert_close(ours.decode(z), theirs.decode(z / 0.5).sample, atol=1e-5, rtol=1e-4)
    assert ours.bottleneck.updates == 1, "codes that were trained are not replaced as unused"
    autoencoder_to_diffusers(ours, tmp_path / "again")
    again = diffusers.VQModel.from_pretrained(tmp_path / "again")
    assert again.config.scaling_factor == 0.5 and again.config.num_vq_embeddings == 17
    assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in again.state_dict().items())
    shutil.copytree(tmp_path / "theirs", tmp_path / "pipeline" / "vqvae")
    found = pretrained(tmp_path / "pipeline")
    made = build(found.config((3, 16, 16)), "autoencoder")
    found.load_into(made)
    assert torch.equal(made.decode(z), ours.decode(z))


def test_codes_of_another_kind_are_refused(tmp_path):
    with pytest.raises(ForeignModelError, match="norm_type is spatial, not group"):
        autoencoder_node({"_class_name": "VQModel", "norm_type": "spatial"})
    with pytest.raises(ForeignModelError, match="codes have 4 channels and what the decoder is given 3"):
        autoencoder_node({"_class_name": "VQModel", "vq_embed_dim": 4})
    node = autoencoder_node(json.loads(vq_model().to_json_string()))
    for part in ("encoder", "decoder"):
        node[part]["mix"] = False
    own = build(node, "autoencoder")
    own.set_statistics(torch.zeros(3), torch.tensor([1.0, 1.0, 2.0]))
    with pytest.raises(
        ForeignModelError, match="here use_quant_conv is False, use_post_quant_conv is False, latents_mean is"
    ):
        autoencoder_to_diffusers(own, tmp_path / "out")
