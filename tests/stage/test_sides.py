"""A prior of two sides, with a critic that is trained beside it, through the one training code; and beginnings from data."""

from typing import Any

import pytest
import torch
from torch import nn

from ldm.condition.label import Label
from ldm.model import LatentModel
from ldm.prior.base import Latents, Prior, Side, Terms
from ldm.prior.mixture import Mixture
from ldm.random import Random
from ldm.run.checkpoint import Checkpoints
from ldm.stage.second import Second
from ldm.types import Context
from tests.stage.tiny import At, autoencoder, data, fit, recipe, result


class Game(Prior):
    """The generator is a bias, the critic a weight: g, and a * mean(z). Each loss is linear in the other side's weight, so that
    gradients can be worked out by hand."""

    def __init__(self, latents: Latents, context: Any):
        super().__init__(latents, context)
        self.g = nn.ParameterList([torch.full((), 0.5)])
        self._critic = (nn.ParameterList([torch.full((), 2.0)]),)
        self.updates: list[int] = []

    def beside(self) -> nn.Module:
        return self._critic[0]

    def sides(self) -> list[Side]:
        def fool(z: Any, c: Context, random: Random, update: int, shared: dict) -> tuple[Terms, Terms]:
            shared["fake"] = self.g[0].detach().clone()
            return self.loss(z, c, random), {}

        def judge(z: Any, c: Context, random: Random, update: int, shared: dict) -> tuple[Terms, Terms]:
            self.updates.append(update)
            return {"judge": self._critic[0][0] * (shared["fake"] - z.mean())}, {"real": z.mean()}

        return [Side("generator", (self.g,), fool), Side("critic", (self._critic[0],), judge)]

    def loss(self, z: Any, c: Context, random: Random | None = None) -> Terms:
        return {"fool": -self._critic[0][0] * self.g[0]}

    def sample(self, shape: tuple[int, ...], c: Context, random: Random | None = None) -> torch.Tensor:
        return self.g[0].expand(shape)


def stage(prior: type[Prior] = Game, seed: int = 0, **options: Any) -> Second:
    torch.manual_seed(0)
    first, condition = autoencoder(), Label(3, width=4)
    made = Second(
        LatentModel(first, condition, prior(Latents(first.latent_shape), condition.shape)), recipe(**options), seed
    )
    made.reads = data
    return made


def whole(made: Second, update: int) -> tuple[dict, Random]:
    [batch] = list(data().loader(update, update + 1))
    return batch, Random(made._key(), batch["step"], batch["row"], batch["total"])


def test_two_sides_by_hand():
    """SGD of rate 0.1 under a warm-up over two updates: g moves by a, then a by mean(z) - g of the same update, whose fake was
    made before g moved."""
    options = {"sgd": True, "lr": 0.1, "steps": 2, "validate_every": 0, "decay": 0.0, "clip": 100.0}
    made = fit(stage(**options))
    g, a = 0.5, 2.0
    for update in range(2):
        batch, random = whole(made, update)
        mean = made.model.latent(batch, random).mean().item()
        rate = 0.1 * made.recipe.rate(update, 2)
        g, a = g + rate * a, a - rate * (g - mean)
    prior = made.model.prior
    assert prior.g[0].item() == pytest.approx(g, rel=1e-5)
    assert prior.beside()[0].item() == pytest.approx(a, rel=1e-5)
    assert prior.updates == [0, 1], "how many updates were done is handed on"


def test_what_is_beside_is_checkpointed_and_resumed_and_in_no_model(tmp_path):
    options = {"steps": 6, "validate_every": 0, "save_every": 2}
    through = fit(stage(**options), tmp_path / "through")
    stopped = stage(**options)
    fit(stopped, tmp_path / "parts", At(3, lambda stage: setattr(stage.stop, "raised", True)))
    state = Checkpoints(tmp_path / "parts" / "second").load()[1]
    assert [name for name in state["weights"] if name.startswith("beside")] == ["beside.0"]
    assert not any("beside" in name for name in state["average"]["weights"]), "averages are of what is kept"
    again = fit(stage(**options), tmp_path / "parts")
    for key in ("weights", "average", "optimizers"):
        torch.testing.assert_close(result(again)[key], result(through)[key], rtol=0, atol=0)
    through.model.save(tmp_path / "model", {part: {} for part in ("autoencoder", "condition", "prior")})
    assert not any("critic" in name or "beside" in name for name in through.model.state_dict())


def test_a_prior_begins_from_data_once(tmp_path):
    """Of the first batches as every rank reads them; averages begin where the weights do; a stage that goes on does not begin."""
    begun: list[torch.Tensor] = []

    class Beginning(Mixture):
        def __init__(self, latents: Latents, context: Any):
            super().__init__(latents, context, components=2)

        def begin(self, batches: Any) -> None:
            z, c = next(iter(batches))
            begun.append(z)
            assert c.tokens.shape == (4, 1, 4)
            with torch.no_grad():
                self.means.fill_(3.0)

    made = stage(Beginning, steps=4, lr=0.0, validate_every=0, save_every=2)
    fit(made, tmp_path, At(2, lambda stage: setattr(stage.stop, "raised", True)))
    batch, _ = whole(made, 0)
    wanted = made.model.latent(batch, Random(made._key(), -2, batch["row"], batch["total"]))
    torch.testing.assert_close(begun[0], wanted)
    state = Checkpoints(tmp_path / "second").load()[1]
    assert (state["average"]["weights"]["prior.means"] == 3).all()
    fit(stage(Beginning, steps=4, lr=0.0, validate_every=0, save_every=2), tmp_path)
    assert len(begun) == 1
