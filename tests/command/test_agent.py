"""The agent of a W&B sweep with this repository's program: what it would run, made by its own code, without the service."""

import re
from pathlib import Path

import pytest
import yaml

from ldm.command.words import heard
from tests.pieces import CONF
from tests.runs import compose

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Gives the command that the agent runs for values that its service has chosen, and the environment of it."""
    wandb_agent = pytest.importorskip("wandb.wandb_agent")
    started = []
    monkeypatch.chdir(tmp_path)
    for name in ("WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH", "WANDB_DIR"):
        monkeypatch.setenv(name, "before")
    monkeypatch.setenv("WANDB_SWEEP_ID", "s1")
    monkeypatch.setattr(wandb_agent, "AgentProcess", lambda **given: started.append(given) or type("Process", (), {})())

    def command(sweep: dict, identity: str, chosen: dict) -> dict:
        agent = wandb_agent.Agent(None, None)
        agent._sweep_command = sweep["command"]
        arguments = {key: {"value": value} for key, value in chosen.items()}
        agent._command_run({"run_id": identity, "program": sweep["program"], "args": arguments})
        return started[-1]

    return command


def documented() -> dict:
    text = (ROOT / "docs" / "command_line.md").read_text(encoding="utf-8")
    return yaml.safe_load(re.search(r"```yaml\n(program: .*?)```", text, re.DOTALL)[1])


def test_the_documented_sweep_is_of_words_that_are_there(run):
    sweep = documented()
    low, high = (sweep["parameters"]["second.optimizer.lr"][end] for end in ("min", "max"))
    assert 0 < low < high, "as numbers: YAML takes 1e-4 for a text"
    chosen = {"experiment": "shapes", "second.optimizer.lr": 0.00025, "seed": 3}
    chosen |= {"autoencoder.checkpoint": None, "backbone.multipliers": [1, 2], "second.compile": False}
    process = run(sweep, "r7", chosen)
    program = ["/usr/bin/env", "python", "train.py"]
    assert process["command"][:3] == program and process["command"][3] == "experiment=shapes"
    config = compose(*heard(process["command"][3:], CONF))
    assert (config["second"]["optimizer"]["lr"], config["seed"]) == (0.00025, 3)
    assert config["autoencoder"]["checkpoint"] is None and config["second"]["compile"] is False
    assert config["backbone"]["multipliers"] == [1, 2]


def test_the_run_of_an_agent_has_a_directory_of_its_own(run, monkeypatch):
    from ldm.logger.wandb import swept

    for identity in ("r1", "r2", "r1"):
        environment = run(documented(), identity, {"seed": 1})["env"]
        for name in ("WANDB_SWEEP_ID", "WANDB_RUN_ID"):
            monkeypatch.setenv(name, environment[name])
        assert swept() == f"s1/{identity}"
