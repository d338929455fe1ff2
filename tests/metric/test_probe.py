"""Probes on latents whose labels are known by construction, and ridge regression against its formula with rows left out."""

import pytest
import torch

from ldm.autoencoder.autoencoder import Autoencoder
from ldm.autoencoder.bottleneck import Identity
from ldm.autoencoder.convnet import Pixels
from ldm.condition.none import Unconditional
from ldm.metric.metric import Examples
from ldm.metric.probe import PENALTIES, Probe, linear, nearest
from ldm.metric.scene import RealImages, Scene
from ldm.model import LatentModel
from ldm.prior.base import Latents
from ldm.prior.normal import Normal


def ridge(x, y, told, penalty):
    """By the normal equations, with an intercept that has no penalty."""
    x, told = (torch.cat([torch.ones(len(each), 1, dtype=torch.float64), each], 1) for each in (x, told))
    penalties = penalty * torch.eye(x.shape[1], dtype=torch.float64)
    penalties[0, 0] = 0
    return told @ torch.linalg.solve(x.T @ x + penalties, x.T @ y)


@pytest.mark.parametrize("numbers", [3, 40])  # fewer and more than rows
@pytest.mark.parametrize("draw", range(4))  # a wrong penalty tells the same labels now and then
def test_ridge_regression_is_its_formula_with_the_penalty_that_rows_left_out_choose(numbers, draw):
    labels = torch.arange(30) % 3
    centres = torch.randn(3, numbers)
    z = centres[labels] + 1.5 * torch.randn(30, numbers)
    told = centres.repeat(20, 1) + 1.5 * torch.randn(60, numbers)
    x = z.double()
    x, new = (x - x.mean(0)) / x.std(0, correction=0), (told.double() - x.mean(0)) / x.std(0, correction=0)
    y = torch.nn.functional.one_hot(labels).double()
    right = {}
    for share in PENALTIES:
        others = [torch.arange(30) != i for i in range(30)]
        answers = [ridge(x[rows], y[rows], x[~rows], 30 * share).argmax() for rows in others]
        right[share] = int((torch.stack(answers) == labels).sum())
    best = max(share for share in PENALTIES if right[share] == max(right.values()))
    wanted = ridge(x, y, new, 30 * best).argmax(1)
    assert torch.equal(linear(z, labels + 5, told), wanted + 5), "labels need not begin at 0"


def test_a_number_that_never_varies_says_nothing():
    z = torch.tensor([[0.0, 7.0], [1.0, 7.0], [0.1, 7.0], [0.9, 7.0]])
    assert linear(z, torch.tensor([0, 1, 0, 1]), torch.tensor([[0.2, 99.0], [0.8, -99.0]])).tolist() == [0, 1]


def test_the_nearest_latent_gives_its_label():
    z = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 1.0]])
    told = torch.tensor([[6.0, 0.0], [0.0, 0.6], [4.0, 0.4], [0.0, 0.5]])
    assert nearest(z, torch.tensor([3, 8, 5]), told).tolist() == [8, 5, 3, 3]


def grey(levels):
    return torch.tensor(levels)[:, None, None, None].expand(-1, 1, 2, 2).contiguous()


TRAINING, LABELS = grey([-1.0, -0.9, 0.9, 1.0, 0.0]), torch.tensor([0, 0, 1, 1, -1])
HELD_OUT, TOLD = grey([-0.95, 0.95, -0.8, 0.1]), torch.tensor([0, 1, 1, -1])


def scene(streamed=False, labelled=True):
    def read(rows):
        return {"image": TRAINING[list(rows)], "label": LABELS[list(rows)]}

    training = RealImages("train", range(5), "key", read, LABELS.tolist if labelled else None)
    return Scene(0, (1, 2, 2), torch.device("cpu"), training, training=None if streamed else training)


def examples(rows):
    own = Autoencoder((1, 2, 2), Pixels, Pixels, Identity())
    condition = Unconditional()
    model = LatentModel(own, condition, Normal(Latents((1, 2, 2)), condition.shape)).eval()
    x, batch = HELD_OUT[rows], {"image": HELD_OUT[rows], "label": TOLD[rows], "index": rows}
    return Examples(x, x, None, [""] * len(rows), rows, model=model, batch=batch)


def begun():
    probe = Probe()
    probe.begin(scene())
    return probe


def test_labels_are_told_from_training_to_held_out():
    """Of the three labelled held-out images one is of the other class than its level says; unlabelled images are not counted."""
    probe = begun()
    probe.add(examples(torch.arange(0, 2)))
    probe.add(examples(torch.arange(2, 4)))
    found = probe.measure()
    assert [each.metric for each in found] == ["probe_linear", "probe_nearest"]
    for each in found:
        assert (each.value, each.n) == (pytest.approx(2 / 3), 3)
        assert each.standard_error == pytest.approx((2 / 9 / 3) ** 0.5)


def test_fewer_training_images_are_another_set():
    hashes = []
    for count in (2, 4, 5):
        probe = Probe(training=count)
        probe.begin(scene())
        probe.add(examples(torch.arange(4)))
        hashes.append(probe.measure()[0].reference_hash)
    assert hashes[0] != hashes[1] == hashes[2], "the fifth has no label"


def test_what_has_no_labels_is_refused_before_anything_is_read():
    with pytest.raises(ValueError, match=r"data\.train has none: name the column"):
        Probe().begin(scene(labelled=False))
    with pytest.raises(ValueError, match=r"data\.train is streamed"):
        Probe().begin(scene(streamed=True))
    bare = examples(torch.arange(2))
    bare.batch.pop("label")
    with pytest.raises(ValueError, match=r"data\.val has none"):
        begun().add(bare)
    with pytest.raises(ValueError, match="begin"):
        Probe().add(examples(torch.arange(2)))


def test_large_latents_are_averaged_over_neighbours():
    probe = Probe(numbers=1)
    probe._autoencoder = examples(torch.arange(1)).model.autoencoder
    assert torch.equal(probe._latents(torch.tensor([[[[0.0, 1.0], [0.5, 0.5]]]])), torch.tensor([[0.5]]))
