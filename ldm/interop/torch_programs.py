"""Decoder and denoiser as programs of `torch.export`, which run without ldm: on any batch, at the size of the model's latents.

    decoder.pt2    z (b, c, h, w), whitened -> image (b, 3, H, W) in [-1, 1], not clamped
    denoiser.pt2   x_t (b, c, h, w), t (b,) in [0, 1], and where the model has a condition tokens (b, n, d) -> E[x | x_t, c]

`export.json` says the shapes, and alpha and sigma of x_t = alpha x + sigma eps at a hundred and one times. Tokens all count:
those of a caption without padding, or of a label. For other sizes or guidance there is the model itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ldm.autoencoder.autoencoder import Autoencoder
from ldm.diffusion.denoiser import Denoiser
from ldm.files import whole_directory, write_json
from ldm.model import LatentModel
from ldm.prior.diffusion import Diffusion
from ldm.types import Context, Latent, Time

_TOKENS = 4  # of the example that is traced; any number may come


class _Decoder(nn.Module):
    def __init__(self, autoencoder: Autoencoder):
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, z: Latent) -> Tensor:
        return self.autoencoder.decode(z)


class _Denoiser(nn.Module):
    def __init__(self, denoiser: Denoiser):
        super().__init__()
        self.denoiser = denoiser

    def forward(self, x_t: Latent, t: Time, tokens: Tensor | None = None) -> Tensor:
        return self.denoiser(x_t, t, Context(tokens))


def write_programs(model: LatentModel, folder: Path, facts: dict[str, Any]) -> None:
    """Write the directory, whole or not at all; ValueError where the model is no diffusion of latents without codes."""
    if not isinstance(model.prior, Diffusion):
        raise ValueError(
            f"to=torch writes a denoiser, and prior {type(model.prior).__name__} has none; it is of diffusions"
        )
    if model.prior.context.spatial is not None:
        raise ValueError("to=torch knows conditions of tokens, and this model's is a map")
    shape, width = model.prior.latents.shape, model.prior.context.tokens
    z, t = torch.randn(2, *shape), torch.full((2,), 0.5)
    batch, count = torch.export.Dim("batch", min=1), torch.export.Dim("count", min=1)
    given: list[Tensor] = [z, t]
    free: list[dict[int, Any]] = [{0: batch}, {0: batch}]
    if width is not None:
        given.append(torch.randn(2, _TOKENS, width))
        free.append({0: batch, 1: count})
    with torch.no_grad():
        decoder = torch.export.export(_Decoder(model.autoencoder.eval()), (z,), dynamic_shapes=({0: batch},))
        denoiser = torch.export.export(_Denoiser(model.prior.denoiser.eval()), tuple(given), dynamic_shapes=tuple(free))
    times = torch.linspace(0, 1, 101, dtype=torch.float64)
    alpha, sigma = model.prior.denoiser.schedule.alpha_sigma(times)
    facts |= {"latent_shape": list(shape), "tokens": width, "times": times.tolist()}
    facts |= {"alpha": alpha.tolist(), "sigma": sigma.tolist(), "torch": torch.__version__}
    with whole_directory(folder) as made:
        torch.export.save(decoder, made / "decoder.pt2")
        torch.export.save(denoiser, made / "denoiser.pt2")
        write_json(made / "export.json", facts)
