"""Stages of a few hundred weights on data made of nothing, for the laws of training.

No step is the identity: latents are whitened by other numbers than 0 and 1 and drawn from posteriors with a deviation, images
are mirrored, conditions are dropped, and no weight is zero at first, as a U-Net's last layer would be.
"""

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch import nn
from torch.amp import GradScaler

from ldm.alignment.alignment import Alignment
from ldm.alignment.maps import RandomMaps
from ldm.autoencoder.autoencoder import Autoencoder
from ldm.autoencoder.bottleneck import Bottleneck, DiagonalGaussian
from ldm.autoencoder.convnet import Decoder, Encoder
from ldm.backbone.unet import UNet
from ldm.condition.label import Label
from ldm.data.module import DataModule
from ldm.data.source import Source, digest
from ldm.diffusion.grid import Uniform as Grid
from ldm.diffusion.guidance.classifier_free import ClassifierFree
from ldm.diffusion.parameterization import V
from ldm.diffusion.sampler.ddim import DDIM
from ldm.diffusion.schedule import Cosine as CosineSchedule
from ldm.diffusion.time import Uniform as Time
from ldm.diffusion.weighting import Prediction
from ldm.loss.adversarial import Adversarial
from ldm.loss.first_stage import FirstStageLoss
from ldm.loss.reconstruction import Gaussian as GaussianLikelihood
from ldm.model import LatentModel
from ldm.nn.patchgan import PatchGAN
from ldm.prior.base import Latents
from ldm.prior.diffusion import Diffusion
from ldm.run.checkpoint import Checkpoints
from ldm.run.directory import Journal
from ldm.run.signals import StopFlag
from ldm.run.snapshots import Snapshots
from ldm.run.store import Store
from ldm.stage.feed import Feed
from ldm.stage.first import First
from ldm.stage.latents import cached as cache
from ldm.stage.rate import Cosine
from ldm.stage.recipe import Recipe
from ldm.stage.second import Second
from ldm.stage.stage import Stage


class Noise(Source):
    """Images that are functions of their index, with labels below 3."""

    def __init__(self, count: int, seed: int, side: int = 8):
        dice = np.random.default_rng(seed)
        self.images = dice.integers(0, 256, (count, side, side, 3), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": self.images[index], "label": index % 3, "name": str(index)}

    @property
    def fingerprint(self) -> str:
        return digest([self.images.tobytes()])


def data(batch_size: int = 4, side: int = 8) -> DataModule:
    return DataModule(Noise(11, 0, side), Noise(5, 1, side), (3, side, side), batch_size, workers=0, flip=True)


@functools.cache
def _store() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory()


def latents(batch_size: int = 4) -> DataModule:
    """`data` with what the fixture's first stage and network make of it, from a cache; mirrored images too."""
    torch.manual_seed(0)
    return cache(autoencoder(), data(batch_size), Store(Path(_store().name)), alignment(1.0))


def recipe(sgd: bool = False, **options: Any) -> Recipe:
    def optimizer(parameters: Any) -> torch.optim.Optimizer:
        if sgd:
            return torch.optim.SGD(parameters, lr=options.get("lr", 1e-2))
        return torch.optim.AdamW(
            parameters, lr=options.get("lr", 1e-2), betas=(0.9, 0.99), fused=options.get("fused", True)
        )

    chosen = {
        "rate": Cosine(warmup=2),
        "steps": 6,
        "log_every": 2,
        "validate_every": 3,
        "picture_every": 0,
        "save_every": 0,
    }
    chosen |= {key: value for key, value in options.items() if key not in ("lr", "fused")}
    return Recipe(optimizer=optimizer, **chosen)


@torch.no_grad()
def shaken(module: nn.Module) -> nn.Module:
    """With every parameter moved a little, those too that begin at zero."""
    for p in module.parameters():
        p.add_(0.1 * torch.randn_like(p))
    return module


def autoencoder(bottleneck: Bottleneck | None = None) -> Autoencoder:
    def encoder(channels: int, latent: int) -> Encoder:
        return Encoder(channels, latent, width=4, multipliers=(1, 1), blocks=0, middle_attention=False)

    def decoder(channels: int, latent: int) -> Decoder:
        return Decoder(channels, latent, width=4, multipliers=(1, 1), blocks=0, middle_attention=False)

    made = shaken(Autoencoder((3, 8, 8), encoder, decoder, bottleneck or DiagonalGaussian(channels=2)))
    made.set_statistics(torch.tensor([0.3, -0.2]), torch.tensor([0.7, 1.6]))
    return made


def first(critic_start: int | None = None, heard: int | None = None, seed: int = 0, **options: Any) -> First:
    torch.manual_seed(0)
    own, critic = autoencoder(), None
    if critic_start is not None:
        critic = Adversarial(PatchGAN(3, 4, 1), weight=0.5, start=heard or critic_start + 1, critic_start=critic_start)
    stage = First(own, FirstStageLoss(GaussianLikelihood(), 1e-6, adversarial=critic), recipe(**options), seed)
    stage.reads = data
    return stage


def alignment(weight: float) -> Alignment:
    return Alignment(RandomMaps(width=4, layers=2), 4, (4, 4), weight)


DROP = 0.4  # of conditions


def second(
    seed: int = 0, aligned: float | None = None, cached: bool = False, dropout: float = 0.0, **options: Any
) -> Second:
    """With `aligned`, the weight of an alignment; `cached` reads latents, and features, from a cache; `dropout` of the
    network."""
    torch.manual_seed(0)

    def backbone(channels: int, context: Any) -> UNet:
        parts = {"width": 4, "multipliers": (1,), "blocks": 1, "attention": (True,), "heads": 1, "dropout": dropout}
        return shaken(UNet(channels, context, **parts))

    ae, condition = autoencoder(), Label(3, width=4, drop=DROP)
    parts = (CosineSchedule(), V(), Prediction(), Time(), DDIM(), Grid())
    prior = Diffusion(Latents(ae.latent_shape), condition.shape, backbone, *parts, lambda d: ClassifierFree(d, 2.0), 2)
    along = None if aligned is None else alignment(aligned)
    stage = Second(LatentModel(ae, condition, prior), recipe(**options), seed, along)
    stage.reads = latents if cached else data
    return stage


class At(L.Callback):
    """Does something once, when update `step` has been done."""

    def __init__(self, step: int, act: Callable[[Stage], None]):
        self.step, self.act = step, act

    def on_train_batch_start(self, trainer: L.Trainer, stage: Stage, batch: Any, index: int) -> None:
        if stage.updates == self.step and index % stage.accumulate == 0:
            self.act(stage)


def fit(
    stage: Stage,
    folder: Path | None = None,
    *callbacks: L.Callback,
    batch_size: int = 4,
    half: bool = False,
    **ranks: Any,
) -> Stage:
    """Train to the end or to a stop; with a folder, leave checkpoints and a journal in it; `half` in float16, with a loss
    scale that is too large at first; `ranks` say how many devices there are, and the strategy."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        stage.attach(
            Checkpoints(folder / stage.name),
            Snapshots(folder / "snapshots"),
            Journal(folder / "metrics.jsonl"),
            StopFlag(),
        )
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        callbacks=list(callbacks),
        plugins=[MixedPrecision("16-mixed", "cpu", GradScaler("cpu", 2.0**22, growth_interval=3))] if half else [],
        **({"devices": 1} | ranks),
    )
    trainer.fit(stage, datamodule=Feed(stage.reads(batch_size)))
    return stage


def result(stage: Stage) -> dict[str, Any]:
    """All that training left, without the clock."""
    return {key: value for key, value in stage.state().items() if key != "seconds"}
