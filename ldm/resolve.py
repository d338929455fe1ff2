"""Which class the `_target_` of a config names, and which classes may be named.

A config can come from a stranger's run, so it can name only classes, of `PACKAGES` and of plugins (`ldm.plugins`), and a
class is judged by where it was defined and not by the path that led to it (`ldm.data.folder.os.system` is `posix`'s).

An argument `allowed` lists the packages that may be built from: None is `PACKAGES` and every plugin, for what users write
themselves; with a list, for what comes from a file, plugins count only where the user has named them.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
import sys
import types
from collections.abc import Mapping
from importlib.machinery import PathFinder
from typing import Any

from ldm import plugins
from ldm.plugins import within

# Of Lightning what a trainer is made of and what watches it; its command line would build whatever its arguments name.
_LIGHTNING = tuple(
    f"lightning.pytorch.{name}" for name in ("trainer", "callbacks", "strategies", "plugins", "profilers")
)
PACKAGES = ("ldm", "torch.optim", "torchmetrics", *_LIGHTNING)

Allowed = tuple[str, ...] | None


class ConfigError(ValueError):
    """A config that cannot be built; the message says where, what was given, and what was expected."""


def packages(allowed: Allowed = None) -> tuple[str, ...]:
    """The packages that may be built from, plugins among them."""
    return (*PACKAGES, *plugins.known()) if allowed is None else (*allowed, *plugins.named())


def resolve(path: Any, where: str = "config", allowed: Allowed = None) -> type:
    """The class that a `_target_` names; ConfigError where it is not one of the allowed packages'.

    The path has to consist of the modules' own names, so that nothing can be reached through the imports of another module.
    Only modules on the path are imported.
    """
    spot, packs = f"{where}._target_", packages(allowed)
    if not isinstance(path, str) or not all(part.isidentifier() for part in path.split(".")):
        raise ConfigError(f"{spot}: wanted the dotted path of a class, got {path!r}")
    if not within(path, packs):
        raise ConfigError(
            f"{spot}: {path} is not allowed; a config may build only from {', '.join(packs)}{_if_plugin(path)}"
        )
    *modules, name = path.split(".")
    try:
        module = importlib.import_module(modules[0])
    except ModuleNotFoundError as error:
        raise ConfigError(f"{spot}: {path} needs the package {error.name}, which is not installed") from error
    for i in range(1, len(modules)):
        module = _submodule(module, modules[i], path, spot)
    found = vars(module).get(name)
    if found is None:
        raise ConfigError(f"{spot}: no {name} in {module.__name__}{_nearest(name, module)}")
    if not inspect.isclass(found) or not within(found.__module__, packs):
        raise ConfigError(f"{spot}: {path} is not a class of {', '.join(packs)}")
    return found


def _may_be_plugin(package: str) -> bool:
    """Whether a user may have written a package: it is neither Python's nor of those that we build from ourselves."""
    return package not in {*sys.stdlib_module_names, *(each.partition(".")[0] for each in PACKAGES)}


def _if_plugin(path: str) -> str:
    """What to do about a class that may be of a user's own package."""
    package = path.partition(".")[0]
    return f". If {package} is a package of yours, say plugins=[{package}]" if _may_be_plugin(package) else ""


def check_named(config: Any, where: str, allowed: tuple[str, ...], versions: Any = None) -> None:
    """ConfigError where nodes that come from a file need plugins that the user has not named; nothing is imported.

    Arguments:
        where: the file, for the message.
        allowed: the packages that its nodes may name without that.
        versions: which version of each plugin it was made with, by what the file says.
    """
    outside = {path.partition(".")[0] for path in plugins.targets(config) if not within(path, packages(allowed))}
    strange = set(filter(_may_be_plugin, outside))
    if not strange:
        return
    made = versions if isinstance(versions, Mapping) else {}
    said = ", ".join(f"{each} {made[each]}" if made.get(each) else each for each in sorted(strange))
    words = ",".join(sorted(strange))
    raise ConfigError(
        f"{where} needs the plugin{'s' * (len(strange) > 1)} {said}, whose code it would run. If you trust both, say "
        f"plugins=[{words}] on the command line, {plugins.ENVIRONMENT}={words} in the environment, or plugins= of "
        "LatentModel.load"
    )


def _submodule(module: types.ModuleType, part: str, path: str, spot: str) -> types.ModuleType:
    name = f"{module.__name__}.{part}"
    spec = PathFinder.find_spec(name, getattr(module, "__path__", []))
    own = spec is not None and spec.loader is not None  # a module's file or a package, and not just a folder
    try:
        found = importlib.import_module(name) if own else vars(module).get(part)
    except ImportError as error:
        raise ConfigError(f"{spot}: {path} needs the package {error.name}, which is not installed") from error
    if found is None:
        raise ConfigError(f"{spot}: no {part} in {module.__name__}{_nearest(part, module)}")
    if not isinstance(found, types.ModuleType) or found.__name__ != name:
        raise ConfigError(f"{spot}: {path} does not lead to a class through modules alone; name it where it is defined")
    return found


def _modules(module: types.ModuleType) -> set[str]:
    """The names of the modules of a package, whether they are imported or not; slow for a large package."""
    return {each.name for each in pkgutil.iter_modules(getattr(module, "__path__", []))}


def _nearest(name: str, module: types.ModuleType) -> str:
    own = [each for each, value in vars(module).items() if inspect.isclass(value)]
    near = difflib.get_close_matches(name, {*own, *_modules(module)}, 1)
    return f"; did you mean {near[0]}?" if near else ""
