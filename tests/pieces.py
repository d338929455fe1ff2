"""The config tree as test matrix: every yaml of a group, as something to build."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from ldm.build import build

CONF = Path(__file__).parents[1] / "conf"


def pieces(group: str) -> dict[str, Callable[..., Any]]:
    """name -> a function that builds conf/<group>/<name>.yaml, handing on what only a run knows."""
    found = {}
    for file in sorted((CONF / group).glob("*.yaml")):
        node = yaml.safe_load(file.read_text(encoding="utf-8"))
        node.pop("defaults", None)  # further files, which Hydra reads
        found[file.stem] = lambda node=node, **given: build(node, **given)
    assert found, f"no config in {group}"
    return found
