"""The weights that a config gives a run to begin from: a first stage (`autoencoder.checkpoint`), a prior (`prior.checkpoint`).

They are words about parts and no arguments of them, so they are taken out of the config before it is checked, and put back where
the config is written down.
"""

from __future__ import annotations

from ldm.build import Config
from ldm.experiment.check import check_train
from ldm.interop.first_stage import pretrained
from ldm.model import LatentModel
from ldm.stage import finetune
from ldm.stage.latents import weights_key


class Given:
    """What a run is given, and where it came from.

    Arguments:
        config: of the run, as it was composed.

    Attributes:
        config: the same without those words, and with the node of the first stage that is given.
        trains_on: whether this first stage is trained on.
        first: hash of its weights, once they are loaded; None where none is given.
        prior: what the prior began from, once that is loaded; None where nothing is given.
    """

    def __init__(self, config: Config):
        prior, self._wanted = finetune.wanted(config["prior"])
        self.config = config | {"autoencoder": dict(config["autoencoder"]), "prior": prior}
        self._checkpoint = self.config["autoencoder"].pop("checkpoint", None)
        self._pretrained = None if self._checkpoint is None else pretrained(self._checkpoint)
        train = self.config["autoencoder"].pop("train", None)
        self.trains_on = check_train(self.config, train, self._checkpoint)
        if self._pretrained is not None:
            self.config["autoencoder"] = self._pretrained.config(tuple(config["data"]["image_shape"]))
        self.first: str | None = None
        self.prior: finetune.Origin | None = None

    @property
    def has_first(self) -> bool:
        """Whether a first stage is given."""
        return self._pretrained is not None

    @property
    def has_prior(self) -> bool:
        """Whether the prior is given weights to begin from."""
        return self._wanted is not None

    def load_into(self, model: LatentModel) -> None:
        """Give the model what is given."""
        if self._pretrained is not None:
            self._pretrained.load_into(model.autoencoder)
            self.first = weights_key(model.autoencoder)
        if self._wanted is not None:
            self.prior = finetune.begin(model, self._wanted)

    def put_back(self, config: Config) -> Config:
        """The config with the words that were taken out."""
        config = dict(config)
        if self._checkpoint is not None:
            train = {"train": True} if self.trains_on else {}
            config["autoencoder"] = config["autoencoder"] | {"checkpoint": str(self._checkpoint)} | train
        if self._wanted is not None:
            config["prior"] = config["prior"] | self._wanted.words()
        return config

    def named(self) -> str | None:
        """The weights that training began from, by their hashes; None where all were drawn."""
        parts = [f"autoencoder {self.first}"] if self.trains_on else []
        parts += [] if self.prior is None else [f"prior {self.prior.model} ({self.prior.wanted.weights})"]
        return ", ".join(parts) or None
