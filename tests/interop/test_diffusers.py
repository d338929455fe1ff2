"""Our networks with diffusers' weights give diffusers' outputs, and back; the peer is run in the test."""

import json

import pytest
import torch

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
from ldm.interop.diffusers_config import ForeignModelError, autoencoder_node, table_of_scheduler, unet_node
from ldm.interop.diffusers_names import autoencoder_names, unet_names
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
    with pytest.raises(ForeignModelError, match="squaredcos_cap_v2"):
        table_of_scheduler({"beta_schedule": "squaredcos_cap_v2"})


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
