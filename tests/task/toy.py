"""Models of which everything is known: images are latents, and latents are normal numbers."""

from pathlib import Path

import torch

from ldm.diffusion.sampler.ddim import DDIM
from ldm.diffusion.schedule import Rectified
from ldm.model import LatentModel
from tests.diffusion.gaussian import GaussianDenoiser
from tests.runs import tiny

MEAN, STD, SHAPE = 0.1, 0.2, (3, 8, 8)


def built(folder: Path, *words: str) -> LatentModel:
    """A model whose latents are the images."""
    size = f"data.image_shape=[{','.join(map(str, SHAPE))}]"
    config = tiny(folder, "autoencoder=identity", "condition=none", size, *words)
    config["autoencoder"].pop("checkpoint")
    return LatentModel.build(config).eval()


def gaussian(folder: Path, steps: int = 50) -> LatentModel:
    """A diffusion that knows that every number of an image is N(MEAN, STD^2), sampled by DDIM."""
    model = built(
        folder, "prior=diffusion", "diffusion=flow", "diffusion.guidance.scale=1", "++diffusion.grid.start=1.0"
    )
    model.prior.denoiser = GaussianDenoiser(Rectified(), MEAN, STD)
    model.prior.sampler, model.prior.steps = DDIM(), steps
    return model


def images(n: int) -> torch.Tensor:
    """Images of that law, (n, 3, 8, 8)."""
    return (MEAN + STD * torch.randn(n, *SHAPE)).clamp(-1, 1)
