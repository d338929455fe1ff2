"""Whole runs of priors other than diffusion: what they read comes through cache, stage, decoding and evaluation."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file

from ldm.command.sample import sample
from ldm.experiment.experiment import Experiment
from ldm.model import LatentModel
from ldm.random import Random
from ldm.run import record
from ldm.run.scene import shuffled
from tests.runs import compose, tiny


def finished(config: dict) -> dict:
    assert Experiment(config).run() == 0
    return config


def numbers(folder) -> dict[str, record.Record]:
    return {each.metric: each for each in record.read(folder / "records.jsonl")}


WORDS = ["autoencoder=vq_f4", "prior=categorical", "condition=none", "metric=[offline,likelihood]"]


@pytest.mark.parametrize("cache", [True, False])
def test_codes_go_through_cache_stage_and_decoding(tmp_path, cache):
    """The table of logits begins as the counts of the codes of the first eight training images, and with no learning rate it
    stays there."""
    words = [*WORDS, f"cache_latents={str(cache).lower()}", "second.optimizer.lr=0"]
    config = finished(tiny(tmp_path, *words))
    run = tmp_path / "runs/run"
    model = LatentModel.load(run)
    experiment = Experiment(config)
    experiment._prepare()
    images = experiment.data.items("train", range(16))["image"]
    codes = model.autoencoder.codes(images)
    if cache:
        shards = [load_file(file) for file in (tmp_path / "store/codes").glob("*/shard-*.safetensors")]
        [train] = [shard["code"] for shard in shards if len(shard["code"]) == 16]
        assert torch.equal(train.long(), codes) and not (tmp_path / "store/latents").exists()
    of_first = torch.cat([batch["index"] for batch in experiment.data.loader(0, 2)])
    counts = torch.nn.functional.one_hot(codes[of_first], model.prior.latents.codes).sum(0).permute(2, 0, 1)
    torch.testing.assert_close(model.prior.logits.exp(), 1.0 + counts)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert all(row["nll per dimension"] > 0 for row in rows if row["stage"] == "second" and "nll per dimension" in row)
    found = numbers(run)
    assert found["fd_random_conv"].drawn == {"prior": "categorical", "temperature": 1.0}
    held_out = experiment.data.items("val", shuffled(6)[:5])["image"]
    log_p = model.prior.log_prob(model.autoencoder.codes(held_out), model.condition({}))
    each = found["latent_nats_per_dim"]
    assert each.value == pytest.approx((-log_p / log_p.new_tensor(codes[0].numel())).mean().item(), rel=1e-5)
    assert (each.n, each.kind) == (5, "exact")
    bits = found["code_bits_per_image"]
    assert bits.value == pytest.approx(each.value * codes[0].numel() / math.log(2)) and bits.kind == "exact"


def test_a_finished_prior_draws_by_other_words(tmp_path):
    """Temperature is of sampling alone: a cold table draws its likeliest code everywhere; another family's word is refused."""
    finished(tiny(tmp_path, *WORDS))
    run = str(tmp_path / "runs/run")
    words = compose(f"run={run}", "n=2", "device=cpu", f"out={tmp_path / 'cold'}", name="sample")
    sample(**words | {"prior": {"temperature": 1e-4}})
    model = LatentModel.load(run)
    likeliest = model.decode(model.prior.logits.argmax(0)[None])
    model.prior.temperature = 1e-4
    torch.testing.assert_close(model.sample({}, Random(0, 0, torch.arange(1))), likeliest)
    said = json.loads((tmp_path / "cold/samples.json").read_text())
    assert said["prior"] == {"temperature": 1e-4}
    with pytest.raises(ValueError, match=r"prior\.steps= says nothing of how samples are drawn.*Categorical draws its"):
        sample(**words | {"prior": {"steps": 3}})
    with pytest.raises(ValueError, match=r"steps= is not of this run's prior, Categorical.*prior\.temperature="):
        sample(**words | {"steps": 3})


def test_a_mixture_on_a_labelled_set(tmp_path):
    finished(tiny(tmp_path, "prior=mixture", "prior.components=3", "metric=[offline,likelihood]"))
    found = numbers(tmp_path / "runs/run")
    assert found["fd_random_conv"].drawn == {"prior": "mixture"} and found["latent_nats_per_dim"].kind == "exact"
    rows = [json.loads(line) for line in (tmp_path / "runs/run/metrics.jsonl").read_text().splitlines()]
    assert any("val nll per dimension (average)" in row for row in rows)


def test_pixels_are_not_whitened(tmp_path):
    """A law of 8-bit pixels is of the images as they are, from a cache too."""
    words = ["autoencoder=identity", "prior=pixelcnn", "condition=none", "data.image_shape=[3,16,16]"]
    finished(tiny(tmp_path, *words, "metric=[offline,likelihood]"))
    model = LatentModel.load(tmp_path / "runs/run")
    assert model.prior.reads == "pixels" and (model.autoencoder.latent_std == 1).all()
    levels = (model.sample({}, Random(0, 0, torch.arange(2))) + 1) * 127.5
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-3)
    assert numbers(tmp_path / "runs/run")["latent_nats_per_dim"].kind == "exact"


def test_a_model_without_a_single_weight_is_measured(tmp_path):
    """Pixels under the standard normal: nothing is trained, and its bits are known but for the noise of dequantisation."""
    words = ["autoencoder=identity", "prior=normal", "condition=none", "metric=[offline,likelihood,bits_per_dim]"]
    config = finished(tiny(tmp_path, *words))
    found = numbers(tmp_path / "runs/run")
    assert found["psnr"].value == 100.0 and found["latent_nats_per_dim"].n == 5
    experiment = Experiment(config)
    experiment._prepare()
    x, own = experiment.data.items("val", range(5))["image"], LatentModel.load(tmp_path / "runs/run").autoencoder
    law = torch.distributions.Normal(own.latent_mean.view(3, 1, 1), own.latent_std.view(3, 1, 1))
    bits = -(law.log_prob(x).mean().item() - math.log(127.5)) / math.log(2)
    assert found["bits_per_dim"].value == pytest.approx(bits, abs=0.01) and found["bits_per_dim"].kind == "bound"
