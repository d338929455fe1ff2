"""`autoencoder.checkpoint=` brings the weights of what it names, and their whitening where it is theirs."""

import pytest
import torch

from ldm.build import build
from ldm.experiment.experiment import Experiment
from ldm.interop.first_stage import pretrained
from ldm.model import LatentModel
from ldm.run.signals import FINISHED
from tests.runs import refuse_training, saved, tiny

diffusers = pytest.importorskip("diffusers")


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """An AutoencoderKL of diffusers, saved by it, whose weights are all drawn."""
    folder = tmp_path_factory.mktemp("vae")
    torch.manual_seed(0)
    network = diffusers.AutoencoderKL(
        block_out_channels=(8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=3,
        norm_num_groups=4,
        sample_size=32,
        scaling_factor=0.4,
    )
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.1 * torch.randn_like(p))
    network.save_pretrained(folder)
    return folder, network.eval()


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ours")
    saved(folder, tiny(folder))
    return folder, LatentModel.load(folder).autoencoder


X = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1


@torch.no_grad()
def test_theirs_is_loaded_with_weights(theirs):
    folder, network = theirs
    found = pretrained(folder)
    autoencoder = build(found.config((3, 32, 32)), "autoencoder").eval()
    before = autoencoder.posterior(X).mean
    found.load_into(autoencoder)
    law = network.encode(X).latent_dist
    raw, z = autoencoder.posterior(X), autoencoder.encode(X)
    torch.testing.assert_close(raw.mean, law.mean, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(raw.std, law.std, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(z.mean, law.mean * 0.4, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(autoencoder.decode(z.mean), network.decode(law.mean).sample, rtol=1e-3, atol=1e-3)
    assert (before - law.mean).abs().max() > 0.01


@torch.no_grad()
def test_ours_is_loaded_with_weights(ours):
    folder, own = ours
    for place in (folder, folder / "model"):
        found = pretrained(place)
        autoencoder = build(found.config((3, 64, 32)), "autoencoder").eval()
        assert autoencoder.latent_shape[1:] == (16, 8), "for images of another size"
        found.load_into(autoencoder)
        assert torch.equal(autoencoder.encode(X).mean, own.encode(X).mean)
        assert torch.equal(autoencoder.decode_raw(own.encode(X).mean), own.decode_raw(own.encode(X).mean))


@torch.no_grad()
@pytest.mark.parametrize("kind", ["theirs", "ours"])
def test_a_run_on_it_has_its_weights(kind, theirs, ours, tmp_path, monkeypatch):
    """Nothing is trained; statistics are measured anew on the run's own images."""
    folder = {"theirs": theirs, "ours": ours}[kind][0]
    refuse_training(monkeypatch)
    config = tiny(tmp_path, "prior=normal", f"autoencoder.checkpoint={folder}")
    assert Experiment(config).run() == FINISHED
    found = LatentModel.load(tmp_path / "runs" / "run").autoencoder
    if kind == "theirs":
        torch.testing.assert_close(found.posterior(X).mean, theirs[1].encode(X).latent_dist.mean, rtol=1e-3, atol=1e-4)
    else:
        assert torch.equal(found.posterior(X).mean, ours[1].posterior(X).mean)
