"""What a run leaves is what it says: weights, statistics, latents, numbers and pictures, each against torch's own arithmetic on
the files of the run."""

import json
import logging

import pytest
import torch
from PIL import Image

from ldm.build import build
from ldm.command.evaluate import measure_again
from ldm.experiment.experiment import Experiment
from ldm.metric.measurement import Measurement
from ldm.metric.metric import Metric
from ldm.model import LatentModel
from ldm.random import Random
from ldm.run import record
from ldm.run.checkpoint import Checkpoints
from ldm.run.evaluation import Evaluation
from ldm.run.scene import shuffled
from ldm.run.signals import FINISHED
from ldm.stage.latents import weights_key
from ldm.stage.provenance import config_hash
from ldm.stage.stage import Stage
from ldm.tensors import read_tensors
from tests.runs import rows, tiny

STEPS = 20  # averages are of more than the last weights


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("products")


@pytest.fixture(scope="module")
def config(folder):
    made = tiny(folder, "seed=3", "++data.flip=true", steps=STEPS)
    for stage in ("first", "second"):
        made[stage] |= {"log_every": 8, "validate_every": 0, "picture_every": STEPS, "save_every": 0}
        made[stage]["rate"] = {"_target_": "ldm.stage.rate.Constant"}
        made[stage]["optimizer"]["lr"] = 1e-2
    made["metric"] = {"reconstruction": {"_target_": "ldm.metric.reconstruction.ReconstructionQuality"}}
    return made


@pytest.fixture(scope="module")
def run(folder, config):
    assert Experiment(config).run() == FINISHED
    return folder / "runs" / "run"


@pytest.fixture(scope="module")
def data(config):
    return build(config["data"], "data")


def state(run, stage) -> dict:
    step, found = Checkpoints(run / "checkpoints" / stage).load()
    assert step == STEPS
    return found


def test_the_model_holds_the_averages_and_raw_what_the_optimiser_left(run):
    kept = state(run, "second")
    average, raw = kept["average"]["weights"], kept["weights"]
    for name, wanted in (("model", raw | average), ("raw", raw)):
        found = read_tensors(run / "model" / f"{name}.safetensors")
        for key, value in wanted.items():
            assert torch.equal(found[key], value), f"{name}: {key}"
    apart = [key for key, value in average.items() if (value - raw[key]).abs().max() > 1e-4]
    assert len(apart) > 0.9 * len(average), "they differ clearly"


def test_the_first_stage_of_store_and_model_is_the_average(run, folder):
    average = state(run, "first")["average"]["weights"]
    [artifact] = (folder / "store" / "autoencoder").glob("*/artifact.json")
    stored, model = read_tensors(artifact.parent / "model.safetensors"), read_tensors(run / "model/model.safetensors")
    raw = state(run, "first")["weights"]
    for key, value in average.items():
        assert torch.equal(stored[key], value) and torch.equal(model[f"autoencoder.{key}"], value)
    assert any((value - raw[f"autoencoder.{key}"]).abs().max() > 1e-4 for key, value in average.items())
    assert all(torch.equal(model[f"autoencoder.{k}"], v) for k, v in stored.items() if not k.startswith("latent_"))


def test_a_model_says_what_it_was_made_from(run):
    model = LatentModel.load(run)
    made = model.made_from
    first, second = (made[stage][-1]["settings"] for stage in ("first", "second"))
    assert made["images_seen"] == STEPS * 4 and "loss" in first and "prior" in second
    assert second["first stage"] == {"history": made["first"], "weights": weights_key(model.autoencoder)}
    assert made["config"] == config_hash(made["first"], made["second"])


@torch.no_grad()
def test_the_models_latents_are_whitened_by_the_moments_of_its_own_first_stage(run, data):
    autoencoder = LatentModel.load(run).autoencoder
    draws = []
    for batch in data.loader(0, 4):  # 16 images, mirrored as the first epoch mirrors them
        posterior = autoencoder.posterior(batch["image"])
        draws.append((posterior.mean.double(), posterior.std.double()))
    mean, std = (torch.cat(parts).transpose(0, 1).flatten(1) for parts in zip(*draws, strict=True))
    torch.testing.assert_close(autoencoder.latent_mean.double(), mean.mean(1), rtol=1e-3, atol=1e-3)
    wanted = (mean.square() + std.square()).mean(1) - mean.mean(1).square()
    torch.testing.assert_close(autoencoder.latent_std.double(), wanted.sqrt(), rtol=1e-3, atol=1e-3)


def psnr(model, data, count: int) -> float:
    """Of images in eight bits, in decibels, averaged over images."""
    x = data.items("val", shuffled(6)[:count])["image"]
    a, b = (((each.clamp(-1, 1) + 1) * 127.5).round() for each in (x, model.reconstruct(x)))
    return (10 * torch.log10(255**2 / (a - b).square().flatten(1).mean(1))).mean().item()


def test_numbers_are_those_of_the_saved_model(run, data, config):
    found = {each.metric: each for each in record.read(run / "records.jsonl")}
    model = LatentModel.load(run)
    each = found["psnr"]
    assert each.value == pytest.approx(psnr(model, data, 5), rel=1e-5)
    assert (each.n, each.seed, each.weights, each.split, each.images_seen) == (5, 3, "averaged", "val", STEPS * 4)
    assert (each.run, each.experiment, each.data) == ("run", "custom", data.fingerprint)
    assert each.parameters == sum(p.numel() for p in model.parameters())
    wanted = {
        "prior": "diffusion",
        "sampler": "unipc",
        "grid": "uniform",
        "guidance": "classifierfree(scale=2)",
        "steps": 2,
    }
    assert each.drawn == wanted


class Kept(Metric):
    """Keeps what it is shown."""

    def __init__(self):
        self.seen = []

    def add(self, examples) -> None:
        self.seen.append(examples)

    def measure(self) -> list[Measurement]:
        return [Measurement(metric="seen", value=1.0, standard_error=None, n=sum(len(e.real) for e in self.seen))]


def test_an_evaluation_shows_held_out_examples_their_reconstructions_and_samples(run, data):
    """The sample of row i is of (seed, i) and caption i, whatever the batch; each example once."""
    model, kept = LatentModel.load(run), Kept()
    model.train()  # which an evaluation sees to
    [one] = Evaluation(samples=5, batch=2, seed=7)(model, data, [kept], {})
    assert [len(each.real) for each in kept.seen] == [2, 2, 1] and one.n == 5
    chosen = shuffled(6)[:5]
    batch = data.items("val", chosen)
    model = LatentModel.load(run)
    samples = model.sample(batch, Random(7, 0, torch.tensor(chosen)))
    assert torch.equal(torch.cat([each.real for each in kept.seen]), batch["image"])
    assert [caption for each in kept.seen for caption in each.captions] == batch["caption"]
    assert torch.cat([each.index for each in kept.seen]).tolist() == chosen
    for name, wanted in (("reconstruction", model.reconstruct(batch["image"])), ("generated", samples)):
        found = torch.cat([getattr(each, name) for each in kept.seen])
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    other = model.sample(batch, Random(8, 0, torch.tensor(chosen)))
    assert (other - samples).abs().max() > 0.05, "a seed makes a difference"
    none = Kept()
    Evaluation(samples=99, batch=4, seed=7)(model, data, [none], {}, generate=False)
    assert sum(len(each.real) for each in none.seen) == 6 and all(each.generated is None for each in none.seen)


def test_a_model_is_its_parts(run):
    """decode(prior's sample of the condition), decode(mean), in [-1, 1]."""
    model = LatentModel.load(run)
    batch, random = {"caption": ["a small red circle", ""]}, Random(5, 0, torch.arange(2))
    with torch.no_grad():
        z = model.prior.sample((2, *model.autoencoder.latent_shape), model.condition(batch), random)
        assert torch.equal(model.sample_latents(batch, random), z)
        ae, (m, s) = model.autoencoder, (part.view(-1, 1, 1) for part in model.autoencoder._whitening())
        assert torch.equal(model.sample(batch, random), ae.decoder(z * s + m).clamp(-1, 1))
        x = torch.rand(2, 3, 32, 32) * 2 - 1
        mean = ae.encoder(x).chunk(2, 1)[0]
        torch.testing.assert_close(model.reconstruct(x), ae.decoder(mean).clamp(-1, 1), rtol=1e-4, atol=1e-4)
        assert (100 * x - model.reconstruct(100 * x)).abs().max() > 1 >= model.reconstruct(100 * x).abs().max()


def test_measured_again_with_other_words(run, data, caplog):
    with caplog.at_level(logging.INFO):
        measure_again(str(run), 4, 3.0, 1, 11, "raw", None, "cpu")
    each = [each for each in record.read(run / "records.jsonl") if each.metric == "psnr"][-1]
    assert each.value == pytest.approx(psnr(LatentModel.load(run, "raw"), data, 4), rel=1e-5)
    assert (each.n, each.weights, each.seed, each.drawn["guidance"], each.drawn["steps"]) == (
        *(4, "raw", 3, "classifierfree(scale=3)", 1),
    )
    assert (each.images_seen, each.data, each.run) == (STEPS * 4, data.fingerprint, "run")
    assert f"{each.value:.4g}" in caplog.text and "n = 4" in caplog.text
    assert "weights raw" in (run / "report.html").read_text()


def test_pictures_are_of_the_averaged_model(run, data):
    """Reconstructions beside originals; samples of the run's seed for the captions of held-out images beside them."""
    model = LatentModel.load(run)
    batch = data.items("val", list(range(6)))
    drawn = model.sample(batch, Random(3, 0, batch["index"]))
    for stage, pair in (
        ("first", (batch["image"], model.reconstruct(batch["image"]))),
        ("second", (drawn, batch["image"])),
    ):
        file = run / "samples" / f"{stage}-{STEPS:07d}.png"
        facts = json.loads(file.with_suffix(".json").read_text())
        assert (facts["step"], facts["images"], facts["scale"]) == (STEPS, 4 * STEPS, 4)
        assert [cell["caption"] for cell in facts["cells"][:6]] == batch["caption"]
        picture = Image.open(file).convert("RGB")
        for cell, wanted in zip(facts["cells"], torch.cat(pair), strict=True):
            left, top, *_ = cell["box"]
            shown = torch.tensor([picture.getpixel((left + 4 * 17, top + 4 * 9)), picture.getpixel((left, top))])
            pixels = torch.stack([wanted[:, 9, 17], wanted[:, 0, 0]])
            assert ((pixels + 1) * 127.5 - shown).abs().max() <= 1.01


def test_curves_are_of_every_update(run):
    for stage in ("first", "second"):
        found = [row for row in rows(run, stage) if "loss" in row]
        assert [(row["step"], row["images"]) for row in found] == [(k, 4 * k) for k in (8, 16, 20)]
        assert all(row["skipped"] == 0 for row in found)


class _Trains(Exception):
    pass


@pytest.fixture
def trains(monkeypatch):
    def training_step(stage, *_):
        raise _Trains(stage.name)

    monkeypatch.setattr(Stage, "training_step", training_step)


def changed(config, name, key, value):
    """The config with one word changed; {} in place of the first stage's successors."""
    made = json.loads(json.dumps(config)) | {"name": name}
    *path, last = key.split(".")
    node = made
    for part in path:
        node = node[part]
    node[last] = value(node[last]) if callable(value) else value
    return made


@pytest.mark.usefixtures("trains", "run")
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", 4),
        ("loss.kl_weight", 1e-3),
        ("autoencoder.encoder.width", 4),
        ("first.steps", 19),
        ("first.optimizer.lr", 1e-4),
        ("first.decay", 0.5),
        ("first.clip", 3.0),
        ("trainer.precision", "bf16-mixed"),
        ("data.train.count", 17),
        ("data.train.seed", 9),
        ("data.flip", False),
        ("data.batch_size", 8),
    ],
)
def test_a_first_stage_of_other_words_is_another(config, key, value):
    with pytest.raises(_Trains, match="first"):
        Experiment(changed(config, f"other-{key}", key, value)).run()


@pytest.mark.usefixtures("trains", "run")
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("first.log_every", 7),
        ("first.picture_every", 0),
        ("data.workers", 1),
        ("prior.steps", 3),
        ("condition.drop", 0.3),
    ],
)
def test_words_that_change_nothing_of_it_find_it(config, key, value):
    with pytest.raises(_Trains, match="second"):
        Experiment(changed(config, f"same-{key}", key, value)).run()


def test_a_first_stage_alone_encodes_nothing(tmp_path):
    made = tiny(tmp_path) | {"second": {}, "metric": {}, "cache_latents": "auto"}
    assert Experiment(made).run() == FINISHED
    run = tmp_path / "runs" / "run"
    assert {row["stage"] for row in rows(run)} == {"first"}
    assert not (tmp_path / "store" / "latents").exists()
