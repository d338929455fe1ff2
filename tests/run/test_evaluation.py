"""What an evaluation hands to its metrics."""

import pytest

from ldm.build import build
from ldm.metric.metric import Metric
from ldm.model import LatentModel
from ldm.run.evaluation import Evaluation
from tests.runs import tiny


class Seen(Metric):
    def __init__(self):
        self.batches = []

    def add(self, examples):
        self.batches.append(examples)

    def measure(self):
        return []


@pytest.mark.parametrize(
    ("words", "paired"),
    [(["condition=label", "condition.classes=28"], True), (["condition=none", "backbone.pooled_context=false"], False)],
)
def test_samples_are_pairs_of_the_real_images_where_they_were_drawn_for_their_labels(tmp_path, words, paired):
    config, seen = tiny(tmp_path, *words), Seen()
    config["autoencoder"].pop("checkpoint", None)
    data = build(config["data"], "data")
    model = LatentModel.build(config)
    assert Evaluation(samples=3, batch=2)(model, data, [seen], {}) == []
    assert not any(module.training for module in model.modules()), "dropout and the like are for training"
    assert [batch.index.tolist() for batch in seen.batches] == [[0, 1], [2]]
    assert [batch.paired for batch in seen.batches] == [paired, paired]
    for batch in seen.batches:
        for row, real in zip(batch.index.tolist(), batch.real, strict=True):
            assert (data.items("val", [row])["image"][0] == real).all()
        assert batch.generated.shape == batch.reconstruction.shape == batch.real.shape


def test_what_nobody_asks_to_generate_is_not_generated(tmp_path):
    config, seen = tiny(tmp_path, "condition=none", "backbone.pooled_context=false"), Seen()
    config["autoencoder"].pop("checkpoint", None)
    model, data = LatentModel.build(config), build(config["data"], "data")
    assert Evaluation(samples=2, batch=2)(model, data, [seen], {}, generate=False) == []
    assert [batch.generated for batch in seen.batches] == [None] and seen.batches[0].reconstruction is not None
