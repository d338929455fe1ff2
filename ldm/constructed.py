"""Objects that know what they were built from, so that a model put together in Python can be saved as one of a config can.

A node (`ldm.build`) is a class and its constructor's arguments. Of an object both are known where its class remembers what its
constructor was given; `functools.partial` of a class, or the class itself, is a node that waits for the rest.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Mapping
from pathlib import PurePath
from typing import Any

from ldm.build import Config, signature_of
from ldm.resolve import ConfigError


class _Remembers:
    _given: tuple[tuple[Any, ...], Mapping[str, Any]]

    def __new__(cls, *arguments: Any, **named: Any) -> _Remembers:
        self = super().__new__(cls)
        object.__setattr__(self, "_given", (arguments, named))  # a frozen dataclass takes no attributes
        return self


class Constructed(_Remembers):
    """A class whose objects remember what their constructor was given. The bases of a model's parts are of this kind, so that
    classes derived from them are, too."""

    def __init__(self) -> None:
        # For classes without a constructor of their own: object's takes any arguments where there is a __new__.
        super().__init__()


def node_of(value: Any, where: str, leave: Collection[str] = ()) -> Any:
    """The node, or the plain value, from which `ldm.build` makes such an object again.

    An argument that the object has as an attribute of the same name and kind is what it is by now, any other what the
    constructor was given.

    Arguments:
        leave: arguments of the object itself that are left out.
    Raises:
        ConfigError: the object, at the place `where`, does not know what it was built from, or is of a class that no
            config can name.
    """
    if isinstance(value, Constructed):
        now = {name: each for name, each in _arguments(value).items() if name not in leave}
        return _node(type(value), now, where)
    if isinstance(value, functools.partial):
        return {**_node(value.func, _bound(value), where), "_partial_": True}
    if inspect.isclass(value):
        return {**_node(value, {}, where), "_partial_": True}
    if isinstance(value, Mapping):
        return {key: node_of(each, f"{where}.{key}") for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [node_of(each, f"{where}[{i}]") for i, each in enumerate(value)]
    if isinstance(value, PurePath):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ConfigError(
        f"{where}: {_shown(value)} does not know what it was built from, so it cannot be saved. Derive its class from a base of "
        "ldm's or from ldm.constructed.Constructed, give functools.partial(CLASS, ...) in the place of a function, or hand "
        "the model's nodes to save(folder, config)"
    )


def _arguments(value: Constructed) -> dict[str, Any]:
    """What the constructor was given, and what of its arguments is another by now."""
    arguments, named = value._given
    bound = signature_of(type(value)).bind(*arguments, **named)
    given = set(bound.arguments)
    bound.apply_defaults()
    now = {name: _by_now(value, name, each) for name, each in bound.arguments.items()}
    return {name: each for name, each in now.items() if name in given or each is not bound.arguments[name]}


def _by_now(value: Constructed, name: str, given: Any) -> Any:
    found = getattr(value, name, given)
    return found if isinstance(found, Constructed) or type(found) is type(given) else given


def _bound(waits: functools.partial) -> dict[str, Any]:
    """The arguments that a partial holds, by their names."""
    return dict(signature_of(waits.func).bind_partial(*waits.args, **waits.keywords).arguments)


def _node(target: Callable[..., Any], arguments: Mapping[str, Any], where: str) -> Config:
    if not inspect.isclass(target) or target.__module__ == "__main__" or target.__qualname__ != target.__name__:
        raise ConfigError(
            f"{where}: {_shown(target)} is no class at the top of a package's module, so no file can name it. Put it into one "
            "that is then named as a plugin (plugins=)"
        )
    nodes = {name: node_of(each, f"{where}.{name}") for name, each in arguments.items()}
    return {"_target_": f"{target.__module__}.{target.__name__}", **nodes}


def _shown(value: Any) -> str:
    kind = value if inspect.isclass(value) or inspect.isroutine(value) else type(value)
    return f"{kind.__module__}.{kind.__qualname__}"
