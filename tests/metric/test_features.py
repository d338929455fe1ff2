import pytest
import torch
from torch import nn

from ldm.eight_bits import eight_bits
from ldm.metric.distance import frechet_distance
from ldm.metric.features import (
    FeaturesUnavailable,
    FeaturesUnavailableWarning,
    ModuleFeatures,
    RandomConv,
    available,
    standardized,
    warn_of,
)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("size", [(32, 32), (17, 23), (64, 64)])
def test_random_conv_takes_all_images(channels, size):
    network = RandomConv()
    features = network(torch.rand(3, channels, *size) * 2 - 1)
    assert features.shape == (3, network.width) and features.dtype == torch.float32
    assert torch.isfinite(features).all() and not features.requires_grad


def test_random_conv_is_one_network():
    assert RandomConv().weights_hash == RandomConv().weights_hash
    hashes = {RandomConv(seed, size).weights_hash for seed in (0, 1) for size in (None, 32)}
    assert len(hashes) == 4
    # The weights are uniform numbers of 24 bits, scaled: no machine can come to another hash by rounding differently.
    steps = (RandomConv().layers[0].weight / (6 / 48) ** 0.5 + 1) / 2 * 2**24
    assert (steps - steps.round()).abs().max() <= 1


def test_random_conv_is_its_description():
    """ImageNet's mean and deviation, three layers of stride 2; of each channel mean and deviation, of the last a 2 x 2 grid."""
    network, pixels = RandomConv(), torch.randint(0, 256, (2, 3, 16, 16))
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x, wanted = (pixels / 255 - mean.view(3, 1, 1)) / deviation.view(3, 1, 1), []
    for layer in network.layers:
        x = nn.functional.conv2d(x, layer.weight, layer.bias, stride=2, padding=1)
        wanted += [x.flatten(2).mean(2), x.flatten(2).std(2)]
        x = torch.where(x > 0, x, 0.2 * x)
    wanted.append(x.flatten(1))  # 16 pixels halved three times are 2
    torch.testing.assert_close(network(pixels / 127.5 - 1), torch.cat(wanted, 1), rtol=1e-5, atol=1e-5)


def test_features_are_of_eight_bits_and_of_no_mode():
    network, x = RandomConv(), torch.rand(2, 3, 16, 16) * 1.8 - 0.9
    x = eight_bits(x) / 127.5 - 1
    assert torch.equal(network(x), network(x + 1e-3))
    assert not network.train().training
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(network(x), network(x + 1e-3)) and network(x).dtype == torch.float32


def test_features_tell_sets_apart():
    torch.manual_seed(0)
    smooth = torch.nn.functional.interpolate(torch.rand(600, 3, 4, 4) * 2 - 1, size=16, mode="bilinear")
    one, other = smooth[:300], smooth[300:]
    network = RandomConv()
    nothing = frechet_distance(network(one), network(other))
    blurred = torch.nn.functional.interpolate(torch.nn.functional.avg_pool2d(other, 4), size=16, mode="bilinear")
    for changed in (other + 0.2 * torch.randn_like(other), blurred, other.mean(1, keepdim=True), other * 0.7):
        assert frechet_distance(network(one), network(changed)) > 1.5 * nothing


class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))

    def features(self, x):
        return self.scale * x.mean((2, 3))


def test_any_module_with_features():
    network = ModuleFeatures(Reader(), "reader", 3)
    assert network.name == "reader" and network.width == 3
    assert torch.allclose(network(torch.ones(2, 1, 4, 4)), torch.full((2, 3), 2.0))
    assert torch.allclose(network(-torch.ones(2, 1, 4, 4)), torch.full((2, 3), -2.0))


def test_what_is_unavailable_is_left_out_and_said():
    def missing():
        raise FeaturesUnavailable("no weights here")

    found, lines = available({"far": missing, "near": RandomConv})
    assert lines == ["no numbers of far: no weights here"]
    with pytest.warns(FeaturesUnavailableWarning, match="no numbers of far: no weights here"):
        warn_of(lines)
    assert {name: network.name for name, network in found.items()} == {"near": "random_conv"}


def test_other_errors_are_not_swallowed():
    def broken():
        raise KeyError("bug")

    with pytest.raises(KeyError, match="bug"):
        available({"broken": broken})


def test_images_are_resized_with_antialiasing():
    """Every fourth column white: seen from four times as far it is a quarter of white, and without antialiasing black."""
    pixels = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    pixels[..., ::4] = 255
    shown = standardized(pixels, 16)[0, 0, 2:-2, 2:-2]
    torch.testing.assert_close(shown, torch.full_like(shown, (0.25 - 0.485) / 0.229))
