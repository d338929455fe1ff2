"""A trained prior to begin with: `prior.checkpoint=` a finished run of ours, its condition along with it.

    prior.weights=average | raw | best    which of its weights: the averaged ones by default
    prior.statistics=checkpoint | data    by what latents are whitened where the first stage is the checkpoint's

What the network is, the config says and not the checkpoint. Tensors are taken by their names where the shapes agree; the others
begin fresh, and the log names them. Where less than half of the prior's weights would be taken, the network is another one,
and it is refused. A condition of another class begins fresh. A tokenizer comes with the embedding that it indexes and is then
not learnt again; a class of a label condition keeps its token if one of that name was there.

A prior knows latents in the scale that it was trained in. On the very first stage it was trained on, it therefore keeps the
checkpoint's statistics: those of other data would shift and stretch the latents against all that it has learnt, and a bright data
set would look like an average one to it. With `prior.statistics=data` latents of the new data have mean 0 and variance 1 again,
which noise schedules are made for; that is worth more where the data are far from the old ones. On any other first stage the old
numbers mean nothing, and the new data's are taken.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from ldm.build import Config, plain
from ldm.condition.label import Label, listed
from ldm.condition.text import Text
from ldm.model import LatentModel, Weights
from ldm.resolve import ConfigError
from ldm.stage.difference import differences, said, shown
from ldm.stage.latents import weights_key
from ldm.stage.settings import of_prior

log = logging.getLogger(__name__)

Statistics = Literal["checkpoint", "data"]
_ENOUGH = 0.5  # share of the prior's weights that a checkpoint has to have
_CLASSES, _TOKENIZER = "condition.tokens.weight", "condition._extra_state"


@dataclass(frozen=True)
class Wanted:
    """The words of a prior's node that say what it begins from."""

    checkpoint: str
    weights: Weights = "average"
    statistics: Statistics = "checkpoint"

    def words(self) -> Config:
        """Its fields by name, as a prior's node has them."""
        return {"checkpoint": self.checkpoint, "weights": self.weights, "statistics": self.statistics}


def wanted(node: Config) -> tuple[Config, Wanted | None]:
    """The node of a prior without the words of this module, and these; ConfigError where they are none."""
    kinds = {"checkpoint": str, "weights": Weights, "statistics": Statistics}
    given = {
        name: plain(node[name], kind, f"prior.{name}") for name, kind in kinds.items() if node.get(name) is not None
    }
    rest = {name: value for name, value in node.items() if name not in kinds}
    if given and "checkpoint" not in given:
        raise ConfigError(
            f"prior.{next(iter(given))} is of a prior that begins from prior.checkpoint=RUN, which is not given"
        )
    return rest, Wanted(**given) if given else None


@dataclass(frozen=True)
class Origin:
    """What a prior began from.

    Fields:
        wanted: the words.
        model: hash of all of the checkpoint's weights, by which its records name them.
        first_stage: hash of its first stage.
        mean, std: what its latents are whitened by.
        tokens: whether the condition's tokenizer is the checkpoint's.
    """

    wanted: Wanted
    model: str
    first_stage: str
    mean: Tensor
    std: Tensor
    tokens: bool

    def settings(self) -> dict[str, Any]:
        """What updates depend on of it, by value."""
        return self.wanted.words() | {"checkpoint": self.model}

    def check(self, first_stage: str | None) -> None:
        """Tell where latents will be of another first stage than the checkpoint's; None is one that is still to be trained."""
        if first_stage != self.first_stage:
            log.warning(
                "the prior of %s knows the latents of its own first stage alone, and here they are of another; "
                "its own is autoencoder.checkpoint=%s, left as it is",
                *(self.wanted.checkpoint, self.wanted.checkpoint),
            )

    def whitening(self, first_stage: str) -> tuple[Tensor, Tensor] | None:
        """The checkpoint's, where latents of the first stage of this hash are whitened by them; None where by the data's."""
        if first_stage != self.first_stage or self.wanted.statistics == "data":
            return None
        log.info(
            "latents are whitened as those of %s; prior.statistics=data takes these data's", self.wanted.checkpoint
        )
        return self.mean, self.std


def begin(model: LatentModel, words: Wanted) -> Origin:
    """Give prior and condition of a model the checkpoint's weights.

    Raises:
        FileNotFoundError, ValueError: it is no finished run of ours, or damaged.
        ConfigError: the network is another one.
    """
    other = LatentModel.load(words.checkpoint, words.weights)
    own, found = _learnt(model), _learnt(other)
    taken = {name: found[name] for name in own if _fits(name, own, found, model, other)}
    _check(model, other, own, taken, words.checkpoint)
    if _CLASSES in own and isinstance(model.condition, Label) and isinstance(other.condition, Label):
        taken |= _classes(model.condition, other.condition, words.checkpoint)
    model.load_state_dict(taken, strict=False)
    _tell(own, found, taken, words)
    changed = list(differences(of_prior(other.config["prior"]), of_prior(model.config["prior"])))
    if changed:
        log.warning("%s was trained with other words: %s", words.checkpoint, shown(said(changed, "prior.")))
    mean, std = other.autoencoder.latent_mean, other.autoencoder.latent_std
    return Origin(words, other.weights_hash, weights_key(other.autoencoder), mean, std, _TOKENIZER in taken)


def _learnt(model: LatentModel) -> dict[str, Tensor]:
    return {name: value for name, value in model.state_dict().items() if name.startswith(("prior.", "condition."))}


def _fits(name: str, own: dict[str, Tensor], found: dict[str, Tensor], model: LatentModel, other: LatentModel) -> bool:
    if name not in found or (name.startswith("condition.") and type(model.condition) is not type(other.condition)):
        return False
    if name == _TOKENIZER:
        one, two = model.condition, other.condition
        return isinstance(one, Text) and isinstance(two, Text) and one.vocabulary == two.vocabulary
    return own[name].shape == found[name].shape


def _check(
    model: LatentModel, other: LatentModel, own: dict[str, Tensor], taken: dict[str, Tensor], where: str
) -> None:
    whole = sum(value.numel() for name, value in own.items() if name.startswith("prior."))
    part = sum(value.numel() for name, value in taken.items() if name.startswith("prior."))
    if not whole:
        raise ConfigError(f"prior.checkpoint: {type(model.prior).__name__} has no weights that it could begin from")
    if part < _ENOUGH * whole:
        changed = shown(
            said(list(differences(of_prior(other.config["prior"]), of_prior(model.config["prior"]))), "prior.")
        )
        raise ConfigError(
            f"prior.checkpoint={where} holds another network: {part / whole:.0%} of this prior's weights would be its own"
            + (f". They differ in {changed}" if changed else "")
        )


def _classes(own: Label, other: Label, where: str) -> dict[str, Tensor]:
    """The table of tokens with the checkpoint's rows for 'no condition' and for classes of the same name; where none have names,
    of the same number of classes."""
    if not (own.names and other.names):
        return {}
    table, theirs = own.tokens.weight.detach().clone(), other.tokens.weight.detach()
    if table.shape[1] != theirs.shape[1]:
        return {}
    table[-1] = theirs[-1]
    for row, name in enumerate(own.names):
        if name in other.names:
            table[row] = theirs[other.names.index(name)]
    new = [name for name in own.names if name not in other.names]
    if new:
        log.warning("classes that %s does not know begin fresh: %s", where, listed(new))
    return {_CLASSES: table}


def _tell(own: dict[str, Tensor], found: dict[str, Tensor], taken: dict[str, Tensor], words: Wanted) -> None:
    fresh = tuple(_said(name, own, found) for name in own if name not in taken)
    left = tuple(_said(name, found, own) for name in found if name not in own)
    count = f"{len(taken)} of {len(own)} tensors"
    log.info("prior and condition begin from %s (%s weights): %s", words.checkpoint, words.weights, count)
    if fresh:
        log.warning("begin fresh: %s", shown(fresh))
    if left:
        log.warning("not taken of %s: %s", words.checkpoint, shown(left))


def _said(name: str, own: dict[str, Tensor], there: dict[str, Tensor]) -> str:
    """A tensor by its name and shape, and its shape there where it has one."""
    if name == _TOKENIZER:
        return "condition.tokenizer"
    shapes = ["x".join(map(str, each[name].shape)) or "1" for each in (own, there) if name in each]
    return f"{name} {shapes[0]}" + (f" (there {shapes[1]})" if len(shapes) > 1 else "")
