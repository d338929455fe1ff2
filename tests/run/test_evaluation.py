"""What an evaluation hands to its metrics."""

import pytest
import torch

from ldm.build import build
from ldm.metric.measurement import Measurement
from ldm.metric.metric import Metric
from ldm.model import LatentModel
from ldm.run.evaluation import Evaluation
from ldm.run.scene import shuffled
from ldm.run.signals import StopFlag, Stopped
from tests.runs import tiny


class Seen(Metric):
    def __init__(self):
        self.batches = []

    def add(self, examples):
        self.batches.append(examples)

    def measure(self):
        return []


class Counted(Seen):
    def measure(self):
        return [
            Measurement(metric="images", value=0.0, standard_error=None, n=sum(len(each.real) for each in self.batches))
        ]


@pytest.mark.parametrize(
    ("words", "paired"),
    [(["condition=label", "condition.classes=28"], True), (["condition=none"], False)],
)
def test_samples_are_pairs_of_the_real_images_where_they_were_drawn_for_their_labels(tmp_path, words, paired):
    config, seen = tiny(tmp_path, *words), Seen()
    config["autoencoder"].pop("checkpoint", None)
    data = build(config["data"], "data")
    model = LatentModel.build(config)
    assert Evaluation(samples=3, batch=2)(model, data, [seen], {}) == []
    assert not any(module.training for module in model.modules()), "dropout and the like are for training"
    rows = shuffled(6)
    assert [batch.index.tolist() for batch in seen.batches] == [rows[:2], rows[2:3]]
    assert [batch.paired for batch in seen.batches] == [paired, paired]
    for batch in seen.batches:
        for row, real in zip(batch.index.tolist(), batch.real, strict=True):
            assert (data.items("val", [row])["image"][0] == real).all()
        assert batch.generated.shape == batch.reconstruction.shape == batch.real.shape


def test_what_nobody_asks_to_generate_is_not_generated(tmp_path):
    config, seen = tiny(tmp_path, "condition=none"), Seen()
    config["autoencoder"].pop("checkpoint", None)
    model, data = LatentModel.build(config), build(config["data"], "data")
    assert Evaluation(samples=2, batch=2)(model, data, [seen], {}, generate=False) == []
    assert [batch.generated for batch in seen.batches] == [None] and seen.batches[0].reconstruction is not None


class Once(StopFlag):
    """A signal that comes before the batch of this number."""

    def __init__(self, at):
        super().__init__()
        self.left = at

    def agreed(self):
        self.left -= 1
        return self.left < 0


def test_an_evaluation_that_is_stopped_goes_on_and_gives_the_same_images(tmp_path, monkeypatch):
    config = tiny(tmp_path, "condition=label", "condition.classes=28")
    config["autoencoder"].pop("checkpoint", None)
    model, data, kept = LatentModel.build(config), build(config["data"], "data"), tmp_path / "evaluation"
    for p in model.prior.parameters():
        p.data.add_(0.1 * torch.randn_like(p))
    whole, before, after = Seen(), Seen(), Seen()
    evaluation = Evaluation(samples=5, batch=2)
    [record] = evaluation(model, data, [whole, Counted()], {"asked": "a"})
    with pytest.raises(Stopped):
        evaluation(model, data, [before], {"asked": "a"}, kept=kept, stop=Once(2))
    drawn, sample = [], model.sample_latents
    monkeypatch.setattr(model, "sample_latents", lambda *of: drawn.append(len(of[1].rows)) or sample(*of))
    [again] = evaluation(model, data, [after, Counted()], {"asked": "a"}, kept=kept)
    assert drawn == [1] and not kept.exists(), "two batches of two were there"
    for one, other in zip(whole.batches, after.batches, strict=True):
        assert torch.equal(one.generated, other.generated) and torch.equal(one.real, other.real)
    assert again.evaluations == record.evaluations == 4, "two steps with guidance, found or drawn"


def test_latents_of_another_model_or_question_are_not_taken(tmp_path):
    config = tiny(tmp_path, "condition=label", "condition.classes=28")
    config["autoencoder"].pop("checkpoint", None)
    model, data, kept = LatentModel.build(config), build(config["data"], "data"), tmp_path / "evaluation"
    evaluation, first, second = Evaluation(samples=4, batch=2), Seen(), Seen()
    with pytest.raises(Stopped):
        evaluation(model, data, [first], {"asked": "a"}, kept=kept, stop=Once(1))
    assert len(list(kept.glob("*/*.safetensors"))) == 1
    with torch.no_grad():
        model.autoencoder.latent_mean.add_(1.0)
        model.prior.denoiser.backbone.head.bias.add_(1.0)
    with pytest.raises(Stopped):
        evaluation(model, data, [second], {"asked": "a"}, kept=kept, stop=Once(1))
    assert not torch.equal(first.batches[0].generated, second.batches[0].generated)
    with pytest.raises(Stopped):
        evaluation(model, data, [second], {"asked": "b"}, kept=kept, stop=Once(0))
    assert not list(kept.iterdir()), "what nobody asks for any more is removed"
