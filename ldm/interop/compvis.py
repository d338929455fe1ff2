"""Files of CompVis's code and their tensors; see `compvis_names` for the names and `compvis_nodes` for what networks they are."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ldm.autoencoder.autoencoder import Autoencoder
from ldm.autoencoder.quantiser import VectorQuantiser
from ldm.interop.compvis_names import AVERAGES, FIRST_STAGE, autoencoder_names
from ldm.interop.diffusers import load_named


def part(found: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors below a prefix, in float32, by their names without it."""
    return {name.removeprefix(prefix): value.float() for name, value in found.items() if name.startswith(prefix)}


def first_stage(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the first stage of a whole model, or of a file that holds nothing else."""
    return part(found, FIRST_STAGE) or part(found, "")


def load_first_stage(autoencoder: Autoencoder, first: Mapping[str, Tensor]) -> None:
    """Load the tensors of a first stage, but for those of the loss that it was trained on and its averages."""
    kept = {name: value for name, value in first.items() if not name.startswith(("loss.", AVERAGES))}
    load_named(autoencoder, autoencoder_names(autoencoder), kept)
    if isinstance(autoencoder.bottleneck, VectorQuantiser):
        autoencoder.bottleneck.begun()
