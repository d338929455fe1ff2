"""Between the stages: posteriors and features of every image from the store, and the moments that whiten a latent.

The moments are over at least 10,000 images (or all there are) and all ranks: per channel the mean of z and
sqrt(E[mean^2 + std^2] - E[mean]^2), the deviation of a draw from q(z|x) over images and pixels.
"""

from __future__ import annotations

import logging
from pathlib import Path

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from ldm.alignment.alignment import Alignment
from ldm.autoencoder.autoencoder import Autoencoder
from ldm.data import latent
from ldm.data.module import DataModule, Split
from ldm.ranks import agree, rank
from ldm.run.signals import StopFlag
from ldm.run.store import Store, turn
from ldm.tensors import hash_of
from ldm.types import Reads

log = logging.getLogger(__name__)

ENOUGH = 10_000  # images for the moments
_AROUND = 800  # bytes of a shard's header and of what the manifest says of it


def weights_key(autoencoder: Autoencoder) -> str:
    """A hash of what the raw posterior depends on: all weights, not the whitening."""
    state = autoencoder.state_dict()
    return hash_of({name: state[name] for name in state if name not in ("latent_mean", "latent_std")})


def pays(data: DataModule, updates: int) -> bool:
    """Whether a cache means fewer encodings than training without: items of both sets against items read."""
    if data.sources["train"].stream is not None:
        return False
    return updates * data.batch_size > sum(len(source) for source in data.sources.values())


def cached(
    autoencoder: Autoencoder,
    data: DataModule,
    store: Store,
    alignment: Alignment | None = None,
    stop: StopFlag | None = None,
    reads: Reads = "latents",
) -> DataModule:
    """`data` with latents, or codes, in place of images, and features of the training images where there is an alignment,
    encoded now where the store does not have them. All ranks call it. Stopped where a signal came first; the next time goes
    on."""
    if not _can_be_cached(data):
        log.info("latents are not cached: training images are cropped anew, or streamed")
        return data
    stop = stop or StopFlag()
    weights, device = weights_key(autoencoder), next(autoencoder.parameters(), torch.zeros(())).device

    def posterior(images: Tensor) -> dict[str, Tensor]:
        found = autoencoder.posterior(images.to(device))
        return {"mean": found.mean, "std": found.std}

    def codes(images: Tensor) -> dict[str, Tensor]:
        return {"code": autoencoder.codes(images.to(device))}

    encode = codes if reads == "codes" else posterior
    train, val = (_stored(_kind(reads), encode, data, split, weights, store, stop) for split in ("train", "val"))
    if alignment is None:
        return data.with_latents(train, val, weights)

    def feature(images: Tensor) -> dict[str, Tensor]:
        return {"feature": alignment.features(images.to(device))}

    features = _stored("features", feature, data, "train", alignment.key, store, stop)
    return data.with_latents(train, val, weights, features, alignment.key)


def cache_size(
    autoencoder: Autoencoder,
    data: DataModule,
    store: Store,
    weights: str | None,
    alignment: Alignment | None = None,
    reads: Reads = "latents",
) -> int:
    """Bytes that `cached` will add to the store, to a few per cent.

    Arguments:
        weights: the encoder's `weights_key`; None where it is not trained yet, so that nothing can be there.
    """
    if not _can_be_cached(data):
        return 0
    channels, height, width = autoencoder.latent_shape
    numbers, total = 2 * height * width * (1 if reads == "codes" else channels), 0  # a code takes as much as two
    for split in ("train", "val"):
        if weights is None or store.find(_kind(reads), _name(data, split, weights)) is None:
            total += _encoded_size(data, split, numbers)
    if alignment is not None and store.find("features", _name(data, "train", alignment.key)) is None:
        feature = alignment.features(torch.zeros(1, *data.image_shape))
        total += _encoded_size(data, "train", feature.numel())
    return total


def _kind(reads: Reads) -> str:
    """Of an artifact: images are latents of the identity."""
    return "codes" if reads == "codes" else "latents"


def _can_be_cached(data: DataModule) -> bool:
    return data.transform.crop != "random" and data.sources["train"].stream is None


def _encoded_size(data: DataModule, split: Split, numbers: int) -> int:
    """Of so many numbers an item in float16, of the mirrored item too where it is encoded, and the item's index."""
    count = len(data.sources[split])
    return count * (2 * numbers * (2 if _flips(data, split) else 1) + 8) + -(-count // 1024) * _AROUND


def _flips(data: DataModule, split: Split) -> bool:
    return data.transform.flip and split == "train"


def _name(data: DataModule, split: Split, weights: str) -> str:
    """Of an artifact: what it is made from, and whether of mirrored images too."""
    key = data.latent_key(split, weights)
    return f"{key}-mirrored" if _flips(data, split) else key


def _stored(
    kind: str, encode: latent.Encode, data: DataModule, split: Split, weights: str, store: Store, stop: StopFlag
) -> Path:
    key = data.latent_key(split, weights)
    name, flips = _name(data, split, weights), _flips(data, split)
    with turn(store.lock(kind, name)):
        found = agree(lambda: store.find(kind, name))
        if found is not None:
            return found
        log.info("encoding the %s images once: %s of %d", split, kind, len(data.sources[split]))
        place = Path(agree(lambda: str(store.workplace(kind, name))))
        world = dist.get_world_size() if dist.is_initialized() else 1
        own = {"rank": rank(), "world": world, "stopped": lambda: stop.raised}
        latent.build(encode, data.latent_items(split), place, key, flips, workers=data.workers, **own)
        stop.check()  # where all ranks meet

        def publish() -> Path:
            if world > 1:
                latent.finish(place)
            return store.publish(kind, name, {"split": split, "weights": weights, "data": data.fingerprint})

        return agree(publish)


@torch.no_grad()
def statistics(
    autoencoder: Autoencoder, data: DataModule, stop: StopFlag | None = None
) -> tuple[Float[Tensor, " c"], Float[Tensor, " c"]]:
    """Mean and standard deviation of each channel of the raw latent, the same on all ranks; Stopped where a signal came."""
    device = next(autoencoder.parameters(), torch.zeros(())).device
    world = dist.get_world_size() if dist.is_initialized() else 1
    updates = -(-ENOUGH // data.batch_size)
    if data.sources["train"].stream is None:
        updates = min(updates, -(-len(data.sources["train"]) // data.batch_size))
    sums = torch.zeros(3, autoencoder.latent_shape[0], dtype=torch.float64)
    for batch in data.loader(0, updates, rank(), world):
        if stop is not None:
            stop.check()
        if "mean" in batch:
            mean, std = batch["mean"], batch["std"]
        else:
            posterior = autoencoder.posterior(batch["image"].to(device))
            mean, std = posterior.mean, posterior.std
        mean, std = mean.double().cpu(), std.double().cpu()
        pixels = torch.full((mean.shape[1],), float(mean[:, 0].numel()), dtype=torch.float64)
        sums += torch.stack([mean.sum((0, 2, 3)), (mean**2 + std**2).sum((0, 2, 3)), pixels])
    if world > 1:
        sums = sums.to(device)
        dist.all_reduce(sums)
        sums = sums.cpu()
    mean = sums[0] / sums[2]
    std = (sums[1] / sums[2] - mean**2).clamp(min=0).sqrt()
    log.info("latent channels: mean %s, std %s", _short(mean), _short(std))
    return mean.float().to(device), std.float().to(device)


def _short(values: Tensor) -> str:
    return " ".join(f"{value:.3g}" for value in values.tolist()[:8]) + (" ..." if len(values) > 8 else "")
