"""What every family learns of a law in the plane that is known, each in about a minute of one quiet core: LDM_SLOW=1.

How each is trained stands in experiments/ring/recipes.yaml, and its README.md has what came of it."""

import pytest
import torch

from experiments.ring.study import learnt, recipes, row
from ldm.random import Random
from ldm.types import Context
from tests.prior import ring

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600), pytest.mark.usefixtures("unchecked")]

# How far above the entropy each is at most. Affine layers (realnvp, glow, maf, iaf) take many layers and updates.
NATS = {
    **{"mixture": 0.05, "realnvp": 0.11, "glow": 0.1, "spline": 0.05, "maf": 0.1, "iaf": 0.1, "naf": 0.05},
    **{"tarflow": 0.05, "cnf": 0.05, "ot_flow": 0.05},
}
# Of those whose samples are held against draws, at their own number of evaluations or at another.
DRAWN = {"gan": None, "ebm": None, "mean_flow": 2, "consistency": 2}


class Wider(Random):
    """Noise of 1.3 times the deviation."""

    def normal(self, stream: str, shape: tuple[int, ...] = ()) -> torch.Tensor:
        return 1.3 * super().normal(stream, shape)


@pytest.mark.parametrize("family", NATS)
def test_its_density_comes_near_to_the_rings(family):
    """It has the mass 1, and samples that are finite from noise of 1.3 times the deviation."""
    prior = learnt(family, recipes()[family])
    with torch.no_grad():
        assert prior.sample((500, 2, 1, 1), Context(), Wider(0, 0, torch.arange(500))).isfinite().all()
    found, _ = row(prior)
    mass = ring.integral(lambda z: prior.log_prob(z, Context()), limit=3.5, side=101)
    print(f"{found}, mass {mass:.4f}")
    assert mass == pytest.approx(1, abs=0.01)
    assert -0.02 < found["nats"] < NATS[family]


@pytest.mark.parametrize("family", DRAWN)
def test_its_samples_are_not_told_from_the_rings(family):
    """Within three standard errors of 1,000 samples, with all modes."""
    prior = learnt(family, recipes()[family])
    if DRAWN[family] is not None:
        prior.steps = DRAWN[family]
    found, _ = row(prior)
    print(found)
    assert found["away"] < 3 and found["modes"] == ring.MODES and found["near"] > 0.9
