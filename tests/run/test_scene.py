"""Which real images samples are compared with, and what they are drawn for."""

import pytest
import torch

from ldm.build import build
from ldm.metric.metric import Metric
from ldm.model import LatentModel
from ldm.run.evaluation import Evaluation
from ldm.run.scene import others, real_images, shuffled, wanted
from tests.runs import compose, shrunk, tiny, write_parquet


class Seen(Metric):
    def __init__(self):
        self.batches = []

    def add(self, examples):
        self.batches.append(examples)

    def measure(self):
        return []


@pytest.fixture
def data(tmp_path):
    config = tiny(tmp_path, "condition=none")["data"]
    return build(config, "data")  # 16 training and 6 held-out images


@pytest.fixture
def labelled(tmp_path):
    return labelled_run(tmp_path)


def labelled_run(folder):
    """The config of a run on 20 grey images of either split, in ten classes."""
    root = write_parquet(folder / "data", label=True, mode="L")
    words = ["experiment=fashion_mnist", f"data.root={root}", "data.cache=false", "condition.classes=10"]
    return shrunk(compose(*words, "trainer=cpu", "logger=none", "metric=offline"), folder)


def test_any_first_part_is_a_fair_sample_and_always_the_same():
    rows = shuffled(1000)
    assert sorted(rows) == list(range(1000)) and rows == shuffled(1000)
    assert abs(sum(rows[:100]) / 100 - 499.5) < 4 * 288 / 10


def test_other_real_images_are_not_among_the_reference(data):
    reference = real_images(data, "val", slice(2))
    more = others(data, "val", 2, 4)
    assert more.split == "val" and not {*reference.rows} & {*more.rows} and len(more) == 4
    assert others(data, "val", 4, 4).name == "train:4", "of the training split where held-out ones do not suffice"
    assert others(data, "train", 10, 6).split == "train" and others(data, "train", 16, 6).name == "val:6"
    assert others(data, "val", 6, 17) is None
    keys = {real_images(data, *of).key for of in (("val", slice(2)), ("val", slice(3)), ("train", slice(2)))}
    assert len(keys) == 3


def test_captions_of_the_reference_repeat_with_new_noise(data):
    found = wanted(data, ["caption"], "reference", "val", 4, 10)
    rows = shuffled(6)[:4]
    assert [found.row(i) for i in range(6)] == [*rows, *rows[:2]]
    assert [found.number(i) for i in range(6)] == [*rows, rows[0] + 6, rows[1] + 6], (
        "a row has one image in any evaluation"
    )
    batch = found.batch(data, [0, 4])
    assert batch["caption"][0] == batch["caption"][1] == data.items("val", [rows[0]])["caption"][0]


def test_sampled_captions_are_of_the_other_split(data):
    found = wanted(data, ["caption"], "sampled", "val", 6, 500)
    assert (found.law, found.split) == ("sampled", "train") and {*found.rows} == set(range(16))
    assert len({found.number(i) for i in range(500)}) == 500
    assert wanted(data, ["caption"], "sampled", "train", 6, 5).split == "val"
    assert wanted(data, [], "sampled", "val", 6, 5).law is None, "drawn for nothing"


def test_a_condition_on_images_is_given_those_of_its_rows(data):
    for law, split in (("reference", "val"), ("sampled", "train")):
        found = wanted(data, ["image"], law, "val", 4, 10)
        rows = [found.row(place) for place in (0, 5)]
        given = found.batch(data, [0, 5])
        assert torch.equal(given["image"], data.items(split, rows)["image"]) and given["index"].tolist() == rows
    assert "image" not in wanted(data, ["caption"], "reference", "val", 4, 10).batch(data, [0])
    with pytest.raises(
        ValueError, match="balanced takes each label equally often, and this model is conditioned on .*image"
    ):
        wanted(data, ["label", "image"], "balanced", "val", 4, 10)


def test_balanced_labels_are_equally_frequent_and_captions_have_none(data, labelled):
    own = build(labelled["data"], "data")
    labels = wanted(own, ["label"], "balanced", "val", 6, 40).batch(own, range(40))["label"]
    assert labels.bincount().tolist() == [4] * 10
    with pytest.raises(ValueError, match="conditioned on caption; take evaluation.labels=reference or sampled"):
        wanted(data, ["caption"], "balanced", "val", 6, 40)


def evaluated(config, **options):
    config["autoencoder"].pop("checkpoint", None)
    seen, data = Seen(), build(config["data"], "data")
    torch.manual_seed(0)
    Evaluation(**options)(LatentModel.build(config), data, [seen], {})
    return seen, data


def test_more_samples_than_held_out_images_are_drawn_and_no_example_comes_twice(tmp_path):
    seen, _ = evaluated(tiny(tmp_path, "condition=label", "condition.classes=28"), samples=11, batch=4)
    real = [batch for batch in seen.batches if batch.real is not None]
    further = [batch for batch in seen.batches if batch.real is None]
    assert sorted(torch.cat([batch.index for batch in real]).tolist()) == list(range(6))
    assert torch.cat([batch.places for batch in seen.batches]).tolist() == list(range(11))
    assert all(batch.reconstruction is None and batch.batch is None and not batch.paired for batch in further)
    generated = torch.cat([batch.generated for batch in seen.batches])
    captions = [caption for batch in seen.batches for caption in batch.captions]
    assert len(generated) == 11 and captions[6:] == captions[:5]
    assert not torch.equal(generated[0], generated[6]), "the same caption, another noise"
    assert (seen.scene.samples, seen.scene.reference.name, seen.scene.paired) == (11, "val:6", True)


@pytest.mark.parametrize(("law", "paired"), [("reference", True), ("balanced", False), ("sampled", False)])
def test_the_training_split_can_be_the_reference_under_each_law(labelled, law, paired):
    seen, data = evaluated(labelled, samples=5, batch=5, reference="train", reference_images="all", labels=law)
    scene, [batch] = seen.scene, seen.batches
    assert (scene.reference.name, scene.labels, scene.paired) == ("train:20", law, paired)
    assert not batch.paired, "held-out examples beside samples for others"
    wanted_labels = data.items("train", scene.reference.rows[:5])["label"].tolist()
    assert law != "reference" or batch.labels.tolist() == wanted_labels
    assert law != "balanced" or batch.labels.tolist() == [0, 1, 2, 3, 4]


def test_more_real_images_than_there_are_is_refused_before_anything(data):
    with pytest.raises(ValueError, match="evaluation.reference_images=7: the val split has 6; take fewer, all"):
        Evaluation(reference_images=7).check(data, [])
    Evaluation(reference_images=6).check(data, [])
