"""Autoguidance of a finished model: another one, trained less or smaller on the same latents, that its samples move away from."""

from __future__ import annotations

from typing import Any

import torch

from ldm.diffusion.guidance.autoguidance import Paired
from ldm.model import LatentModel


def guided(model: LatentModel, other: LatentModel | None) -> None:
    """Give the guidance of `model` its guide, and its contexts the guide's.

    Raises:
        ValueError: one is given and nothing waits for it, or the other way round; or it is of other latents or wants
            another condition.
    """
    if other is not None:
        _fits(model, other)
    if not model.prior.guided_by(None if other is None else other.prior, other is None or _one_schedule(model, other)):
        return

    def paired(_: Any, arguments: tuple, own: Any) -> Paired:
        return Paired(own.tokens, own.mask, own.spatial, own.empty, guide=other.condition(*arguments))

    model.condition.register_forward_hook(paired)


def _one_schedule(model: LatentModel, other: LatentModel) -> bool:
    """Whether samples follow the schedule that the guide was trained on."""
    own = model.config["prior"]
    return (own.get("sampling_schedule") or own.get("schedule")) == other.config["prior"].get("schedule")


def _fits(model: LatentModel, other: LatentModel) -> None:
    shapes = model.autoencoder.latent_shape, other.autoencoder.latent_shape
    if shapes[0] != shapes[1]:
        raise ValueError(f"the guide's latents are {shapes[1]} and this run's {shapes[0]}; both need one first stage")
    first, second = model.autoencoder.state_dict(), other.autoencoder.state_dict()
    same = first.keys() == second.keys() and all(
        torch.equal(value, second[key]) if isinstance(value, torch.Tensor) else value == second[key]
        for key, value in first.items()
    )
    if not same:
        raise ValueError(
            "the guide's latents are those of another autoencoder, or whitened otherwise; train it on this run's first "
            "stage: the same store, or autoencoder.checkpoint=RUN"
        )
    strange = set(other.condition.needs) - set(model.condition.needs)
    if strange:
        raise ValueError(f"the guide is conditioned on {', '.join(sorted(strange))}, which this run is not")
