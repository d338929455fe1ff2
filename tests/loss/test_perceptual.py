import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import torchvision
from safetensors.torch import save_file
from torchvision.models import vgg

from ldm.alignment.maps import RandomMaps, TorchvisionMaps
from ldm.loss.feature_distance import LPIPS, FeatureDistance
from ldm.loss.perceptual import LaplacianPyramid

TAPS = {"squeezenet1_1": ("features.1", "features.4.cat", "features.7.cat")}


@pytest.fixture(scope="module")
def squeezenet(tmp_path_factory) -> Path:
    """Random weights, in torchvision's names."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "squeezenet.safetensors"
    save_file(torchvision.models.squeezenet1_1(weights=None).state_dict(), path)
    return path


@pytest.fixture(params=["pyramid", "random", "features", "lpips"])
def distance(request, squeezenet):
    return {
        "pyramid": lambda: LaplacianPyramid(),
        "random": lambda: FeatureDistance(RandomMaps(width=8)),
        "features": lambda: FeatureDistance(TorchvisionMaps("squeezenet1_1", squeezenet, TAPS["squeezenet1_1"])),
        "lpips": lambda: LPIPS("squeeze", squeezenet),
    }[request.param]()


def pair(channels=3, side=32):
    random = torch.Generator().manual_seed(1)
    return torch.rand(2, 2, channels, side, side, generator=random) * 2 - 1


def test_the_image_gets_gradients_and_the_network_none(distance):
    # Trap: a perceptual term computed without gradients trains nothing and looks like one in the log.
    x, y = pair()
    y.requires_grad_(True)
    value = distance(x, y)
    assert value.shape == (2,) and (value > 0).all()
    value.sum().backward()
    assert y.grad.isfinite().all() and (y.grad.abs().flatten(1).sum(1) > 0).all()


def test_a_step_along_the_gradient_brings_images_closer(distance):
    x, y = pair()
    y.requires_grad_(True)
    before = distance(x, y)
    before.sum().backward()
    step = 1e-2 * y.grad / y.grad.flatten(1).norm(dim=1)[:, None, None, None]
    assert (distance(x, (y - step).detach()) < before).all()


def test_equal_images_are_at_distance_zero_with_finite_gradients(distance):
    x, _ = pair()
    y = x.clone().requires_grad_(True)
    value = distance(x, y)
    torch.testing.assert_close(value, torch.zeros(2), atol=1e-6, rtol=0)
    value.sum().backward()
    assert y.grad.isfinite().all()


def test_flat_images_have_finite_gradients(distance):
    y = torch.zeros(1, 3, 32, 32, requires_grad=True)
    distance(torch.ones(1, 3, 32, 32), y).sum().backward()
    assert y.grad.isfinite().all()


@pytest.mark.parametrize("channels, side", [(1, 28), (4, 32), (3, 16), (3, 33)])
def test_grey_transparent_small_and_odd_images(distance, channels, side):
    x, y = pair(channels, side)
    assert (distance(x, y) > 0).all()


def test_it_is_no_part_of_a_checkpoint_and_never_leaves_evaluation(distance):
    distance.train()
    assert not distance.state_dict() and not list(distance.parameters())
    assert not distance(*pair()).requires_grad
    assert torch.equal(distance(*pair()), distance(*pair()))
    assert torch.equal(copy.deepcopy(distance)(*pair()), distance(*pair()))


def test_other_channels_are_refused_with_the_reason():
    with pytest.raises(ValueError, match="1, 3 or 4 channels; got 2"):
        FeatureDistance(RandomMaps(width=4))(*pair(2))


def test_the_pyramid_sees_colour_and_edges_and_takes_any_channels():
    x = torch.zeros(1, 2, 32, 32)
    shifted = x + 0.5  # every band of a constant is 0: only the rest differs
    torch.testing.assert_close(LaplacianPyramid()(x, shifted), torch.tensor([0.5]))
    edges = x.clone()
    edges[..., ::2] = 0.5
    assert LaplacianPyramid(bands=1)(x, edges) > (x - edges).abs().mean()


# LPIPS against its peer


BACKBONES = {
    "alex": lambda: torchvision.models.alexnet().features,
    "vgg": lambda: vgg.make_layers(
        vgg.cfgs["D"], batch_norm=False
    ),  # without the 100 million weights of its classifier
    "squeeze": lambda: torchvision.models.squeezenet1_1().features,
}


@pytest.mark.parametrize("name, side", [("alex", 64), ("vgg", 32), ("squeeze", 40)])
def test_lpips_is_torchmetrics(name, side, tmp_path, monkeypatch):
    from torchmetrics.functional.image import lpips as peer

    torch.manual_seed(0)
    features = BACKBONES[name]()
    torch.save({f"features.{k}": v for k, v in features.state_dict().items()}, tmp_path / "backbone.pth")
    monkeypatch.setattr(peer, "_get_tv_model_features", lambda net, pretrained=False: copy.deepcopy(features))
    x, y = pair(side=side)
    expected = peer._NoTrainLpips(net=name)(x, y).flatten()
    for parameter in features.parameters():  # what ours begins with must not matter
        parameter.data.zero_()
    torch.testing.assert_close(LPIPS(name, tmp_path / "backbone.pth")(x, y), expected)


def test_lpips_of_another_networks_file_is_refused(squeezenet):
    with pytest.raises(ValueError, match="not torchvision's network of that name"):
        LPIPS("alex", squeezenet)


def test_lpips_without_network_or_file_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", _unreachable)
    with pytest.raises(OSError, match=r"could not download it.*loss.perceptual.backbone=FILE"):
        LPIPS("alex")


def _unreachable(*args, **kwargs):
    raise OSError("no route")


def test_a_malicious_pickle_is_not_executed(tmp_path):
    touched = tmp_path / "touched"

    class Evil:
        def __reduce__(self):
            return Path.touch, (touched,)

    torch.save({"features.0.weight": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        LPIPS("alex", tmp_path / "evil.pth")
    assert not touched.exists()


# Feature distance


def test_a_layer_is_not_overwritten_by_an_in_place_rectifier_behind_it(squeezenet):
    x, y = pair()
    both = FeatureDistance(TorchvisionMaps("squeezenet1_1", squeezenet, ("features.0", "features.1")))(x, y)
    apart = sum(
        FeatureDistance(TorchvisionMaps("squeezenet1_1", squeezenet, (f"features.{i}",)))(x, y) for i in range(2)
    )
    torch.testing.assert_close(both, apart)


def test_turned_images_give_what_a_turned_network_would(squeezenet):
    x, y = pair()
    turned = FeatureDistance(TorchvisionMaps("squeezenet1_1", squeezenet, ("features.1",), flip180=True))
    upright = FeatureDistance(TorchvisionMaps("squeezenet1_1", squeezenet, ("features.1",)))
    torch.testing.assert_close(turned(x, y), upright(x.flip(2, 3), y.flip(2, 3)))


def test_wrong_names_and_files_are_refused(squeezenet, tmp_path):
    with pytest.raises(ValueError, match="torchvision has no 'squeezenet9'"):
        FeatureDistance(TorchvisionMaps("squeezenet9", squeezenet, ("features.1",)))
    with pytest.raises(ValueError, match=r"is not mobilenet_v2: .* tensors differ"):
        FeatureDistance(TorchvisionMaps("mobilenet_v2", squeezenet, ("features.1",)))
    with pytest.raises(FileNotFoundError, match="no weights at"):
        FeatureDistance(TorchvisionMaps("squeezenet1_1", tmp_path / "none.pth", ("features.1",)))
    with pytest.raises(ValueError, match="layers is empty"):
        FeatureDistance(TorchvisionMaps("squeezenet1_1", squeezenet, ()))


@pytest.mark.parametrize(
    "architecture, file, flip",
    [
        ("squeezenet1_1", "squeezenet1_1_features_caffe.safetensors", False),
        ("mobilenet_v2", "mobilenet_v2_imagenet_deq.safetensors", True),
    ],
)
def test_real_networks_find_a_blurred_photograph_worse_than_one_a_little_brighter(shared, architecture, file, flip):
    from PIL import Image
    from torchvision.transforms.functional import gaussian_blur, pil_to_tensor

    photo = next((shared / "data/coco/val2017").glob("*.jpg"))
    x = pil_to_tensor(Image.open(photo).convert("RGB").resize((96, 96)))[None] / 127.5 - 1
    blurred = gaussian_blur(x, 9, 3.0)
    brighter = x + (x - blurred).square().mean().sqrt()  # just as far in pixels
    layers = ("features.1", "features.4", "features.7")
    distance = FeatureDistance(TorchvisionMaps(architecture, shared / "data/weights" / file, layers, flip180=flip))
    assert distance(x, blurred) > 2 * distance(x, brighter)


def test_a_pyramid_by_hand():
    """A point in the corner of 8 x 8: (1, 4, 6, 4, 1) / 16 makes 11, 5, 1 sixteenths of it in its rows, of which two
    stay. The band is 1 - (11/16)^2 there and (17/16)^2 - (11/16)^2 elsewhere in all."""
    x = torch.zeros(1, 1, 8, 8)
    x[0, 0, 0, 0] = 1.0
    band = (1 - (11 / 16) ** 2 + (17 / 16) ** 2 - (11 / 16) ** 2) / 64
    assert LaplacianPyramid(bands=1)(x, torch.zeros_like(x)).item() == pytest.approx(band + (12 / 16) ** 2 / 16)


def test_a_distance_of_features_is_of_vectors_of_length_one():
    distance, (x, y) = FeatureDistance(RandomMaps(width=4, layers=2)), pair(side=16)
    maps = [[F.normalize(layer, dim=1) for layer in distance.maps(image)] for image in (x, y)]
    wanted = sum((a - b).square().sum(1).mean((1, 2)) for a, b in zip(*maps, strict=True))
    torch.testing.assert_close(distance(x, y), wanted, rtol=1e-3, atol=1e-5)


def test_what_is_transparent_is_white():
    maps, x = FeatureDistance(RandomMaps(width=4, layers=1)).maps, torch.rand(1, 4, 16, 16)
    x[:, 3] = -1.0
    torch.testing.assert_close(maps(x), maps(torch.ones(1, 3, 16, 16)))
    x[:, 3] = 1.0
    torch.testing.assert_close(maps(x), maps(x[:, :3]))
