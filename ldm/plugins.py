"""Plugins: packages beside ldm whose classes a config may build, and whose `conf/` holds further words.

    named       plugins=[mynets] on a command line, or LDM_PLUGINS="mynets theirs" in the environment
    installed   a package that declares the entry point group `ldm.plugins`
    beside      the folder my_ldm/ in the working directory

The words and the nodes that users write themselves may use all three. A file may come from a stranger, and to build a class is to
run its package's code, so what is loaded from a file (`LatentModel.load`, the config of a finished run) builds classes of *named*
plugins only: that a package is installed, or lies in the working directory, is no consent to run it for any file that asks for
it. No file names a plugin.

Names are kept in the environment, so that ranks, data workers and jobs of a sweep have the same plugins as their parent.
"""

from __future__ import annotations

import difflib
import functools
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

ENVIRONMENT = "LDM_PLUGINS"
GROUP = "ldm.plugins"
BESIDE = "my_ldm"


def named() -> tuple[str, ...]:
    """The packages that this process's user has named."""
    return tuple(dict.fromkeys(os.environ.get(ENVIRONMENT, "").replace(",", " ").split()))


def known() -> tuple[str, ...]:
    """All plugins: named, installed, beside."""
    beside = (BESIDE,) if Path(BESIDE).is_dir() else ()
    return tuple(dict.fromkeys((*named(), *installed(), *beside)))


@functools.cache
def installed() -> Mapping[str, str]:
    """The packages of the entry point group, each with its distribution's version. None of them is imported."""
    points = importlib.metadata.entry_points(group=GROUP)
    return {point.module: point.dist.version for point in points if point.dist is not None}


def name(packages: Iterable[str]) -> None:
    """Name plugins for this process and those that it starts; ValueError where one is not there."""
    packages = list(packages)
    for package in packages:
        _check(package)
    os.environ[ENVIRONMENT] = " ".join(dict.fromkeys((*named(), *packages)))


def check_named() -> None:
    """ValueError where a plugin that the environment names is not there."""
    for package in named():
        _check(package)


def _check(package: str) -> None:
    if not all(part.isidentifier() for part in package.split(".")):
        raise ValueError(f"plugin {package}: wanted the name of a package, as mynets")
    if located(package) is None and _here(package.partition(".")[0]) is None:
        near = difflib.get_close_matches(package, set(known()) - {package}, 1)
        hint = f"; did you mean {near[0]}?" if near else "; it is looked for among the installed packages and here"
        raise ValueError(f"plugin {package}: there is no such package{hint}")


def within(path: str, packages: Iterable[str]) -> bool:
    """Whether a dotted name is of one of the packages."""
    return any(path == package or path.startswith(package + ".") for package in packages)


def targets(config: Any) -> Iterator[str]:
    """The dotted names of the classes that the nodes below a plain config build."""
    if isinstance(config, Mapping):
        if isinstance(config.get("_target_"), str):
            yield config["_target_"]
        config = config.values()
    elif not isinstance(config, list | tuple):
        return
    for value in config:
        yield from targets(value)


def needed(config: Any) -> tuple[str, ...]:
    """Of the plugins those whose classes a plain config builds."""
    paths = set(targets(config))
    return tuple(package for package in known() if any(within(path, (package,)) for path in paths))


def version(package: str) -> str | None:
    """The version of a package's distribution; None where it was not installed."""
    if package in installed():
        return installed()[package]
    owners = importlib.metadata.packages_distributions().get(package.partition(".")[0])
    return importlib.metadata.version(owners[0]) if owners else None


def confs() -> dict[str, Path]:
    """The folder of words of each plugin that has one."""
    found = {}
    for package in known():
        spec = located(package)
        for folder in (spec and spec.submodule_search_locations) or ():
            if (Path(folder) / "conf").is_dir():
                found[package] = Path(folder) / "conf"
    return found


def located(module: str) -> ModuleSpec | None:
    """Where a module is, found without importing the packages that it is in; None where there is none."""
    parts = module.split(".")
    spec = PathFinder.find_spec(parts[0]) or _beside(parts[0]) or _by_other_finders(parts[0])
    for i in range(1, len(parts)):
        if spec is None or spec.submodule_search_locations is None:
            return None
        spec = PathFinder.find_spec(".".join(parts[: i + 1]), list(spec.submodule_search_locations))
    return spec


def _beside(package: str) -> ModuleSpec | None:
    """A plugin's package that lies in the working directory."""
    return _here(package) if package in (BESIDE, *(each.partition(".")[0] for each in named())) else None


def _here(package: str) -> ModuleSpec | None:
    return PathFinder.find_spec(package, [os.getcwd()])


def _by_other_finders(package: str) -> ModuleSpec | None:
    """A package that an editable install finds in its own way."""
    try:
        return importlib.util.find_spec(package)
    except ValueError:  # a module that was made and not found
        return None


class _Beside:
    """The last of Python's finders: `my_ldm` and named packages in the working directory, whose other folders, as `wandb`, are
    none of Python's business."""

    @staticmethod
    def find_spec(module: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return _beside(module) if path is None else None


sys.meta_path.append(_Beside)
