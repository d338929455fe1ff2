"""A latent generative model: autoencoder + conditioner + prior. Built from plain config, saved and loaded without pickle.

    x = decode(z),  z ~ prior(z | c),  c = condition(batch)

On disk it is a directory: `model.safetensors` (averaged weights), `raw.safetensors` (as the optimiser left them),
perhaps `best.safetensors` (the averaged ones of the best evaluation in training), and
`config.json` with the nodes that build the three parts, and the plugins that these need, with their versions. A stranger's
config can name only parts of a model, and those of a plugin (`ldm.plugins`) only where the caller has named it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ldm import plugins
from ldm.autoencoder.autoencoder import Autoencoder
from ldm.build import Config, build, check
from ldm.condition.conditioner import Conditioner
from ldm.condition.spatial import Spatial
from ldm.constructed import node_of
from ldm.files import whole_file, write_json
from ldm.plugins import within
from ldm.prior.base import GIVEN, Latents, Prior
from ldm.random import Random
from ldm.resolve import ConfigError, check_named, resolve
from ldm.tensors import hash_of, read_tensors, write_tensors
from ldm.types import Codes, Context, Image, Latent

log = logging.getLogger(__name__)

PARTS = ("autoencoder", "condition", "prior")
HANDED = {"condition": ("first",), "prior": GIVEN}
"""Arguments of a part's constructor that other parts say, and no config."""
# What a loaded config may name: the parts of a model, nothing that reads data or writes files.
MODEL_PACKAGES = (
    "ldm.autoencoder",
    "ldm.backbone",
    "ldm.condition",
    "ldm.diffusion",
    "ldm.nn",
    "ldm.ode",
    "ldm.prior",
    "ldm.bijection",
)

Weights = Literal["average", "raw", "best"]
_FILES: dict[str, str] = {"average": "model.safetensors", "raw": "raw.safetensors", "best": "best.safetensors"}


class LatentModel(nn.Module):
    """An autoencoder, a condition and a prior of the autoencoder's latents, which together draw images.

    Attributes:
        config: the nodes of the three parts, where it was built from some; `save` finds those of other models.
        made_from: what a run says of its training (ldm.stage.provenance); empty of other models.
        cost: of a run's stages by name what their training took (`ldm.run.directory.Journal.cost`), where it is known; not saved.
    """

    def __init__(self, autoencoder: Autoencoder, condition: Conditioner, prior: Prior, config: Config | None = None):
        super().__init__()
        self.autoencoder, self.condition, self.prior = autoencoder, condition, prior
        self.config = config
        self.made_from: dict[str, Any] = {}
        self.cost: dict[str, dict[str, int | float] | None] = {}
        self.check_null()

    def check_null(self) -> None:
        """Warn where samples are drawn by an answer that training never sees: the one without a condition."""
        never = any(each.needs and each.drop == 0 for each in self.condition.parts())
        if never and self.prior.asks_null():
            log.warning(
                "guidance asks for the answer without a condition, which condition.drop=0 never trains: its samples mean "
                "nothing; take guidance of scale 1, or train with condition.drop=0.1"
            )

    @property
    def device(self) -> torch.device:
        """Where the model is; of one without weights, too."""
        return self.autoencoder.latent_mean.device

    @property
    def weights_hash(self) -> str:
        """Names the weights: a hash of all of them, whitening included."""
        return hash_of(self.state_dict())

    @classmethod
    def build(cls, config: Config, allowed: tuple[str, ...] | None = None) -> LatentModel:
        """A model with fresh weights from its three nodes; shapes follow from the autoencoder and the conditioner.

        Arguments:
            allowed: the packages that nodes may name; by default those of models and every plugin.
        """
        allowed = (*MODEL_PACKAGES, *plugins.known()) if allowed is None else allowed
        missing = [part for part in PARTS if part not in config]
        if missing:
            raise ConfigError(f"a model is made of {', '.join(PARTS)}; this config has no {', '.join(missing)}")
        autoencoder = build(config["autoencoder"], "autoencoder", allowed)
        condition = _condition(config["condition"], autoencoder, allowed)
        latents = _latents(config["prior"], autoencoder, allowed)
        prior = build(config["prior"], "prior", allowed, latents=latents, context=condition.shape)
        autoencoder.check_size(autoencoder.image_shape, prior.factor)
        return cls(autoencoder, condition, prior, {part: config[part] for part in PARTS})

    def context(self, batch: Mapping[str, Any], random: Random) -> Context:
        """The condition of a batch as training sees it: dropped, by chance, where `condition.drop` says so (Ho and Salimans,
        Classifier-Free Diffusion Guidance, 2022, algorithm 1), so that the prior learns what it is without one, too."""
        return self.condition.dropped(self.told(batch, random), random)

    def told(self, batch: Mapping[str, Any], random: Random) -> Context:
        """The condition of a batch, of which nothing is dropped. What is given of its images, of a condition on a part of them,
        is drawn by that condition's law, unless the batch says it; without images nothing is."""
        return self.condition(self.condition.given(batch, random))

    @torch.no_grad()
    def latent(self, batch: Mapping[str, Any], random: Random) -> Latent | Codes:
        """What the prior models, of each example: a latent drawn from its posterior and whitened, its codes, or the image.

        Of a batch's `image`, or of what a cache holds in its place: `mean` and `std` of the raw posterior, or `code`.
        """
        if self.prior.reads == "codes":
            return batch["code"].long() if "code" in batch else self.autoencoder.eval().codes(batch["image"])
        if "mean" in batch:
            posterior = self.autoencoder.kept(batch["mean"].float(), batch["std"].float())
        else:
            posterior = self.autoencoder.eval().encode(batch["image"])
        if self.prior.reads == "pixels":
            return posterior.mean
        return posterior.sample(random.normal("posterior", tuple(posterior.mean.shape[1:])))

    @torch.no_grad()
    def sample_latents(self, batch: Mapping[str, Any], random: Random) -> Latent | Codes:
        """What the prior models, drawn from it: one latent (c, h, w), or codes (h, w), for each row of `random`, conditioned on
        the batch's captions or labels and, of a condition on a part of images, on those of the batch, if it has some.

        A text under `negative` takes the place of 'no condition' in guidance.
        ValueError where captions or labels are not as many as rows.
        """
        count = len(random.rows)
        for key in ("caption", "label"):
            if key in batch and len(batch[key]) != count:
                raise ValueError(f"{len(batch[key])} {key}s for {count} rows of random numbers: give one for each row")
        c = self.told(batch, random)
        if batch.get("negative") is not None:
            c = c.away_from(self.negative(batch["negative"]))
        return self.prior.sample(self.prior.latents.batch(count), c, random)

    def negative(self, text: str) -> Context:
        """The context of a negative prompt; ValueError where nothing would move away from it."""
        if "caption" not in self.condition.needs:
            knows = (
                f"is conditioned on {', '.join(self.condition.needs)}" if self.condition.needs else "has no condition"
            )
            raise ValueError(f"negative= is a text, and this model {knows}")
        self.prior.check_negative()
        return self.condition({"caption": [text]})

    @torch.no_grad()
    def sample(self, batch: Mapping[str, Any], random: Random) -> Image:
        """One image (b, c, h, w) in [-1, 1] for each row of `random`."""
        return self.decode(self.sample_latents(batch, random))

    @torch.no_grad()
    def decode(self, z: Latent | Codes) -> Image:
        """The image (b, c, h, w) in [-1, 1] of what the prior models: whitened latents, or codes."""
        own = self.autoencoder
        return (own.decode_codes(z) if self.prior.reads == "codes" else own.decode(z)).float().clamp(-1, 1)

    @torch.no_grad()
    def reconstruct(self, x: Image) -> Image:
        """The decoder's image of the mean of q(z|x), (b, c, h, w) in [-1, 1]."""
        return self.autoencoder.decode(self.autoencoder.encode(x).mean).float().clamp(-1, 1)

    def save(self, folder: Path, config: Config | None = None, weights: Weights = "average") -> None:
        """Write config.json and the weights as `weights`; a second call adds the other kind.

        Arguments:
            config: the nodes of the three parts; by default those that it was built from or, of a model that was put
                together in Python, what its objects' constructors were given (`ldm.constructed`; ConfigError where that
                cannot be written down).
        """
        config = config or self.config or self._constructed()
        nodes = {part: config[part] for part in PARTS}
        folder.mkdir(parents=True, exist_ok=True)
        write_weights(self.state_dict(), folder / _FILES[weights])
        needed = {package: plugins.version(package) for package in _plugins_of(nodes)}
        write_json(folder / "config.json", nodes | {"made_from": self.made_from, "plugins": needed})

    def _constructed(self) -> Config:
        """The nodes of the three parts, by what their constructors were given; checked as those of a file are."""
        nodes = {part: node_of(getattr(self, part), part, HANDED.get(part, ())) for part in PARTS}
        own = tuple(path.partition(".")[0] for path in plugins.targets(nodes))
        for part, node in nodes.items():
            check(node, part, HANDED.get(part, ()), own)
        return nodes

    @classmethod
    def load(
        cls,
        folder: str | Path,
        weights: Weights = "average",
        device: str | torch.device = "cpu",
        plugins: Sequence[str] = (),
    ) -> LatentModel:
        """A saved model, in eval mode. FileNotFoundError, ConfigError or ValueError say what is wrong with the files.

        Arguments:
            plugins: packages whose classes the file may name beside ldm's, and those of the command line and of
                LDM_PLUGINS: to name one is to trust its code and the file that asks for it.
        """
        folder = Path(folder)
        if not (folder / "config.json").exists() and (folder / "model" / "config.json").exists():
            folder = folder / "model"  # a run directory was named
        if not (folder / "config.json").exists():
            raise FileNotFoundError(f"{folder} has no config.json: give a finished run's directory or its model/")
        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{folder / 'config.json'} is damaged, or no config of a model: {error}") from error
        allowed = (*MODEL_PACKAGES, *plugins)
        check_named({part: config.get(part) for part in PARTS}, str(folder), allowed, config.get("plugins"))
        _compare_versions(config, folder)
        model = cls.build(config, allowed)
        model.made_from = config.get("made_from", {})
        if weights == "best":
            model.made_from |= _of_best(model.made_from, folder)
        load_weights(model, folder / _FILES[weights])
        return model.to(device).eval()


def _of_best(made_from: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """What differs of the best weights in what a model was made from; FileNotFoundError where none were kept."""
    best = made_from.get("best")
    if not best or not (folder / _FILES["best"]).exists():
        raise FileNotFoundError(
            f"{folder} has no best weights: a run keeps them that was trained with evaluation.every=IMAGES and "
            "second.keep_best=METRIC"
        )
    return {"images_seen": best["images"], "updates": best["updates"], "chosen_by": best["metric"]}


def _condition(node: Config, autoencoder: Autoencoder, allowed: tuple[str, ...]) -> Conditioner:
    """The condition of a node; one on a part of images is handed the first stage."""
    kind = resolve(node["_target_"], "condition", allowed)
    handed = {"first": autoencoder} if issubclass(kind, Spatial) else {}
    return build(node, "condition", allowed, **handed)


def _latents(prior: Config, autoencoder: Autoencoder, allowed: tuple[str, ...]) -> Latents:
    """What the prior models of this autoencoder; ConfigError where that is codes or pixels, and it has none."""
    family, codes = resolve(prior["_target_"], "prior", allowed), None
    reads = family.reading(prior, autoencoder.gives, allowed) if issubclass(family, Prior) else "latents"
    if reads == "codes":
        try:
            codes = autoencoder.code_count
        except TypeError as error:
            raise ConfigError(f"prior: {family.__name__} models codes: {error}") from error
    if reads == "pixels" and autoencoder.gives != "pixels":
        raise ConfigError(
            f"prior: {family.__name__} models pixels here, and this autoencoder gives {autoencoder.gives}; take "
            "autoencoder=identity"
        )
    return Latents(autoencoder.latent_shape, codes, pixels=reads == "pixels")


def _plugins_of(nodes: Config) -> set[str]:
    """The packages, beside ldm's, whose classes nodes build."""
    paths = [path for path in plugins.targets(nodes) if not within(path, MODEL_PACKAGES)]
    known = plugins.known()
    return {next((each for each in known if within(path, (each,))), path.partition(".")[0]) for path in paths}


def _compare_versions(config: Config, folder: Path) -> None:
    """Say where a plugin is of another version than the one that a model was saved with."""
    made = config.get("plugins")
    for package in _plugins_of({part: config.get(part) for part in PARTS}) if isinstance(made, Mapping) else ():
        here = plugins.version(package)
        if made.get(package) != here:
            log.warning("%s was saved with %s %s, and here is %s", folder, package, made.get(package), here)


def write_weights(state: Mapping[str, Tensor], file: Path) -> None:
    """A state dict as safetensors: whole or not at all."""
    with whole_file(file) as temporary:
        write_tensors(temporary, state)


def made_from(folder: Path) -> dict[str, Any]:
    """What a run has said of the training of a model that it saved."""
    return json.loads((folder / "config.json").read_text(encoding="utf-8")).get("made_from", {})


def load_weights(module: nn.Module, file: Path, prefix: str = "") -> None:
    """Put the tensors of a safetensors file whose names begin with `prefix` into a module, all of them or none.

    ValueError lists at most five names or shapes that differ.
    """
    found = {name[len(prefix) :]: value for name, value in read_tensors(file).items() if name.startswith(prefix)}
    put_weights(module, found, str(file))


def put_weights(module: nn.Module, found: Mapping[str, Tensor], where: str) -> None:
    """Put named tensors into a module, all of them or none; `where` they are from begins the message of a ValueError."""
    wanted = module.state_dict()
    wrong = [f"{name} is missing" for name in sorted(wanted.keys() - found.keys())]
    wrong += [f"{name} is not expected" for name in sorted(found.keys() - wanted.keys())]
    wrong += [
        f"{name} is {tuple(found[name].shape)}, wanted {tuple(wanted[name].shape)}"
        for name in sorted(wanted.keys() & found.keys())
        if found[name].shape != wanted[name].shape and not name.endswith("_extra_state")
    ]
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise ValueError(f"{where} does not fit {type(module).__name__}: {'; '.join(wrong[:5])}{more}")
    module.load_state_dict(found)
