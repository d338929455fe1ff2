"""Which weights of a run are loaded."""

import pytest
import torch

from ldm.model import LatentModel
from ldm.run.finished import load, named
from ldm.run.snapshots import Snapshots
from tests.runs import tiny


@pytest.fixture
def run(tmp_path):
    """A run with a model of zeros, and snapshots of ones."""
    config = tiny(tmp_path)
    config["autoencoder"].pop("checkpoint")
    model = LatentModel.build(config)
    learnt = {name: p for name, p in model.named_parameters() if not name.startswith("autoencoder")}
    with torch.no_grad():
        for p in learnt.values():
            p.zero_()
    model.save(tmp_path / "model", config)
    model.save(tmp_path / "model", config, "raw")
    for width in (0.05, 0.10):
        Snapshots(tmp_path / "snapshots" / "second").save(9, width, {k: torch.ones_like(p) for k, p in learnt.items()})
    return tmp_path


def test_an_average_of_any_width_takes_the_place_of_what_was_learnt(run):
    plain, other = (
        load(run, "average", None, torch.device("cpu")).state_dict(),
        load(run, "average", 0.08, torch.device("cpu")).state_dict(),
    )
    learnt = {
        name
        for name, _ in load(run, "raw", None, torch.device("cpu")).named_parameters()
        if not name.startswith("autoencoder")
    }
    for name, value in other.items():
        torch.testing.assert_close(value, plain[name] + 1 if name in learnt else plain[name])
    assert (named("average", None), named("raw", None), named("average", 0.08)) == ("averaged", "raw", "averaged:0.08")


def test_what_cannot_be_loaded_is_refused(run):
    with pytest.raises(ValueError, match="ema=0.08 is of averaged weights and weights=raw"):
        load(run, "raw", 0.08, torch.device("cpu"))
    with pytest.raises(ValueError, match="between 0 and 0.289, .* got 0.8"):
        load(run, "average", 0.8, torch.device("cpu"))
    Snapshots(run / "snapshots" / "second").save(9, 0.05, {"other.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="another model: it has no other.weight"):
        load(run, "average", 0.08, torch.device("cpu"))
    Snapshots(run / "snapshots" / "second").rewind(0)
    with pytest.raises(FileNotFoundError, match="no snapshots"):
        load(run, "average", 0.08, torch.device("cpu"))
