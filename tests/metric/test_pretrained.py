import hashlib
import io
import pickle
import time
import urllib.error
import urllib.request

import numpy
import pytest
import torch
from datasets import load_dataset
from torch_fidelity import feature_extractor_inceptionv3 as fidelity
from torchmetrics.image.fid import NoTrainInceptionV3

from ldm.eight_bits import eight_bits
from ldm.metric import pretrained
from ldm.metric.features import FeaturesUnavailable
from ldm.metric.pretrained import CifarResNet, Inception2015, TorchvisionFeatures


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory):
    """Inception with random weights, in the form of the real file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fidelity, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(fidelity.FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        torch.manual_seed(0)
        state = fidelity.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"]).state_dict()
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save(state, path)
    return path


@pytest.fixture
def known(inception_file, monkeypatch):
    """The same, passing for the real file."""
    monkeypatch.setattr(pretrained, "INCEPTION_SHA256", hashlib.sha256(inception_file.read_bytes()).hexdigest())
    return inception_file


def test_inception_is_the_peers(known):
    network, peer = Inception2015(known), NoTrainInceptionV3("x", ["2048"], str(known), antialias=False)
    x = torch.rand(2, 3, 40, 32) * 2 - 1
    assert network.name == "inception_2015" and network.width == 2048
    torch.testing.assert_close(network(x), peer(eight_bits(x)), rtol=1e-4, atol=1e-5)


def test_inception_of_other_weights_is_refused(inception_file, tmp_path):
    for path in (inception_file, tmp_path / "nothing.pth"):
        with pytest.raises(FeaturesUnavailable, match="not the Inception of 2015"):
            Inception2015(path)


class _Trap:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


def test_weights_are_never_unpickled(tmp_path, monkeypatch):
    trap, marker = tmp_path / "trap.pth", tmp_path / "executed"
    trap.write_bytes(pickle.dumps(_Trap(marker)))
    torch.save({"conv1.weight": _Trap(marker)}, tmp_path / "trap2.pth")
    for path in (trap, tmp_path / "trap2.pth"):
        monkeypatch.setattr(pretrained, "INCEPTION_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
        for build in (Inception2015, CifarResNet, lambda path: TorchvisionFeatures("resnet18", path)):
            with pytest.raises(FeaturesUnavailable, match="holds no tensors"):
                build(path)
    assert not marker.exists()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path / "hub" / "checkpoints"


def test_no_network_is_said_at_once_and_leaves_nothing(hub, monkeypatch):
    asked = []

    def unreachable(url, timeout):
        asked.append(timeout)
        raise urllib.error.URLError("no route")

    def sleep(seconds):
        raise AssertionError(f"{seconds} s were waited for nothing")

    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    with pytest.raises(FeaturesUnavailable, match=r"no route.*weights=PATH"):
        Inception2015()
    assert len(asked) == 1 and not list(hub.iterdir())


def test_half_a_download_is_no_download(hub, known, monkeypatch):
    answers = [io.BytesIO(known.read_bytes()[:1000]), io.BytesIO(known.read_bytes())]
    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: answers.pop(0))
    with pytest.raises(FeaturesUnavailable, match="not that file"):
        Inception2015()
    assert not list(hub.iterdir())
    Inception2015()
    assert len(list(hub.iterdir())) == 1
    Inception2015()  # from the cache: there is no third answer


@pytest.fixture(scope="module")
def cifar(shared):
    rows = load_dataset("parquet", data_files=str(shared / "data/cifar10/test.parquet"), split="train")[:400]
    x = torch.stack([torch.from_numpy(numpy.array(image)).permute(2, 0, 1) for image in rows["image"]])
    return x, torch.tensor(rows["label"])


def test_cifar_resnet_classifies_as_its_readme_says(shared, cifar):
    network, (x, y) = CifarResNet(shared / "data/weights/cifar10_resnet20.safetensors"), cifar
    right = (network.logits(x).argmax(1) == y).float().mean()
    assert network.name == "cifar10_resnet20" and network(x[:2] / 127.5 - 1).shape == (2, 64)
    maps = []
    network.layer3.register_forward_hook(lambda module, given, found: maps.append(found))
    torch.testing.assert_close(network(x[:2] / 127.5 - 1), maps[0].mean((2, 3)))
    assert abs(right - 0.81) < 3 * (0.81 * 0.19 / 400) ** 0.5


def test_cifar_resnet_of_another_depth_does_not_load(shared):
    with pytest.raises(FeaturesUnavailable, match=r"is not cifar10_resnet56: layer1.3.bn1.bias is missing"):
        CifarResNet(shared / "data/weights/cifar10_resnet20.safetensors", 56)
    with pytest.raises(FeaturesUnavailable, match=r"is not cifar10_resnet20: layer1.3.bn1.bias is not expected"):
        CifarResNet(shared / "data/weights/cifar10_resnet56.safetensors", 20)


def test_mobilenet_turns_its_images(shared):
    path = shared / "data/weights/mobilenet_v2_imagenet_deq.safetensors"
    turned, upright = (TorchvisionFeatures("mobilenet_v2", path, 64, flip180) for flip180 in (True, False))
    x = torch.rand(2, 3, 64, 64) * 2 - 1
    assert turned.width == 1280 and turned.weights_hash != upright.weights_hash
    torch.testing.assert_close(turned(x), upright(x.flip(2, 3)))
    assert not torch.allclose(turned(x), upright(x), atol=1e-2)


def test_network_without_classifier_weights_loads(shared):
    """Its weights are the file's, whatever was drawn before."""
    path, x = shared / "data/weights/squeezenet1_1_features_caffe.safetensors", torch.rand(2, 1, 28, 28) * 2 - 1
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        found.append(TorchvisionFeatures("squeezenet1_1", path, 64)(x))
    assert torch.equal(*found) and found[0].shape == (2, 512) and found[0].std() > 0


def test_what_does_not_fit_is_named(shared, tmp_path):
    path = shared / "data/weights/mobilenet_v2_imagenet_deq.safetensors"
    with pytest.raises(FeaturesUnavailable, match=r"is not resnet18: bn1.bias is missing"):
        TorchvisionFeatures("resnet18", path)
    with pytest.raises(ValueError, match="no classifier 'mobilenet'"):
        TorchvisionFeatures("mobilenet", path)
    with pytest.raises(FeaturesUnavailable, match="no weights at"):
        TorchvisionFeatures("mobilenet_v2", tmp_path / "absent.safetensors")
