"""Sets of features: collected, kept, and what they are said to be features of."""

import pytest
import torch
from torch import nn

from ldm.eight_bits import eight_bits
from ldm.metric import feature_set
from ldm.metric.feature_set import FeatureCollector, FeatureSet
from ldm.metric.features import ModuleFeatures, RandomConv
from ldm.metric.gather import image_hashes, set_hash


def images(n=5):
    return torch.rand(n, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_what_is_collected_stands_in_the_order_of_its_index():
    network, x = RandomConv(), images()
    collector = FeatureCollector(network)
    collector.add(x[[3, 0]], torch.tensor([3, 0]))
    collector.add(x[[4, 1, 2]], torch.tensor([4, 1, 2]))
    found = collector.gather()
    assert collector.count == 5
    torch.testing.assert_close(found.features, network(x))
    assert (found.network, found.network_hash, found.inception) == ("random_conv", network.weights_hash, False)
    assert found.images_hash == set_hash(image_hashes(eight_bits(x)))


class Broken(nn.Module):
    def features(self, x):
        return x.mean((2, 3)) / 0


def test_a_broken_network_is_named():
    with pytest.raises(ValueError, match="broken gave features that are not finite"):
        FeatureCollector(ModuleFeatures(Broken(), "broken", 3)).add(torch.zeros(1, 3, 8, 8), torch.arange(1))


def test_only_inception_is_collected_as_inception(monkeypatch):
    assert not FeatureCollector(RandomConv()).gather().inception
    monkeypatch.setattr(feature_set, "Inception2015", RandomConv)
    assert FeatureCollector(RandomConv()).gather().inception


@pytest.mark.parametrize("inception", [True, False])
def test_a_reference_set_is_kept(tmp_path, inception):
    kept = FeatureSet(torch.randn(5, 4), "images", "network", "hash", inception)
    kept.save(tmp_path / "reference.safetensors")
    loaded = FeatureSet.load(tmp_path / "reference.safetensors")
    assert torch.equal(loaded.features, kept.features)
    assert (loaded.images_hash, loaded.network, loaded.network_hash) == ("images", "network", "hash")
    assert loaded.inception is inception
