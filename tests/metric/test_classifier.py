"""The classifier of the data's own labels: learnt once, kept, the same each time, and refused where there are no labels."""

import math
from dataclasses import replace

import pytest
import torch

from ldm.metric.classifier import Classifier, OwnClassifier, _shifted
from ldm.metric.distance import Distances
from ldm.metric.features import RandomConv
from ldm.metric.label_accuracy import LabelAccuracy
from ldm.metric.metric import Examples
from ldm.metric.scene import InMemory, RealImages, Scene
from ldm.random import Random

SHAPE = (1, 12, 12)


def images(labels, channels=1, size=(12, 12)):
    """Class k is bright in the k-th of four quarters, on noise."""
    x = 0.2 * torch.randn(len(labels), channels, *size, generator=torch.Generator().manual_seed(len(labels))) - 0.5
    h, w = size[0] // 2, size[1] // 2
    for i, label in enumerate(labels.tolist()):
        top, left = h * (label // 2), w * (label % 2)
        x[i, :, top : top + h, left : left + w] += 1
    x[:, 3:] = 1.0  # opaque
    return x.clamp(-1, 1)


def real(split, count, channels=1, size=(12, 12)):
    labels = torch.arange(count) % 4
    x = images(labels, channels, size)

    def read(rows):
        rows = torch.tensor(list(rows))
        return {"image": x[rows], "label": labels[rows], "index": rows}

    return RealImages(split, range(count), f"{split}{count}{channels}{size}", read, labels.tolist)


def scene(channels=1, size=(12, 12), samples=0, law=None, **more):
    training, held_out = real("train", 256, channels, size), real("val", 64, channels, size)
    return Scene(
        *(samples, (channels, *size), torch.device("cpu"), held_out),
        **({"training": training, "held_out": held_out, "classes": 4, "labels": law} | more),
    )


QUICK = {"updates": 60, "batch": 32, "width": 4}


@pytest.mark.parametrize(("channels", "size"), [(1, (12, 12)), (3, (12, 20)), (4, (16, 16))])
def test_it_learns_the_classes_of_images_of_any_size_and_number_of_channels(channels, size):
    accuracy, n = OwnClassifier(**QUICK).accuracy(scene(channels, size))
    assert n == 64 and accuracy > 0.9  # by chance .25


def test_its_logits_are_of_its_features():
    network = Classifier(5, 16, 4)
    x = torch.rand(3, 1, 16, 16) * 2 - 1
    assert network.logits(network(x)).shape == (3, 5) and network(x).shape == (3, network.width)
    network.train()
    assert not any(module.training for module in network.modules())


def test_it_is_learnt_once_and_the_same_each_time(monkeypatch):
    calls, fit = [], OwnClassifier.fit
    monkeypatch.setattr(OwnClassifier, "fit", lambda *of: calls.append(1) or fit(*of))
    of, one = scene(), OwnClassifier(**QUICK)
    first = one.learn(of)
    torch.manual_seed(77)
    before = torch.random.get_rng_state()
    again = OwnClassifier(**QUICK).learn(of)
    assert len(calls) == 1 and first.weights_hash == again.weights_hash
    anew = OwnClassifier(**QUICK).learn(replace(of, artifacts=InMemory()))
    assert len(calls) == 2 and anew.weights_hash == first.weights_hash, "a function of the seed"
    assert torch.equal(before, torch.random.get_rng_state()), "torch's generator is left alone"
    assert OwnClassifier(**QUICK | {"seed": 1}).learn(of).weights_hash != first.weights_hash
    assert len(calls) == 3
    for word, value in {
        "seed": 0,
        "updates": 2,
        "batch": 8,
        "width": 5,
        "rate": 1e-3,
        "decay": 0.1,
        "images": 64,
    }.items():
        OwnClassifier(**{"updates": 1, "batch": 4, "width": 4} | {word: value}).learn(of)
    assert len(calls) == 10, "another recipe is another artifact"


def test_without_labels_it_says_what_to_do_before_it_learns():
    bare = replace(real("train", 256), labels=None)
    with pytest.raises(ValueError, match=r"data\.train has no labels: name the column .*data\.train\.label=COLUMN"):
        OwnClassifier().learn(scene(training=bare))
    with pytest.raises(ValueError, match=r"data\.train is streamed"):
        OwnClassifier().learn(scene(training=None))
    with pytest.raises(ValueError, match="the data have 1"):
        OwnClassifier().learn(scene(classes=1))


def test_images_without_a_label_teach_nothing():
    labelled = real("train", 256)

    def read(rows):
        found = labelled.read(rows)
        odd = torch.tensor([row % 2 == 1 for row in rows])  # classes 1 and 3, mislabelled were they read as 0
        return found | {"label": torch.where(odd, -1, found["label"])}

    one = OwnClassifier(**QUICK)
    accuracy, _ = one.accuracy(scene(training=replace(labelled, read=read)))
    assert 0.4 < accuracy <= 0.5, "two of four classes are known"


def test_shifts_move_whole_images_and_keep_their_size():
    x = torch.zeros(200, 3, 16, 16)
    x[:, :, 8, 8] = 1.0
    seen = _shifted(x, Random(0, 0, torch.arange(200)))[:, 0].flatten(1).argmax(1)
    rows, columns = seen // 16, seen % 16
    assert set(rows.tolist()) == set(columns.tolist()) == set(range(6, 11)), "by at most an eighth of 16"


def examples(labels, given, start=0):
    x = images(labels)
    index = torch.arange(start, start + len(x))
    return Examples(x, x, x, [""] * len(x), index, True, None, None, index, given)


def test_label_accuracy_is_the_share_of_samples_of_their_class():
    metric = LabelAccuracy(OwnClassifier(**QUICK))
    assert metric.needs == ("label",)
    metric.begin(scene(samples=40, law="balanced"))
    shown = torch.arange(40) % 4
    wanted = shown.clone()
    wanted[:10] = (wanted[:10] + 1) % 4  # ten are of another class than they were drawn for
    wanted[39] = -1  # drawn for no label
    metric.add(examples(shown[:16], wanted[:16]))
    metric.add(examples(shown[16:], wanted[16:], 16))
    accuracy, share = metric.measure()
    assert (accuracy.metric, accuracy.n, share.metric, share.n) == ("classifier_accuracy", 64, "label_accuracy", 39)
    p = 29 / 39
    assert share.value == pytest.approx(p, abs=0.06)  # but for errors of the classifier
    q = share.value
    assert share.standard_error == pytest.approx(math.sqrt(q * (1 - q) / 39)) and share.error == "binomial"
    assert (share.labels, share.features, share.features_hash) == ("balanced", "classifier", accuracy.features_hash)


def test_label_accuracy_of_samples_for_nothing_is_left_out_and_said(caplog):
    metric = LabelAccuracy(OwnClassifier(**QUICK))
    metric.begin(scene(samples=4))
    metric.add(examples(torch.arange(4), None))
    assert [m.metric for m in metric.measure()] == ["classifier_accuracy"]
    assert "label_accuracy is left out: it needs a model that is conditioned on labels" in caplog.text


def test_distances_are_in_its_features_and_know_their_reference():
    metric = Distances(
        {"classifier": OwnClassifier(**QUICK), "r": lambda: RandomConv(size=16)}, batch=16, sizes=(8, 99)
    )
    assert metric.needs == ("label",)
    of = scene(samples=24, law="reference", others=real("train", 24))
    metric.begin(of)
    metric.add(examples(torch.arange(24) % 4, torch.arange(24) % 4))
    found = {m.metric: m for m in metric.measure()}
    shares = ("precision", "recall", "density", "coverage")
    for network in ("classifier", "random_conv"):
        wanted = [f"{name}_{network}" for name in ("fd", "kd", *shares, "fdr")] + [f"fd_{network}_of_8"]
        assert set(wanted) <= found.keys()
        own = [found[name] for name in wanted if not name.startswith("fdr")]
        assert {(m.reference, m.labels, m.feature_batch, m.paired) for m in own} == {("val:64", "reference", 16, True)}
        assert found[f"fdr_{network}"].reference == "val:64/train:24"
        assert all(m.standard_error is not None for m in own if m.metric.startswith(("fd", "kd")))
    assert found["fd_classifier_of_8"].n == 8 and "fd_classifier_of_99" not in found
    assert "fdr" not in found, "of two networks"
    with pytest.raises(ValueError, match="begin"):
        Distances({"classifier": OwnClassifier(**QUICK)}).add(examples(torch.arange(4), None))
