import math
from pathlib import Path

import numpy
import pytest
import torch
import yaml
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import poly_mmd

from ldm.build import build, check
from ldm.metric import frechet, kernel, precision_recall
from ldm.metric.distance import Distances, compare, frechet_distance, kernel_distance
from ldm.metric.feature_set import FeatureCollector, FeatureSet
from ldm.metric.features import FeaturesUnavailable, FeaturesUnavailableWarning, RandomConv
from ldm.metric.metric import Examples
from ldm.resolve import ConfigError

NETWORK_NAMES = ("fd", "kd", "precision", "recall", "density", "coverage")


def names(network="random_conv", prefix=""):
    return [f"{prefix}{name}_{network}" for name in NETWORK_NAMES]


def exact_gaussian(n, mean, deviations, seed):
    """n points whose sample mean and covariance are exactly those asked for."""
    x = torch.randn(n, len(mean), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    x = x - x.mean(0)
    x = x @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(x.T))).T
    return x * torch.tensor(deviations) + torch.tensor(mean)


def gaussian_pairs(n, d, correlation, shift=0.0):
    """Two sets of N(0, 1) in d dimensions, the first shifted, whose rows correlate."""
    x = torch.randn(n, d)
    return x + shift, correlation * x + (1 - correlation**2) ** 0.5 * torch.randn(n, d)


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


def test_frechet_of_two_images_each_is_by_hand():
    # Means 1 and 5, variances 2 and 18: (1 - 5)^2 + 2 + 18 - 2 sqrt(2 18) = 24.
    assert frechet_distance(torch.tensor([[0.0], [2.0]]), torch.tensor([[2.0], [8.0]])) == pytest.approx(24)


@pytest.mark.parametrize("correlation", [0.0, 0.8])
def test_frechet_of_one_law_has_the_bias_that_pairs_lower(correlation):
    torch.manual_seed(0)
    n, d = 400, 4
    found = torch.tensor([frechet_distance(*gaussian_pairs(n, d, correlation)) for _ in range(100)])
    wanted = 2 * (1 - correlation) * d / n + (1 - correlation**2) * d * (d + 1) / (2 * n)
    assert abs(found.mean() - wanted) < 4 * found.std() / 10 + 0.03 * wanted  # to first order in 1 / n


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
    assert kernel_distance(x, y, paired=False)[0] == pytest.approx(float(poly_mmd(x, y)), rel=1e-9)


@pytest.mark.parametrize("paired", [False, True])
def test_kernel_converges_to_its_closed_form(paired):
    # (xy + 1)^3 = sum_k C(3, k) x^k y^k, so the squared MMD is sum_k C(3, k) (E x^k - E y^k)^2.
    torch.manual_seed(0)
    x = torch.randn(3000, 1)
    y = 0.5 + 1.2 * (0.8 * x + 0.6 * torch.randn(3000, 1) if paired else torch.randn(4000, 1))
    moments, moments_y = (0.0, 1.0, 0.0), (0.5, 0.25 + 1.44, 0.125 + 3 * 0.5 * 1.44)
    wanted = sum(math.comb(3, k + 1) * (a - b) ** 2 for k, (a, b) in enumerate(zip(moments, moments_y, strict=True)))
    value, error = kernel_distance(x, y, paired)
    assert abs(value - wanted) < 4 * error and error < 0.2 * wanted


def kernels(x, y):
    """k of all with all, in plain Python."""
    return numpy.array([[float((a.double() @ b.double() / x.shape[1] + 1) ** 3) for b in (*x, *y)] for a in (*x, *y)])


def variance_by_definition(jackknife, rests):
    """The jackknife less what it counts twice; `rests` are (squares of what no row and no column explains, counted, true)."""
    return max(jackknife - sum(r * c for r, c, _ in rests), 0) + sum(r * t for r, _, t in rests)


def unexplained(h, symmetric):
    """Mean square of what no row's and no column's effect explains, by least squares."""
    n, m = h.shape
    places = [(i, j) for i in range(n) for j in range(m) if not (symmetric and i == j)]
    design = numpy.zeros((len(places), n + m))
    for row, (i, j) in enumerate(places):
        design[row, i] = design[row, n + j] = 1
    values = numpy.array([h[place] for place in places])
    rest = values - design @ numpy.linalg.lstsq(design, values, rcond=None)[0]
    return (rest**2).sum() / (n * (n - 3) if symmetric else (n - 1) * (m - 1))


def test_error_of_independent_sets_is_leaving_one_out_less_what_that_counts_twice(monkeypatch):
    monkeypatch.setattr(kernel, "_BLOCK", 4)
    torch.manual_seed(0)
    x, y = torch.randn(9, 3), torch.randn(6, 3) + 1
    value, error = kernel_distance(x, y, paired=False)

    def plain(x, y):
        n, m, k = len(x), len(y), kernels(x, y)
        xx = sum(k[i][j] for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
        yy = sum(k[i][j] for i in range(n, n + m) for j in range(n, n + m) if i != j) / (m * (m - 1))
        return xx + yy - 2 * sum(k[i][j] for i in range(n) for j in range(n, n + m)) / (n * m)

    assert value == pytest.approx(plain(x, y), rel=1e-9)
    without = [numpy.array([plain(x[torch.arange(9) != i], y) for i in range(9)])]
    without.append(numpy.array([plain(x, y[torch.arange(6) != j]) for j in range(6)]))
    k = kernels(x, y)
    rests = [
        (unexplained(k[:9, :9], True), 4 / (9 * 7), 2 / (9 * 8)),
        (unexplained(k[9:, 9:], True), 4 / (6 * 4), 2 / (6 * 5)),
        (unexplained(k[:9, 9:], False), 8 / (9 * 6), 4 / (9 * 6)),
    ]
    variance = variance_by_definition(sum((len(w) - 1) * w.var() for w in without), rests)
    assert error == pytest.approx(math.sqrt(variance), rel=1e-6)


@pytest.mark.parametrize("shift", [1.0, 0.0])  # 0: what is counted twice is all that there is
def test_error_of_pairs_is_leaving_one_pair_out_less_what_that_counts_twice(monkeypatch, shift):
    monkeypatch.setattr(kernel, "_BLOCK", 4)
    torch.manual_seed(0)
    n = 9
    x, y = gaussian_pairs(n, 3, 0.7, shift)
    value, error = kernel_distance(x, y, paired=True)

    def plain(x, y):
        n, k = len(x), kernels(x, y)
        h = k[:n, :n] + k[n:, n:] - k[:n, n:] - k[n:, :n]
        return h, sum(h[i][j] for i in range(n) for j in range(n) if i != j) / (n * (n - 1))

    h, wanted = plain(x, y)
    assert value == pytest.approx(wanted, rel=1e-9)
    without = numpy.array([plain(x[torch.arange(n) != i], y[torch.arange(n) != i])[1] for i in range(n)])
    rests = [(unexplained(h, True), 4 / (n * (n - 2)), 2 / (n * (n - 1)))]
    assert error == pytest.approx(math.sqrt(variance_by_definition((n - 1) * without.var(), rests)), rel=1e-6)


@pytest.mark.parametrize(
    ("correlation", "paired", "d"),
    [(0.0, False, 64), (0.8, True, 64), (0.8, True, 4), (0.0, True, 4), (0.99, True, 16)],
)
def test_kernel_of_one_law_is_zero_and_its_error_the_spread(unchecked, correlation, paired, d):
    """The null: two sets of one law."""
    torch.manual_seed(0)
    found = [kernel_distance(*gaussian_pairs(100, d, correlation), paired) for _ in range(300)]
    values, errors = (torch.tensor(t) for t in zip(*found, strict=True))
    assert abs(values.mean()) < 3.5 * values.std() / 300**0.5
    # The first part of the variance is estimated from below 0, too, and cut there: a little more than the truth.
    assert 0.9 < errors.mean() / values.std() < 1.3
    # Where pairs are taken for independent sets, the null is missed by many standard errors.
    wrong = torch.tensor([kernel_distance(*gaussian_pairs(100, d, 0.8), paired=False)[0] for _ in range(20)])
    assert wrong.mean() < -8 * wrong.std() / 20**0.5


@pytest.mark.parametrize(("correlation", "paired"), [(0.0, False), (0.6, True)])
def test_error_of_sets_that_differ_is_the_spread(unchecked, correlation, paired):
    torch.manual_seed(0)
    found = [kernel_distance(*gaussian_pairs(50, 4, correlation, 0.5), paired) for _ in range(300)]
    values, errors = (torch.tensor(t) for t in zip(*found, strict=True))
    assert 0.85 < errors.mean() / values.std() < 1.15


def test_kernel_of_a_set_and_itself_is_zero_in_pairs():
    x = torch.randn(10, 4)
    assert kernel_distance(x, x, paired=True) == (0, 0)


@pytest.mark.parametrize("paired", [False, True])
def test_what_a_kernel_distance_cannot_be_of_is_refused(paired):
    with pytest.raises(ValueError, match="at least 4 images of each kind, got 3 and 3"):
        kernel_distance(torch.zeros(3, 4), torch.zeros(3, 4), paired)
    with pytest.raises(ValueError, match="pairs are of equal number, got 9 and 8"):
        kernel_distance(torch.zeros(9, 4), torch.zeros(8, 4), True)


def collected(network, images, batch=16):
    collector = FeatureCollector(network)
    for part, index in zip(images.split(batch), torch.arange(len(images)).split(batch), strict=True):
        collector.add(part, index)
    assert collector.count == len(images)
    return collector.gather()


def measured(network, generated, reference, paired=False, **options):
    return compare(collected(network, generated), collected(network, reference), paired, **options)


def test_a_measurement_knows_what_it_measured():
    torch.manual_seed(0)
    x, y = torch.rand(40, 3, 16, 16) * 2 - 1, torch.rand(30, 3, 16, 16) * 2 - 1
    network = RandomConv()
    found = measured(network, x, y, limit=20)
    assert [m.metric for m in found] == names()
    assert [m.n for m in found] == [40, 20, 20, 20, 20, 20]
    errors = {m.metric: m.standard_error for m in found}
    assert all(errors[f"{name}_random_conv"] > 0 for name in NETWORK_NAMES[:-1])
    assert found[-1].value > 0.95 and found[-1].standard_error is None, "a coverage that a few balls decide"
    assert [m.error for m in found] == ["jackknife"] * 2 + ["halves"] * 3 + [None]
    for m in found:
        assert (m.features, m.features_hash, m.rounded, m.paired) == ("random_conv", network.weights_hash, True, False)
    order = torch.randperm(30)
    again = measured(network, x, y[order])[0]
    assert again.reference_hash == found[0].reference_hash and again.value == pytest.approx(found[0].value, rel=1e-5)
    assert measured(network, x, y[:29])[0].reference_hash != found[0].reference_hash
    assert {m.paired for m in measured(network, x, x.flip(0), paired=True)} == {True}


def test_the_numbers_are_of_their_names():
    torch.manual_seed(0)
    x, y = torch.randn(30, 4), torch.randn(30, 4) + 0.5
    sets = [FeatureSet(features, "i", "net", "h", inception=False) for features in (x, y)]
    found = {m.metric: (m.value, m.standard_error) for m in compare(*sets, paired=True)}
    assert found["fd_net"] == (frechet_distance(x, y), frechet.frechet(x, y).error(paired=True))
    assert found["kd_net"] == kernel_distance(x, y, True)
    shares = precision_recall.precision_recall(x, y, True)
    assert {name: found[f"{name}_net"] for name in shares} == shares


@pytest.mark.parametrize("limit", [7, 12])
def test_at_most_so_many_are_rows_spread_evenly_and_stay_pairs(limit):
    x = torch.arange(25.0)[:, None].expand(25, 3)
    sets = [FeatureSet(features, "i", "net", "h", inception=False) for features in (x, x + 100)]
    found = {m.metric: m.value for m in compare(*sets, paired=True, limit=limit)}
    rows = [int(24 * i / (limit - 1)) for i in range(limit)]
    wanted = kernel_distance(x[rows], x[rows] + 100, True)[0]
    assert found["kd_net"] == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize(
    ("n", "kinds"), [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2), (6, 2), (7, 6), (13, 6), (14, 6)], ids=str
)
@pytest.mark.parametrize("paired", [False, True])
def test_what_so_few_images_cannot_give_is_left_out_and_said(n, kinds, paired, caplog):
    torch.manual_seed(0)
    sets = [FeatureSet(torch.randn(n, 5), "i", "net", "h", inception=False) for _ in range(2)]
    found = compare(*sets, paired)
    assert [m.metric for m in found] == names("net")[:kinds]
    assert all(math.isfinite(m.value) for m in found)
    said = [record.getMessage() for record in caplog.records]
    for name, wanted in (("fd_net", 2), ("kd_net", 4), ("precision_net, recall_net, density_net, coverage_net", 7)):
        verbs = "are left out: they need" if "," in name else "is left out: it needs"
        line = f"{name} {verbs} at least {wanted} images of each kind, and here are {n}"
        assert (line in said) == (n < wanted)
    errors = {m.metric: m.standard_error for m in found}
    assert kinds < 6 or (errors["precision_net"] is None) == (n < 14)


def test_only_inception_gives_fid():
    features = torch.randn(20, 4)
    facts = {"images_hash": "i", "network": "inception_2015", "network_hash": "h"}
    true, false = (FeatureSet(features, **facts, inception=inception) for inception in (True, False))
    assert [m.metric for m in compare(true, true, False)] == ["fid", "kid", *names("inception_2015")[2:]]
    assert [m.metric for m in compare(false, false, False)] == names("inception_2015")


def test_features_of_two_networks_are_not_compared():
    x = torch.rand(5, 3, 16, 16)
    with pytest.raises(ValueError, match="collect both with one network"):
        compare(collected(RandomConv(0), x), collected(RandomConv(1), x), False)
    one, other = (FeatureSet(torch.randn(5, 4), "i", name, "h", inception=False) for name in "ab")
    with pytest.raises(ValueError, match="collect both with one network"):
        compare(one, other, False)


def examples(n=24, size=(16, 16), channels=3, generated=True, paired=True):
    torch.manual_seed(0)
    x = torch.rand(n, channels, *size) * 2 - 1
    return Examples(x, x * 0.9, x.flip(0) * 0.5 if generated else None, [""] * n, torch.arange(n), paired)


def test_the_metric_goes_on_without_inception():
    def unavailable():
        raise FeaturesUnavailable("no network")

    metric = Distances({"inception_2015": unavailable, "random_conv": RandomConv})
    assert metric.missing() == ["no numbers of inception_2015: no network"]  # before anything is measured
    with pytest.warns(FeaturesUnavailableWarning, match="inception_2015"):
        metric.add(examples())
    assert [m.metric for m in metric.measure()] == names()


def test_batches_come_in_any_order_and_their_pairs_stay():
    """The numbers are those of the whole set in its order, whatever the batches: rows are brought back by their index."""
    whole, order = examples(), torch.randperm(24, generator=torch.Generator().manual_seed(1))
    once, cut = Distances({"r": RandomConv}), Distances({"r": RandomConv})
    once.add(whole)
    for part in order.split(7):
        cut.add(Examples(whole.real[part], whole.reconstruction[part], whole.generated[part], [""] * len(part), part))
    for a, b in zip(once.measure(), cut.measure(), strict=True):
        assert (a.metric, a.reference_hash, a.n) == (b.metric, b.reference_hash, b.n)
        assert a.value == pytest.approx(b.value, rel=1e-5)
        assert (a.standard_error or 0) == pytest.approx(b.standard_error or 0, rel=1e-4)


def test_pairs_are_known_from_the_examples():
    numbers = {}
    for paired in (True, False):
        metric = Distances({"r": RandomConv})
        metric.add(examples(paired=paired))
        found = {m.metric: m for m in metric.measure()}
        assert {m.paired for m in found.values()} == {paired}
        numbers[paired] = found["kd_random_conv"].value
    x, y = (RandomConv()(images) for images in (examples().generated, examples().real))
    assert numbers == {paired: pytest.approx(kernel_distance(x, y, paired)[0], rel=1e-6) for paired in (True, False)}


@pytest.mark.parametrize("paired", [True, False])  # what is generated may be independent; a reconstruction never is
def test_reconstructions_have_names_of_their_own_and_are_pairs(paired):
    metric = Distances({"r": RandomConv}, of=("generated", "reconstruction"))
    batch = examples(paired=paired)
    metric.add(batch)
    found = metric.measure()
    assert [m.metric for m in found] == [*names(), *names(prefix="reconstruction_")]
    assert [m.paired for m in found] == [paired] * 6 + [True] * 6
    values = {m.metric: m.value for m in found}
    network = RandomConv()
    x, y = network(batch.reconstruction), network(batch.real)
    assert values["reconstruction_kd_random_conv"] == pytest.approx(kernel_distance(x, y, True)[0], rel=1e-6)
    assert values["reconstruction_fd_random_conv"] == pytest.approx(frechet_distance(x, y), rel=1e-6)
    assert values["fd_random_conv"] == pytest.approx(frechet_distance(network(batch.generated), y), rel=1e-6)


def test_an_image_passes_once_through_a_network_for_all_numbers():
    class Counting(RandomConv):
        rows = 0

        def embed(self, pixels):
            Counting.rows += len(pixels)
            return super().embed(pixels)

    metric = Distances({"r": Counting}, of=("generated", "reconstruction"))
    metric.add(examples())
    assert len(metric.measure()) == 12 and Counting.rows == 3 * 24


def test_of_reconstructions_alone_nothing_has_to_be_generated():
    metric = Distances({"random_conv": RandomConv}, of=("reconstruction",))
    metric.add(examples(generated=False))
    assert [m.metric for m in metric.measure()] == names(prefix="reconstruction_")
    both = Distances({"random_conv": RandomConv}, of=("generated", "reconstruction"))
    both.add(examples(generated=False))
    assert [m.metric for m in both.measure()] == names(prefix="reconstruction_")


def test_nothing_generated_is_nothing_measured():
    def never():
        raise AssertionError("a network was built for nothing")

    metric = Distances({"never": never})
    assert metric.measure() == []
    metric.add(examples(generated=False))
    assert metric.measure() == []


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (8, 40), (15, 15), (16, 17)])
@pytest.mark.parametrize("n", [1, 8])
def test_images_too_small_for_a_network_are_said_and_the_other_networks_go_on(n, size, channels, caplog):
    whole, resized = RandomConv, lambda: RandomConv(size=16)
    metric = Distances({"whole": whole, "resized": resized})
    metric.add(examples(n, size, channels))
    found = metric.measure()
    seen = 1 + (min(size) >= 16)
    assert [m.metric for m in found] == (names() * seen if n == 8 else [])
    assert all(math.isfinite(m.value) for m in found)
    said = [record.getMessage() for record in caplog.records if "every number" in record.getMessage()]
    wanted = "every number of random_conv is left out: it needs images of at least 16 x 16 pixels, and here are "
    assert said == ([] if seen == 2 else [wanted + f"{size[0]} x {size[1]}"])


def test_a_size_that_random_conv_cannot_see_is_refused_by_the_config():
    with pytest.raises(ConfigError, match=r"size.*greater than or equal to 16"):
        check({"_target_": "ldm.metric.features.RandomConv", "_partial_": True, "size": 8}, "metric")
    with pytest.raises(ValueError, match="at least 16 pixels, got 8"):
        RandomConv(size=8)


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[2] / "conf/metric").glob("*.yaml")), ids=lambda p: p.stem
)
def test_every_config_fits(path):
    """Nodes alone; test_conf composes whole runs."""
    node = yaml.safe_load(path.read_text(encoding="utf-8").replace("???", "PATH"))
    node.pop("defaults", None)
    check(node)


def test_what_is_measured_is_a_word_of_a_config():
    node = {
        "_target_": "ldm.metric.distance.Distances",
        "networks": {},
        "of": ["generated", "reconstruction"],
        "limit": 5,
    }
    assert build(node).of == ("generated", "reconstruction")
    with pytest.raises(ConfigError, match="of"):
        check(node | {"of": ["original"]})
