import math
from pathlib import Path

import numpy
import pytest
import torch
import torch.multiprocessing as processes
import yaml
from torch import nn
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import poly_mmd

from ldm.build import check
from ldm.metric import distance
from ldm.metric.distance import Distances, frechet_distance, kernel_distance
from ldm.metric.feature_set import FeatureCollector, FeatureSet
from ldm.metric.features import FeaturesUnavailable, FeaturesUnavailableWarning, ModuleFeatures, RandomConv
from ldm.metric.metric import Examples
from tests.metric import ranks


def exact_gaussian(n, mean, deviations, seed):
    """n points whose sample mean and covariance are exactly those asked for."""
    x = torch.randn(n, len(mean), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    x = x - x.mean(0)
    x = x @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(x.T))).T
    return x * torch.tensor(deviations) + torch.tensor(mean)


def test_frechet_of_gaussians_is_its_closed_form():
    m, s, m2, s2 = [1.0, -2.0, 0.5], [1.0, 2.0, 0.1], [0.0, 0.0, 3.0], [2.0, 2.0, 0.4]
    wanted = sum((a - b) ** 2 for a, b in zip(m + s, m2 + s2, strict=True))
    x, y = exact_gaussian(300, m, s, 0), exact_gaussian(500, m2, s2, 1)
    assert frechet_distance(x, y) == pytest.approx(wanted, rel=1e-6)
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    assert frechet_distance(x @ turn, y @ turn) == pytest.approx(wanted, rel=1e-6)
    assert frechet_distance(x + 1e6, y + 1e6) == pytest.approx(wanted, rel=1e-5)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("n", [200, 10])  # more images than features, and fewer
def test_frechet_is_the_peers(n):
    torch.manual_seed(0)
    x, y = torch.randn(n, 32) ** 2, torch.randn(n + 7, 32) * 1.5
    peer = fid_statistics_to_metric(*(fid_features_to_statistics(z.double()) for z in (x, y)), verbose=False)
    assert frechet_distance(x, y) == pytest.approx(peer["frechet_inception_distance"], rel=1e-5)


def test_from_images_it_is_torchmetrics():
    network = RandomConv()
    x, y = torch.rand(40, 3, 16, 16) * 2 - 1, torch.rand(40, 3, 16, 16).sqrt() * 2 - 1
    peer = FrechetInceptionDistance(network, normalize=True, input_img_size=(3, 16, 16))
    peer.update(x, real=True)
    peer.update(y, real=False)
    assert measured(network, y, x)[0].value == pytest.approx(float(peer.compute()), rel=1e-3)


def test_kernel_over_all_pairs_is_the_peers():
    torch.manual_seed(0)
    x, y = torch.randn(60, 8, dtype=torch.float64), torch.randn(60, 8, dtype=torch.float64) + 0.3
    assert kernel_distance(x, y)[0] == pytest.approx(float(poly_mmd(x, y)), rel=1e-9)


def test_kernel_converges_to_its_closed_form():
    # (xy + 1)^3 = sum_k C(3, k) x^k y^k, so the squared MMD is sum_k C(3, k) (E x^k - E y^k)^2.
    torch.manual_seed(0)
    x, y = torch.randn(4000, 1), 0.5 + 1.2 * torch.randn(3000, 1)
    moments, moments_y = (0.0, 1.0, 0.0), (0.5, 0.25 + 1.44, 0.125 + 3 * 0.5 * 1.44)
    wanted = sum(math.comb(3, k + 1) * (a - b) ** 2 for k, (a, b) in enumerate(zip(moments, moments_y, strict=True)))
    value, error = kernel_distance(x, y)
    assert abs(value - wanted) < 4 * error and error < 0.2 * wanted


def test_jackknife_is_leaving_one_out(monkeypatch):
    monkeypatch.setattr(distance, "_BLOCK", 4)
    torch.manual_seed(0)
    x, y = torch.randn(9, 3), torch.randn(6, 3) + 1
    value, error = kernel_distance(x, y)

    def plain(x, y):
        k = [[float((a.double() @ b.double() / 3 + 1) ** 3) for b in (*x, *y)] for a in (*x, *y)]
        n, m = len(x), len(y)
        xx = sum(k[i][j] for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
        yy = sum(k[i][j] for i in range(n, n + m) for j in range(n, n + m) if i != j) / (m * (m - 1))
        return xx + yy - 2 * sum(k[i][j] for i in range(n) for j in range(n, n + m)) / (n * m)

    assert value == pytest.approx(plain(x, y), rel=1e-9)
    without = [numpy.array([plain(x[torch.arange(9) != i], y) for i in range(9)])]
    without.append(numpy.array([plain(x, y[torch.arange(6) != j]) for j in range(6)]))
    assert error == pytest.approx(math.sqrt(sum((len(w) - 1) * w.var() for w in without)), rel=1e-9)


def test_kernel_is_unbiased_and_its_error_honest():
    torch.manual_seed(0)
    both = [kernel_distance(torch.randn(50, 4) + 0.5, torch.randn(50, 4)) for _ in range(200)]
    values, errors = (torch.tensor(t) for t in zip(*both, strict=True))
    assert 0.8 < errors.mean() / values.std() < 1.25
    same = torch.tensor([kernel_distance(torch.randn(50, 4), torch.randn(50, 4))[0] for _ in range(200)])
    assert abs(same.mean()) < 4 * same.std() / 200**0.5


def test_too_few_images_are_refused():
    with pytest.raises(ValueError, match="at least 3"):
        kernel_distance(torch.zeros(2, 4), torch.zeros(9, 4))


def collected(network, images, batch=16):
    collector = FeatureCollector(network)
    for part in images.split(batch):
        collector.add(part)
    assert collector.count == len(images)
    return collector.gather()


def measured(network, generated, reference, **options):
    return distances(collected(network, generated), collected(network, reference), **options)


def test_a_measurement_knows_what_it_measured():
    torch.manual_seed(0)
    x, y = torch.rand(40, 3, 16, 16) * 2 - 1, torch.rand(30, 3, 16, 16) * 2 - 1
    network = RandomConv()
    frechet, kernel = measured(network, x, y, kernel_limit=20)
    assert (frechet.metric, kernel.metric) == ("fd_random_conv", "kd_random_conv")
    assert (frechet.n, kernel.n) == (40, 20) and frechet.standard_error is None and kernel.standard_error > 0
    assert frechet.features_hash == network.weights_hash and frechet.rounded
    order = torch.randperm(30)
    again = measured(network, x, y[order])[0]
    assert again.reference_hash == frechet.reference_hash and again.value == pytest.approx(frechet.value, rel=1e-5)
    assert measured(network, x, y[:29])[0].reference_hash != frechet.reference_hash


def test_only_inception_gives_fid():
    features = torch.randn(20, 4)
    facts = {"images_hash": "i", "network": "inception_2015", "network_hash": "h"}
    true, false = (FeatureSet(features, **facts, inception=inception) for inception in (True, False))
    assert [m.metric for m in distances(true, true)] == ["fid", "kid"]
    assert [m.metric for m in distances(false, false)] == ["fd_inception_2015", "kd_inception_2015"]


def test_features_of_two_networks_are_not_compared():
    x = torch.rand(5, 3, 16, 16)
    with pytest.raises(ValueError, match="collect both with one network"):
        distances(collected(RandomConv(0), x), collected(RandomConv(1), x))


def test_a_broken_network_is_named():
    class Broken(nn.Module):
        def features(self, x):
            return x.mean((2, 3)) / 0

    with pytest.raises(ValueError, match="broken gave features that are not finite"):
        FeatureCollector(ModuleFeatures(Broken(), "broken", 3)).add(torch.zeros(1, 3, 8, 8))


def test_a_reference_set_is_kept(tmp_path):
    kept = collected(RandomConv(), torch.rand(5, 3, 16, 16))
    kept.save(tmp_path / "reference.safetensors")
    loaded = FeatureSet.load(tmp_path / "reference.safetensors")
    assert torch.equal(loaded.features, kept.features)
    assert (loaded.images_hash, loaded.network, loaded.network_hash) == (
        kept.images_hash,
        kept.network,
        kept.network_hash,
    )


def test_two_ranks_see_one_set(tmp_path):
    processes.spawn(ranks.gather, (str(tmp_path),), nprocs=2)
    alone = collected(RandomConv(), ranks.images())
    for rank in range(2):
        together = FeatureSet.load(tmp_path / f"{rank}.safetensors")
        assert together.images_hash == alone.images_hash
        torch.testing.assert_close(together.features, alone.features)


def examples(n=24, generated=True):
    torch.manual_seed(0)
    x = torch.rand(n, 3, 16, 16) * 2 - 1
    return Examples(x, x * 0.9, x.flip(0) * 0.5 if generated else None, [""] * n, torch.arange(n))


def test_the_metric_goes_on_without_inception():
    def unavailable():
        raise FeaturesUnavailable("no network")

    metric = Distances({"inception_2015": unavailable, "random_conv": RandomConv})
    with pytest.warns(FeaturesUnavailableWarning, match="inception_2015"):
        metric.add(examples())
    assert [m.metric for m in metric.measure()] == ["fd_random_conv", "kd_random_conv"]


def test_the_metric_of_reconstructions_has_its_own_name():
    metric = Distances({"random_conv": RandomConv}, of="reconstruction")
    metric.add(examples(generated=False))
    assert [m.metric for m in metric.measure()] == ["reconstruction_fd_random_conv", "reconstruction_kd_random_conv"]


def test_nothing_generated_is_nothing_measured():
    def never():
        raise AssertionError("a network was built for nothing")

    metric = Distances({"never": never})
    metric.add(examples(generated=False))
    assert metric.measure() == []


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[2] / "conf/metric").glob("*.yaml")), ids=lambda p: p.stem
)
def test_every_config_fits(path):
    """Nodes alone; test_conf composes whole runs."""
    node = yaml.safe_load(path.read_text(encoding="utf-8").replace("???", "PATH"))
    node.pop("defaults", None)
    check(node)
