"""Alignment in the second stage: trained along and resumed (tests/stage/test_stage.py: `aligned`), no part of the model, heard by
compiled networks, the same from the store as computed anew."""

import pytest
import torch
from torch import nn

from ldm.alignment.alignment import Alignment
from ldm.alignment.maps import RandomMaps
from ldm.data.latent import BadLatentsError
from ldm.experiment.experiment import Experiment
from ldm.model import LatentModel
from ldm.resolve import ConfigError
from ldm.run.signals import FINISHED
from ldm.run.store import Store
from ldm.stage.latents import cached
from ldm.tensors import read_tensors
from tests.runs import equal, rows, tiny
from tests.stage.tiny import autoencoder, data, fit, result, second


def test_at_no_weight_it_changes_nothing_to_the_bit():
    """Neither the noise, nor the batches, nor the order of anything; without clipping, since a norm over more numbers rounds
    otherwise."""
    quick = {"steps": 3, "validate_every": 0, "clip": 1e9}
    without, along = fit(second(**quick)), fit(second(aligned=0.0, **quick))
    assert equal(dict(without.model.state_dict()), dict(along.model.state_dict()))
    assert equal(without.average.state_dict(), along.average.state_dict())
    heard = fit(second(aligned=0.5, **quick))
    assert not equal(dict(without.model.state_dict()), dict(heard.model.state_dict()))


def test_it_is_trained_and_is_no_part_of_the_model():
    stage = second(aligned=0.5)
    before = {name: p.detach().clone() for name, p in stage.alignment.named_parameters()}
    fit(stage)
    assert all(not torch.equal(p, before[name]) for name, p in stage.alignment.named_parameters())
    saved, averaged = result(stage), stage.averaged().state_dict()
    projection = {f"alignment.{name}" for name in before}
    assert projection and saved["weights"].keys() - averaged.keys() == projection
    assert not projection & saved["average"]["weights"].keys()
    assert saved["weights"].keys() - projection == second().trained().state_dict().keys()


def test_it_brings_the_layer_closer(tmp_path):
    fit(second(aligned=1.0, steps=24, log_every=4, validate_every=0), tmp_path)
    curve = [row["alignment"] for row in rows(tmp_path)]
    assert curve[-1] < 0.7 * curve[0]


def test_nothing_is_left_on_the_network():
    stage = fit(second(aligned=0.5))
    assert not stage._activations and not any(module._forward_hooks for module in stage.model.modules())


def test_it_listens_before_networks_are_compiled(monkeypatch):
    """A compiled network does not see hooks registered later (that it sees earlier ones: tests/backbone/test_dit.py)."""
    hooks = []
    monkeypatch.setattr(nn.Module, "compile", lambda network: hooks.append(len(network.inner.layer._forward_hooks)))
    fit(second(aligned=0.5, compile=True, steps=1, validate_every=0))
    assert hooks == [1]


def alignment(grid=(4, 4)) -> Alignment:
    return Alignment(RandomMaps(width=4, layers=2), 4, grid)


def test_stored_features_are_those_of_the_images(tmp_path):
    """Also of mirrored ones; encoded once."""
    store, network, plain = Store(tmp_path), alignment(), data()
    stored = cached(autoencoder(), plain, store, network)
    for image, latent in zip(plain.loader(0, 6), stored.loader(0, 6), strict=True):
        assert "image" not in latent and latent["feature"].dtype == torch.float16
        expected = network.features(image["image"])
        torch.testing.assert_close(latent["feature"], expected, atol=1e-3, rtol=0)
        assert (network.features(image["image"].flip(-1)) - expected).abs().max() > 0.01, "mirrored are others"
    assert "feature" not in next(iter(stored.val_loader()))
    [kept] = [path for path in (tmp_path / "features").iterdir() if path.is_dir()]
    before = {file: file.stat().st_mtime_ns for file in kept.iterdir()}
    cached(autoencoder(), plain, store, alignment())
    assert {file: file.stat().st_mtime_ns for file in kept.iterdir()} == before
    cached(autoencoder(), plain, store, alignment((2, 2)))
    assert len([path for path in (tmp_path / "features").iterdir() if path.is_dir()]) == 2


def test_features_of_another_network_are_refused(tmp_path):
    ae, plain = autoencoder(), data()
    stored, other = cached(ae, plain, Store(tmp_path), alignment()), alignment((2, 2))
    train, val, weights = stored.latents["train"], stored.latents["val"].path, "w"
    with pytest.raises(BadLatentsError, match="another network"):
        plain.with_latents(train.source.path, val, weights, train.path, other.key)


def test_a_prior_without_a_backbone_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="Normal has none: take alignment=none"):
        Experiment(tiny(tmp_path, "prior=normal", "alignment=random")).run()


def test_a_whole_run(tmp_path):
    words = ("alignment=random", "backbone=dit_small", "++data.flip=true")
    assert Experiment(tiny(tmp_path, *words)).run() == FINISHED
    run = tmp_path / "runs" / "run"
    assert all("alignment" in row for row in rows(run, "second") if "loss" in row)
    assert not any("alignment" in name for name in read_tensors(run / "model" / "model.safetensors"))
    LatentModel.load(run)
    assert [path for path in (tmp_path / "store" / "features").iterdir() if path.name.endswith("-mirrored")]
    with pytest.raises(ConfigError, match=r"alignment\.weight=2\.0"):
        Experiment(tiny(tmp_path, *words, "++alignment.weight=2.0")).run()
