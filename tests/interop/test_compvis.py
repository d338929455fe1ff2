"""Files of CompVis's code: their names are held against diffusers' own converters, and nothing but tensors is ever
built of them."""

import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ldm.build import build
from ldm.interop.compvis_names import FIRST_STAGE, UNET, averaged
from ldm.interop.compvis_names import autoencoder_names as theirs_of_autoencoder
from ldm.interop.compvis_names import unet_names as theirs_of_unet
from ldm.interop.diffusers_config import ForeignModelError
from ldm.interop.diffusers_names import autoencoder_names, unet_names
from ldm.interop.first_stage import pretrained
from ldm.interop.whole_model import model_from_compvis
from ldm.model import LatentModel
from ldm.random import Random
from ldm.tensors import read_foreign
from tests.interop.tiny import GROUP, drawn, node

diffusers = pytest.importorskip("diffusers")


def nodes(quantised: bool = False):
    """In CompVis's own terms: groups of 32, attention at the lower level of the autoencoder, and labels."""
    label = {"_target_": "ldm.condition.label.Label", "classes": 3, "width": 24}
    given = node(
        label,
        "ScaledLinear",
        width=32,
        norm=GROUP | {"groups": 32},
        attention_norm=GROUP | {"groups": 32, "eps": 1e-6},
        depth=2,
    )
    for part in ("encoder", "decoder"):
        given["autoencoder"][part] |= {
            "width": 32,
            "mix": True,
            "norm": GROUP | {"groups": 32, "eps": 1e-6},
            "attention": [False, True],
        }
    if quantised:
        quantiser = {"_target_": "ldm.autoencoder.quantiser.VectorQuantiser", "codes": 9, "channels": 3}
        given["autoencoder"]["bottleneck"] = quantiser
    return given


def written(module: torch.nn.Module, names: dict[str, list[str]]) -> dict[str, torch.Tensor]:
    """The tensors of a network of ours by the names of others; attention of their autoencoders is 1x1 convolutions."""
    own, found = module.state_dict(), {}
    for name, parts in names.items():
        for part, rows in zip(parts, own[name].chunk(len(parts)), strict=True):
            convolution = rows.ndim == 2 and part.rpartition(".")[0].endswith((".q", ".k", ".v", "proj_out", "proj_in"))
            found[part] = (rows[:, :, None, None] if convolution else rows).clone()
    return found


@pytest.fixture(scope="module")
def model() -> LatentModel:
    torch.manual_seed(0)
    return drawn(nodes())


@pytest.fixture(scope="module")
def state(model) -> dict[str, torch.Tensor]:
    """A checkpoint of theirs, with averages that are half of the weights."""
    own, unet = model.autoencoder, model.prior.denoiser.backbone
    network = written(unet, theirs_of_unet(unet))
    found = {FIRST_STAGE + name: value for name, value in written(own, theirs_of_autoencoder(own)).items()}
    found |= {UNET + name: value for name, value in network.items()}
    found |= {averaged(name): value / 2 for name, value in network.items()}
    found |= {"cond_stage_model.embedding.weight": model.condition.tokens.weight.detach().clone()}
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    found |= {
        "betas": betas.float(),
        "scale_factor": torch.tensor(0.25),
        "alphas_cumprod": (1 - betas).cumprod(0).float(),
    }
    return found | {"model_ema.decay": torch.tensor(0.99), f"{FIRST_STAGE}loss.logvar": torch.zeros(())}


def test_names_are_those_of_the_peers_converters(model):
    """diffusers converts our tensors under CompVis's names to its names, which are those of our other table."""
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint

    own, unet = model.autoencoder, model.prior.denoiser.backbone
    down, up = ["DownEncoderBlock2D"] * 2, ["UpDecoderBlock2D"] * 2
    theirs = convert_ldm_vae_checkpoint(
        written(own, theirs_of_autoencoder(own)), {"down_block_types": down, "up_block_types": up}
    )
    wanted = written(own, autoencoder_names(own))
    plain = {name for name in wanted if "blocks.0.attentions" not in name and "blocks.1.attentions" not in name}
    assert plain <= theirs.keys() and len(plain) > 60, "attention in levels is what their converter does not know"
    assert all(torch.equal(theirs[name].flatten(), wanted[name].flatten()) for name in plain)

    config = {"layers_per_block": 1, "class_embed_type": None, "addition_embed_type": None}
    theirs = convert_ldm_unet_checkpoint(
        {UNET + name: value for name, value in written(unet, theirs_of_unet(unet)).items()}, config
    )
    wanted = written(unet, unet_names(unet))
    assert theirs.keys() == wanted.keys()
    assert all(torch.equal(theirs[name].flatten(), wanted[name].flatten()) for name in wanted)


def test_a_level_without_attention_has_its_resampling_elsewhere():
    """Behind two modules of an output block and not behind one; as their converter has it."""
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    given = nodes()
    given["prior"]["backbone"]["attention"] = [True, False]
    unet = LatentModel.build(given).prior.denoiser.backbone
    own = written(unet, theirs_of_unet(unet))
    assert "output_blocks.1.1.conv.weight" in own and "output_blocks.1.2.conv.weight" not in own
    config = {"layers_per_block": 1, "class_embed_type": None, "addition_embed_type": None}
    theirs = convert_ldm_unet_checkpoint({UNET + name: value for name, value in own.items()}, config)
    assert theirs.keys() == written(unet, unet_names(unet)).keys()


def test_averages_have_names_without_dots():
    """As a module's buffers are called, of parameters whose names begin with `diffusion_model.`."""
    assert averaged("input_blocks.0.0.weight") == "model_ema.diffusion_modelinput_blocks00weight"


@torch.no_grad()
@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_a_whole_model(suffix, model, state, tmp_path, caplog):
    file = tmp_path / f"model{suffix}"
    torch.save({"state_dict": state, "epoch": 3}, file) if suffix == ".ckpt" else save_file(state, file)
    found, raw = model_from_compvis(file, None, (3, 16, 16), heads=2)
    own, theirs = model.autoencoder, found.autoencoder
    x, z = torch.rand(2, 3, 16, 16) * 2 - 1, torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(theirs.encode(x).mean, own.posterior(x).mean / 4, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(theirs.decode(z), own.decode_raw(4 * z), atol=1e-5, rtol=1e-4)
    assert torch.equal(found.condition.tokens.weight, model.condition.tokens.weight)
    assert found.prior.denoiser.schedule.steps == 1000 and found.prior.grid.table == 1000

    unet = found.prior.denoiser.backbone
    averages = {name: value.clone() for name, value in unet.state_dict().items()}
    own_unet = model.prior.denoiser.backbone
    assert all(torch.equal(averages[name], value / 2) for name, value in own_unet.state_dict().items())
    found.load_state_dict(raw)
    assert all(torch.equal(value, own_unet.state_dict()[name]) for name, value in unet.state_dict().items())
    assert {layer.transformer.heads for layer in unet.middle if layer.transformer} == {2}
    assert not found.sample({"label": torch.tensor([0, 1])}, Random.fresh(2)).isnan().any()


@torch.no_grad()
def test_a_quantised_first_stage_alone(tmp_path):
    torch.manual_seed(1)
    own = drawn(nodes(quantised=True)).autoencoder
    torch.save({"state_dict": written(own, theirs_of_autoencoder(own))}, tmp_path / "vq.ckpt")
    found = pretrained(tmp_path / "vq.ckpt")
    made = build(found.config((3, 32, 32)), "autoencoder").eval()
    found.load_into(made)
    x = torch.rand(2, 3, 32, 32) * 2 - 1
    assert torch.equal(made.codes(x), own.codes(x)) and made.codes(x).unique().numel() > 1
    torch.testing.assert_close(made.decode_codes(own.codes(x)), own.decode_codes(own.codes(x)))
    made.train()(x, torch.randn(2, 3, 16, 16))
    before = made.bottleneck.codebook.clone()
    made.bottleneck.step()
    assert (made.bottleneck.codebook - before).abs().max() < 0.5 * before.abs().max(), "its codes are not replaced"


def test_the_first_stage_of_a_whole_model(state, model, tmp_path):
    save_file(state, tmp_path / "model.safetensors")
    found = pretrained(tmp_path / "model.safetensors")
    made = build(found.config((3, 16, 16)), "autoencoder").eval()
    found.load_into(made)
    assert torch.equal(made.decoder.head.weight, model.autoencoder.decoder.head.weight)


@pytest.mark.parametrize(
    "change, said",
    [
        ({"control_model.zero": torch.ones(1)}, "1 tensors that ours has no place for, as control_model.zero"),
        ({f"{UNET}label_emb.0.weight": torch.ones(1)}, "label_emb.0.weight: ours has nothing for it"),
        ({f"{UNET}input_blocks.1.1.qkv.weight": torch.ones(1)}, "use_spatial_transformer"),
        ({f"{UNET}more": torch.ones(1)}, "hold 1 tensors that ours has no place for, as .*more"),
        ({f"{FIRST_STAGE}post_quant_conv.weight": torch.ones(3, 9, 1, 1)}, "z_channels and embed_dim"),
        ({"cond_stage_model.embedding.weight": None}, "say text=DIR"),
        ({f"{FIRST_STAGE}quant_conv.bias": None}, "lack 1 tensors that the config promises, as .*quant_conv.bias"),
    ],
)
def test_what_ours_has_no_place_for_is_named(change, said, state, tmp_path):
    changed = {name: value for name, value in (state | change).items() if value is not None}
    save_file(changed, tmp_path / "model.safetensors")
    with pytest.raises(ForeignModelError, match=said):
        model_from_compvis(tmp_path / "model.safetensors", None, (3, 16, 16), heads=2)


def test_what_no_tensor_says(state, tmp_path, caplog):
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(ForeignModelError, match="tokens of 24 channels are not Stable Diffusion's .* say heads=N"):
        model_from_compvis(tmp_path / "model.safetensors", None)
    save_file({name: value for name, value in state.items() if name != "scale_factor"}, tmp_path / "model.safetensors")
    with caplog.at_level(logging.INFO, "ldm"):
        found, _ = model_from_compvis(tmp_path / "model.safetensors", None, heads=2, predicts="v")
    assert "0.18215 is taken" in caplog.text and type(found.prior.denoiser.parameterization).__name__ == "V"
    torch.testing.assert_close(found.autoencoder.latent_std, torch.full((3,), 1 / 0.18215))
    assert found.autoencoder.image_shape == (3, 128, 128)


class Touches:
    """Unpickled, it leaves a mark."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return (Path.touch, (self.marker,))


class Callback:
    """As a trainer saves its callbacks beside the weights."""

    made: list[str] = []  # noqa: RUF012

    def __setstate__(self, state):
        self.made.append("state was set")


def test_objects_beside_the_tensors_are_never_made(tmp_path):
    """The file is read, and what it names beside tensors is nothing: no constructor, no state, no function is called."""
    callback = Callback()
    callback.best = 3
    file, marker = tmp_path / "training.ckpt", tmp_path / "marker"
    torch.save({"state_dict": {"a": torch.arange(3)}, "callbacks": {Callback: callback}}, file)
    assert torch.equal(read_foreign(file)["a"], torch.arange(3)) and not Callback.made
    torch.save({"state_dict": {"a": torch.arange(3)}, "more": Touches(marker)}, file)
    try:
        assert list(read_foreign(file)) == ["a"]
    except ValueError as error:
        assert "without running what it says" in str(error)
    assert not marker.exists()


def test_a_file_that_names_the_system_is_refused(tmp_path):
    class System:
        def __reduce__(self):
            import os

            return (os.system, (f"touch {tmp_path / 'marker'}",))

    torch.save({"state_dict": {"a": torch.ones(1)}, "more": System()}, tmp_path / "evil.ckpt")
    with pytest.raises(ValueError, match="without running what it says"):
        read_foreign(tmp_path / "evil.ckpt")
    assert not (tmp_path / "marker").exists()


def test_files_that_hold_nothing(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "empty.ckpt")
    with pytest.raises(ValueError, match="holds no tensors by name"):
        read_foreign(tmp_path / "empty.ckpt")
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    with pytest.raises(ValueError, match="or is damaged"):
        read_foreign(tmp_path / "text.ckpt")
    with pytest.raises(FileNotFoundError, match="wanted a .safetensors or .ckpt file"):
        read_foreign(tmp_path / "absent.ckpt")
    save_file({"a": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ForeignModelError, match="holds no first stage: encoder.conv_in.weight"):
        pretrained(tmp_path / "other.safetensors")
    with pytest.raises(ForeignModelError, match="a first stage alone is autoencoder.checkpoint="):
        model_from_compvis(tmp_path / "other.safetensors", None)
