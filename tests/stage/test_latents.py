"""The moments that whiten a latent, of posteriors that are known: over images, pixels, caches and ranks."""

import pytest
import torch
from torch import multiprocessing as processes
from torch import nn

from ldm.autoencoder.autoencoder import Autoencoder
from ldm.autoencoder.bottleneck import DiagonalGaussian
from ldm.data.module import DataModule
from ldm.run.signals import StopFlag, Stopped
from ldm.run.store import Store
from ldm.stage.latents import cached, pays, statistics, weights_key
from tests.stage.tiny import Noise

STD = (2.0, 0.5)


class Known(nn.Module):
    """An encoder whose posterior is known: the mean is the image's first two colours, the deviation is `STD`."""

    factor = 1

    def __init__(self, channels: int, latent: int):
        super().__init__()
        self.log_variance = nn.Parameter(2 * torch.tensor(STD).log())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x[:, :2], self.log_variance.view(1, 2, 1, 1).expand_as(x[:, :2])], dim=1)


class Back(nn.Module):
    factor = 1

    def __init__(self, channels: int, latent: int):
        super().__init__()


def known() -> Autoencoder:
    return Autoencoder((3, 4, 4), Known, Back, DiagonalGaussian(channels=2))


def source(count: int) -> Noise:
    """Noise of 4 x 4 pixels, some colours more frequent than others."""
    made = Noise(count, 3)
    made.images = (made.images[:, :4, :4] * [[[[1.0, 0.5, 1.0]]]]).astype("uint8")
    return made


def wanted() -> tuple[torch.Tensor, torch.Tensor]:
    """Mean over all pixels, and sqrt(E[mean^2 + std^2] - E[mean]^2), of the first two colours."""
    x = torch.from_numpy(source(11).images).double().permute(3, 0, 1, 2).flatten(1)[:2] / 127.5 - 1
    return x.mean(1), (x.square().mean(1) + torch.tensor(STD).double().square() - x.mean(1).square()).sqrt()


def data(batch_size: int = 11) -> DataModule:
    return DataModule(source(11), source(5), (3, 4, 4), batch_size, workers=0, flip=True)


@pytest.mark.parametrize("stored", [False, True])
def test_moments_are_those_of_a_draw(stored, tmp_path):
    autoencoder, images = known(), data()
    found = statistics(autoencoder, cached(autoencoder, images, Store(tmp_path)) if stored else images)
    for value, right in zip(found, wanted(), strict=True):
        assert value.dtype == torch.float32
        torch.testing.assert_close(value.double(), right, rtol=0, atol=1e-3 if stored else 1e-5)


def test_a_draw_whitened_by_them_has_mean_0_and_deviation_1():
    autoencoder = known()
    autoencoder.set_statistics(*statistics(autoencoder, data()))
    posterior = autoencoder.encode(torch.cat([batch["image"] for batch in data().loader(0, 1)]))
    noise = torch.randn(400, *posterior.mean.shape, generator=torch.Generator().manual_seed(0))
    z = (posterior.mean + posterior.std * noise).transpose(0, 2).flatten(1)
    torch.testing.assert_close(z.mean(1), torch.zeros(2), rtol=0, atol=0.02)
    torch.testing.assert_close(z.std(1), torch.ones(2), rtol=0, atol=0.02)


def rank(number: int, folder: str) -> None:
    """One of two ranks; 12 images in three batches."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=number, world_size=2)
    images = DataModule(source(12), source(5), (3, 4, 4), 4, workers=0)
    torch.save(statistics(known(), images), f"{folder}/{number}.pt")
    torch.distributed.destroy_process_group()


def test_two_ranks_have_the_moments_of_all_images(tmp_path):
    processes.start_processes(rank, (str(tmp_path),), nprocs=2, start_method="fork")
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    x = torch.from_numpy(source(12).images).double().permute(3, 0, 1, 2).flatten(1)[:2] / 127.5 - 1
    std = (x.square().mean(1) + torch.tensor(STD).double().square() - x.mean(1).square()).sqrt()
    for mean, deviation in ranks:
        torch.testing.assert_close(mean.double(), x.mean(1), rtol=0, atol=1e-5)
        torch.testing.assert_close(deviation.double(), std, rtol=0, atol=1e-5)


def test_the_weights_name_latents_and_the_whitening_does_not():
    one, other = known(), known()
    key = weights_key(one)
    one.set_statistics(torch.ones(2), torch.ones(2) * 3)
    assert weights_key(one) == key == weights_key(other)
    with torch.no_grad():
        other.encoder.log_variance.add_(1e-3)
    assert weights_key(other) != key


def test_other_weights_have_latents_of_their_own(tmp_path):
    """Found again by the same weights, encoded anew by others; what is stored is raw and of the posterior."""
    one, other, store = known(), known(), Store(tmp_path)
    one.set_statistics(torch.tensor([5.0, 5.0]), torch.tensor([2.0, 2.0]))
    with torch.no_grad():
        other.encoder.log_variance.zero_()
    for autoencoder, std in ((one, torch.tensor(STD)), (other, torch.ones(2)), (known(), torch.tensor(STD))):
        stored = cached(autoencoder, data(), store)
        for image, latent in zip(data().loader(0, 2), stored.loader(0, 2), strict=True):
            torch.testing.assert_close(latent["mean"], image["image"][:, :2], rtol=0, atol=1e-3)
            torch.testing.assert_close(latent["std"][0, :, 0, 0], std, rtol=0, atol=1e-3)
    assert len(list((tmp_path / "latents").glob("*/artifact.json"))) == 4, "two of each split"
    assert len(list((tmp_path / "latents").glob("*-mirrored/artifact.json"))) == 2, "only training images are mirrored"


def test_images_cropped_anew_are_not_cached(tmp_path):
    images = DataModule(source(11), source(5), (3, 4, 4), 4, workers=0, crop="random")
    assert cached(known(), images, Store(tmp_path)) is images and not list(tmp_path.iterdir())


def test_a_signal_while_latents_are_encoded_or_measured_stops_and_the_next_time_goes_on(tmp_path):
    asked, store = StopFlag(), Store(tmp_path)
    asked.raised = True
    with pytest.raises(Stopped):
        cached(known(), data(), store, stop=asked)
    with pytest.raises(Stopped):
        statistics(known(), data(), asked)
    assert not list(tmp_path.rglob("artifact.json")), "nothing is published"
    stored = cached(known(), data(), store, stop=StopFlag())
    for image, latent in zip(data().loader(0, 2), stored.loader(0, 2), strict=True):
        torch.testing.assert_close(latent["mean"], image["image"][:, :2], rtol=0, atol=1e-3)


@pytest.mark.parametrize(("updates", "wanted"), [(1, False), (4, False), (5, True)])
def test_a_cache_pays_where_training_reads_more_than_there_is(updates, wanted):
    """11 images to train and 5 held out are 16; a batch is 4."""
    assert pays(data(batch_size=4), updates) is wanted
