"""The loss is its closed form, teaches the layer and the projection alone, and its features are what a network sees."""

import pytest
import torch
from torch import nn

from ldm.alignment.alignment import Alignment
from ldm.alignment.maps import DinoMaps, Maps, RandomMaps, TorchvisionMaps


class Seen(nn.Module):
    """A network that sees the image as it is."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return {"x": self.weight * x}


def alignment(network=None, width=6, grid=(2, 3), **options) -> Alignment:
    torch.manual_seed(0)
    return Alignment(network or RandomMaps(width=4, layers=2), width, grid, **options)


def images(count=2, side=16, channels=3):
    return torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_the_loss_is_its_closed_form():
    """0 at equal features, 2 at opposite ones, 1 at right angles, whatever their length; times the weight."""
    aligned = alignment(weight=0.25)
    aligned.projection = nn.Identity()
    feature = torch.randn(2, 6, 2, 3)
    across = torch.cat([feature[:, 3:], -feature[:, :3]], dim=1)
    for inner, expected in ((feature, 0), (7 * feature, 0), (-feature, 2), (across, 1)):
        torch.testing.assert_close(aligned(inner, feature), torch.tensor(0.25 * expected), atol=1e-6, rtol=0)
    one = torch.cat([feature[:1], -feature[1:]])
    torch.testing.assert_close(aligned(one, feature), torch.tensor(0.25))


def test_maps_tokens_and_one_vector_are_read_alike():
    aligned, x = alignment(), images()
    inner, feature = torch.randn(2, 6, 2, 3), aligned.features(x)
    assert torch.equal(aligned(inner, feature), aligned(inner.flatten(2).transpose(1, 2), feature))
    single = alignment(grid=(1, 1))
    vector = torch.randn(2, 6)
    assert torch.equal(single(vector, single.features(x)), single(vector[:, :, None, None], single.features(x)))


def test_gradients_reach_the_layer_and_the_projection_and_nothing_of_the_network():
    aligned, inner = alignment(), torch.randn(2, 6, 2, 3, requires_grad=True)
    aligned(inner, aligned.features(images())).backward()
    assert (inner.grad.abs().flatten(2).sum(1) > 0).all()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in aligned.parameters())
    assert all(p.grad is None and not p.requires_grad for p in aligned.network.network.parameters())


def test_a_token_the_network_sees_nothing_in_teaches_nothing():
    aligned, inner = alignment(), torch.randn(1, 6, 2, 3, requires_grad=True)
    feature = aligned.features(images(1)).clone()
    feature[..., 0] = 0
    aligned(inner, feature).backward()
    assert inner.grad.isfinite().all() and not inner.grad[..., 0].any() and inner.grad[..., 1].any()


def test_the_network_is_no_part_of_it():
    aligned = alignment()
    assert {name.split(".")[0] for name in aligned.state_dict()} == {"projection"}
    assert not any(module is aligned.network.network for module in aligned.modules())
    aligned.train()
    assert not aligned.network.network.training
    assert [layer.in_features for layer in aligned.projection[::2]] == [6, 12, 12]


def test_features_are_on_the_grid_and_of_unit_length():
    aligned, x = alignment(Maps(Seen(), 4), grid=(16, 16)), images()
    feature = aligned.features(x)
    assert feature.dtype == torch.float16 and feature.shape == (2, 3, 16, 16)
    seen = aligned.network(x)[0]  # a grid of the map's own size leaves it as it is, but for the length
    torch.testing.assert_close(feature.float(), seen / seen.norm(dim=1, keepdim=True), atol=1e-3, rtol=0)
    flat = alignment(Maps(Seen(), 4), grid=(3, 5)).features(torch.full((1, 3, 16, 16), 0.5))
    assert flat.shape == (1, 3, 3, 5) and (flat - flat[..., :1, :1]).abs().max() < 1e-3
    several = alignment(RandomMaps(width=4, layers=3)).features(x)
    assert several.shape[1] == 4 + 8 + 16
    torch.testing.assert_close(several.float().norm(dim=1), torch.ones(2, 2, 3), atol=1e-2, rtol=0)


@pytest.mark.parametrize("channels", [1, 4])
def test_grey_and_transparent_images(channels):
    assert alignment().features(images(channels=channels)).isfinite().all()


def test_a_key_names_the_weights_the_settings_and_the_grid():
    keys = [
        alignment().key,
        alignment(grid=(2, 2)).key,
        alignment(RandomMaps(width=4, layers=2, seed=1)).key,
        alignment(Maps(Seen(), 4)).key,
        alignment(Maps(Seen(), 8)).key,
        alignment(Maps(Seen(), 4, flip180=True)).key,
    ]
    assert len(set(keys)) == len(keys) and alignment(weight=0.1, hidden=3).key == keys[0]


def test_real_features_tell_photographs_apart_by_place(shared):
    """A photograph and its left half mirrored to the right: the left tokens agree, the right ones less."""
    from PIL import Image
    from torchvision.transforms.functional import pil_to_tensor

    file = shared / "data/weights/mobilenet_v2_imagenet_deq.safetensors"
    aligned = alignment(
        TorchvisionMaps("mobilenet_v2", file, ("features.13",), flip180=True, smallest=128), grid=(8, 8)
    )
    photo = sorted((shared / "data/coco/val2017").glob("*.jpg"))[0]
    x = pil_to_tensor(Image.open(photo).convert("RGB").resize((128, 128)))[None] / 127.5 - 1
    mirrored = torch.cat([x[..., :64], x[..., :64].flip(-1)], dim=-1)
    one, other = aligned.features(x).float(), aligned.features(mirrored).float()
    agreement = (one * other).sum(1).mean((0, 1))
    assert agreement[:2].min() > 0.9 > agreement[-2:].max()


@pytest.fixture(scope="module")
def dino(tmp_path_factory):
    """A folder with a DINOv2 of two layers and random weights, with registers."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28, "patch_size": 7}
    folder = tmp_path_factory.mktemp("dino")
    config = transformers.Dinov2WithRegistersConfig(**sizes, num_register_tokens=3)
    transformers.Dinov2WithRegistersModel(config).save_pretrained(folder)
    return folder


def test_dinov2_gives_its_patches(dino):
    import transformers

    maps, x = DinoMaps(str(dino), smallest=28), images(side=32)
    [found] = maps(x)
    assert found.shape == (2, 16, 4, 4), "32 pixels are brought to 28"
    peer = transformers.AutoModel.from_pretrained(dino).eval()
    x = images(side=28)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    tokens = peer(((x + 1) / 2 - mean) / std).last_hidden_state
    assert tokens.shape[1] == 1 + 3 + 16
    torch.testing.assert_close(maps(x)[0].flatten(2).transpose(1, 2), tokens[:, 4:])
    assert maps(images(side=20))[0].shape == (2, 16, 4, 4) and maps(torch.zeros(1, 3, 28, 56))[0].shape[2:] == (4, 8)


def test_another_transformer_is_refused(tmp_path):
    transformers = pytest.importorskip("transformers")
    transformers.ViTConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is a vit; wanted a dinov2"):
        DinoMaps(str(tmp_path))
