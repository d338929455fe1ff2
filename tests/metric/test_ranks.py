"""Metrics of latents, of noise and of costs on ranks that are threads, one of them without images, against one process."""

import pytest
import torch

from ldm.alignment.maps import RandomMaps
from ldm.cost import Spent
from ldm.loss.feature_distance import FeatureDistance
from ldm.metric import cost, latents, ms_ssim, path_length, perceptual, probe
from ldm.metric.cost import Cost
from ldm.metric.gather import gather_rows
from ldm.metric.latents import LatentStatistics
from ldm.metric.metric import Examples
from ldm.metric.ms_ssim import MultiscaleSSIM
from ldm.metric.path_length import PathLength
from ldm.metric.perceptual import PerceptualDistances
from ldm.metric.probe import Probe
from ldm.metric.scene import RealImages, Scene
from tests.metric.test_gather import Ranks
from tests.stage.tiny import Noise, second

MODULES = (cost, latents, ms_ssim, path_length, perceptual, probe)


def distances():
    return {"random": FeatureDistance(RandomMaps(width=4, layers=2))}


def probed():
    pixels = torch.from_numpy(Noise(12, 3).images).movedim(3, 1) / 127.5 - 1

    def read(rows):
        return {"image": pixels[list(rows)], "label": torch.tensor(rows) % 3}

    training = RealImages("train", range(12), "key", read, lambda: [row % 3 for row in range(12)])
    made = Probe()
    made.begin(Scene(0, (3, 8, 8), torch.device("cpu"), training, training=training))
    return made


MADE = {
    "latents": LatentStatistics,
    "perceptual": lambda: PerceptualDistances(distances()),
    "path_length": lambda: PathLength(distances()),
    "probe": probed,
}


@pytest.fixture
def two(monkeypatch):
    found = Ranks(2)
    for module in MODULES:
        monkeypatch.setattr(module, "gather_rows", found.gather_rows)
    return found


def batch(model, rows, drawing=None):
    pixels = torch.from_numpy(Noise(6, 1).images).movedim(3, 1) / 127.5 - 1
    x, facts = pixels[rows], {"label": rows % 3, "index": rows}
    return Examples(x, x * 0.9, x, [""] * len(rows), rows, True, model, facts | {"image": x}, drawing=drawing)


def values(measurements):
    return {each.metric: (each.value, each.n, each.reference_hash) for each in measurements}


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("shared", [True, False])
def test_ranks_measure_what_one_process_does(monkeypatch, two, name, shared):
    model = second().model.eval()
    index = torch.arange(6)
    parts = [index[0::2], index[1::2]] if shared else [index, index[:0]]
    metrics = [MADE[name](), MADE[name]()]
    found = two.measure(metrics, [[batch(model, part)] if len(part) else [] for part in parts])
    for module in MODULES:
        monkeypatch.setattr(module, "gather_rows", gather_rows)
    alone = MADE[name]()
    alone.add(batch(model, index))
    wanted = values(alone.measure())
    assert wanted
    for rank in found:
        ours = values(rank)
        assert ours.keys() == wanted.keys()
        for metric, (value, n, reference) in wanted.items():
            # a path's length is a difference over a small step, which magnifies how products of other batches are rounded
            rel = 1e-2 if name == "path_length" else 1e-4
            assert ours[metric] == (pytest.approx(value, rel=rel, abs=1e-6), n, reference)


def test_the_rate_of_ranks_is_the_sum_of_theirs_and_the_rest_is_known_to_all(two):
    model = second().model.eval()
    made = [[batch(model, torch.arange(3), Spent(0.5))], [batch(model, torch.arange(3), Spent(1.5))]]
    for rank in two.measure([Cost(), Cost()], made):
        found = {each.metric: each for each in rank}
        assert found["samples_per_second"].value == pytest.approx(3 / 0.5 + 3 / 1.5)
        assert found["sample_flops"].value > 0
    one, other = two.measure([Cost(), Cost()], [made[0], []])
    assert values(one) == values(other)


@pytest.mark.parametrize("make", [*MADE.values(), MultiscaleSSIM, Cost])
def test_no_image_on_any_rank_is_no_number(two, make):
    assert two.measure([make(), make()], [[], []]) == [[], []]
