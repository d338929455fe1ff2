"""A finished first stage to begin with: `autoencoder.checkpoint=` a run of ours, its model/, or an AutoencoderKL.

A directory or hub name of diffusers is recognised by its config's `_class_name`. The checkpoint decides what the
autoencoder is made of; what the config says of it otherwise is not used.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from pathlib import Path

from ldm.autoencoder.autoencoder import Autoencoder
from ldm.build import Config, check, check_named
from ldm.interop.diffusers import autoencoder_from_diffusers, autoencoder_node, find_folder
from ldm.model import MODEL_PACKAGES, load_weights


class Pretrained(ABC):
    @abstractmethod
    def config(self, image_shape: tuple[int, int, int]) -> Config:
        """The node that builds the autoencoder for images of this shape."""

    @abstractmethod
    def load_into(self, autoencoder: Autoencoder) -> None:
        """Give an autoencoder of that node its weights."""


class Ours(Pretrained):
    def __init__(self, folder: Path):
        self.folder = folder

    def config(self, image_shape: tuple[int, int, int]) -> Config:
        config = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))
        node = config["autoencoder"] | {"image_shape": list(image_shape)}
        check_named(node, str(self.folder), MODEL_PACKAGES, config.get("plugins"))
        check(
            node, "autoencoder", allowed=MODEL_PACKAGES
        )  # a stranger's, and from here on a part of a run's own config
        return node

    def load_into(self, autoencoder: Autoencoder) -> None:
        load_weights(autoencoder, self.folder / "model.safetensors", prefix="autoencoder.")


class Diffusers(Pretrained):
    def __init__(self, folder: Path):
        self.folder = folder

    def config(self, image_shape: tuple[int, int, int]) -> Config:
        return autoencoder_node(json.loads((self.folder / "config.json").read_text(encoding="utf-8")), image_shape)

    def load_into(self, autoencoder: Autoencoder) -> None:
        theirs = autoencoder_from_diffusers(self.folder, autoencoder.image_shape)
        autoencoder.load_state_dict(theirs.state_dict())


def pretrained(checkpoint: str | Path) -> Pretrained:
    """What a checkpoint is; FileNotFoundError where it is nothing of that kind."""
    folder = Path(checkpoint)
    for candidate in (folder, folder / "model"):
        file = candidate / "config.json"
        if file.exists() and "autoencoder" in json.loads(file.read_text(encoding="utf-8")):
            return Ours(candidate)
    return Diffusers(find_folder(checkpoint, "vae"))
