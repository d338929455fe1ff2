"""Pretrained first stages: `autoencoder.checkpoint=` names a run of ours, its model/, an `AutoencoderKL` or a `VQModel` of
diffusers, or a file of CompVis's code.

The checkpoint decides which parts the autoencoder has; what the run's config says of them is not used.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from pathlib import Path

from ldm.autoencoder.autoencoder import Autoencoder
from ldm.build import Config, check
from ldm.interop import compvis_nodes
from ldm.interop.compvis import first_stage, load_first_stage
from ldm.interop.diffusers import autoencoder_from_diffusers, autoencoder_node, find_folder
from ldm.interop.diffusers_config import ForeignModelError
from ldm.model import MODEL_PACKAGES, load_weights
from ldm.resolve import check_named
from ldm.tensors import read_foreign


class Pretrained(ABC):
    """A pretrained first stage. A new kind writes `config` and `load_into`."""

    @abstractmethod
    def config(self, image_shape: tuple[int, int, int]) -> Config:
        """The config node that builds the autoencoder for images of this shape."""

    @abstractmethod
    def load_into(self, autoencoder: Autoencoder) -> None:
        """Load the weights into an autoencoder that was built from that node."""


class Ours(Pretrained):
    """The first stage of a finished run of ours.

    Arguments:
        folder: the run's model/.
    """

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
    """An `AutoencoderKL` or a `VQModel` of diffusers.

    Arguments:
        folder: the directory with its config.json.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def config(self, image_shape: tuple[int, int, int]) -> Config:
        return autoencoder_node(json.loads((self.folder / "config.json").read_text(encoding="utf-8")), image_shape)

    def load_into(self, autoencoder: Autoencoder) -> None:
        theirs = autoencoder_from_diffusers(self.folder, autoencoder.image_shape)
        autoencoder.load_state_dict(theirs.state_dict())


class CompVis(Pretrained):
    """The first stage in a file that CompVis's code has written, alone or in a whole model: KL or vector-quantised.

    Arguments:
        file: .ckpt or .safetensors.
    """

    def __init__(self, file: Path):
        self._tensors = first_stage(read_foreign(file))
        if "encoder.conv_in.weight" not in self._tensors:
            raise ForeignModelError(f"{file} holds no first stage: encoder.conv_in.weight is not in it")

    def config(self, image_shape: tuple[int, int, int]) -> Config:
        return compvis_nodes.autoencoder_node(self._tensors, image_shape)

    def load_into(self, autoencoder: Autoencoder) -> None:
        load_first_stage(autoencoder, self._tensors)


def pretrained(checkpoint: str | Path) -> Pretrained:
    """The first stage that `autoencoder.checkpoint` names; FileNotFoundError where there is none."""
    folder = Path(checkpoint)
    if folder.is_file():
        return CompVis(folder)
    for candidate in (folder, folder / "model"):
        file = candidate / "config.json"
        if file.exists() and "autoencoder" in json.loads(file.read_text(encoding="utf-8")):
            return Ours(candidate)
    return Diffusers(find_folder(checkpoint, "vqvae" if (folder / "vqvae").is_dir() else "vae"))
