"""From a plain config to objects, safely: the signature of a constructor is the schema of its config.

A node is a mapping with `_target_: ldm.prior.normal.Normal`. Its other keys are arguments of the constructor, and may be nodes
themselves. With `_partial_: true` a node becomes a callable that takes the remaining arguments. Before anything is built, every
node is bound to the signature of its class and every plain value is checked against its annotation. So a misspelt key, or a
word in place of a number, is an error at the start, which names the key, the value, and the most similar right one.
"""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from ldm.nearest import similar
from ldm.resolve import Allowed, ConfigError, resolve

Config = dict[str, Any]


def is_node(value: Any) -> bool:
    """Whether a value describes an object: a mapping with `_target_`."""
    return isinstance(value, Mapping) and "_target_" in value


def _annotations(target: type) -> dict[str, Any]:
    try:
        return typing.get_type_hints(target.__init__, include_extras=True)
    except NameError:  # an annotation of a third party that only its type checker can evaluate
        return {}


@functools.lru_cache(maxsize=4096)
def _adapter(annotation: Any) -> TypeAdapter:
    try:
        return TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True))
    except Exception as error:  # pydantic's own types refuse a config
        if "config" not in str(error):
            raise
        return TypeAdapter(annotation)


def holds_node(value: Any) -> bool:
    """Whether a value is a node or contains one."""
    if is_node(value):
        return True
    if isinstance(value, Mapping):
        return any(map(holds_node, value.values()))
    return isinstance(value, list | tuple) and any(map(holds_node, value))


def _classes(annotation: Any) -> list[type]:
    """The classes that an annotation allows; none where that is not known."""
    if inspect.isclass(annotation) and typing.get_origin(annotation) is None:
        return [annotation]
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [c for part in typing.get_args(annotation) for c in (_classes(part) or [object])]
    return []


def plain(value: Any, annotation: Any, where: str) -> Any:
    """A value converted to its annotation; ConfigError with the place `where`, what was given, and what was expected."""
    try:
        return _adapter(annotation).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        spot = ".".join([where, *map(str, first["loc"])]) if len(error.errors()) == 1 else where
        hint = ""
        if first["type"] in ("is_instance_of", "callable_type"):  # where a class is wanted
            hint = "; name its class in _target_" + (
                "" if isinstance(value, Mapping) else f", as {spot}._target_=CLASS"
            )
        raise ConfigError(f"{spot}: {first['msg']}; got {value!r}{hint}") from None


def typed(function: Callable[..., Any], words: Config) -> Config:
    """Named values converted to the annotations of a function's arguments; ConfigError names the first that cannot be."""
    hints = typing.get_type_hints(function, include_extras=True)
    return {name: plain(value, hints[name], name) for name, value in words.items()}


def check(config: Any, where: str = "config", given: tuple[str, ...] = (), allowed: Allowed = None) -> None:
    """Bind every node below `config` to its signature; raise ConfigError at the first that does not fit.

    Arguments:
        config: a node, or lists and mappings of nodes.
        where: the place of the config, for messages.
        given: names of arguments of the outermost node that `build` will be given in addition.
        allowed: the packages whose classes may be named.
    """
    if is_node(config):
        _bind(config, where, given, allowed)
    elif isinstance(config, Mapping):
        for key, value in config.items():
            check(value, f"{where}.{key}", allowed=allowed)
    elif isinstance(config, list | tuple):
        for i, value in enumerate(config):
            check(value, f"{where}[{i}]", allowed=allowed)


def arguments_of(node: Mapping) -> Config:
    """The arguments in a node."""
    return {key: value for key, value in node.items() if key not in ("_target_", "_partial_")}


def no_such_argument(spot: str, name: str, known: Iterable[str]) -> str:
    """The message about an argument at `spot` that the class `name` does not have; `known` are those that it has."""
    near = similar(spot.rpartition(".")[2], known := list(known))
    hint = f"; did you mean {near}?" if near else f"; it takes {', '.join(known) or 'none'}"
    return f"{spot}: {name} has no such argument{hint}"


def signature_of(target: Callable[..., Any]) -> inspect.Signature:
    """The arguments of a class or a function.

    Of a class they are those of the nearest constructor, as Python itself calls it; `inspect.signature` of Python 3.11.2 (Debian
    12) takes an inherited `__new__` before an inherited `__init__`, whichever is nearer, and then says that anything is taken.
    """
    if not inspect.isclass(target):
        return inspect.signature(target)
    nearest = next(base for base in target.__mro__ if {"__new__", "__init__"} & vars(base).keys())
    if "__new__" in vars(nearest) or not inspect.isfunction(target.__init__):
        return inspect.signature(target)
    found = inspect.signature(target.__init__)
    return found.replace(parameters=[*found.parameters.values()][1:])


def _bind(node: Mapping, where: str, given: tuple[str, ...], allowed: Allowed) -> tuple[type, Config]:
    """The node's class and its arguments, plain values converted and nodes left as they are."""
    target = resolve(node["_target_"], where, allowed)
    signature, hints = signature_of(target), _annotations(target)
    named = {
        name: parameter
        for name, parameter in signature.parameters.items()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }
    free = any(p.kind == p.VAR_KEYWORD for p in signature.parameters.values())
    partial = plain(node.get("_partial_", False), bool, f"{where}._partial_")
    arguments = arguments_of(node)
    for key in arguments:
        if key not in named and not free:
            raise ConfigError(no_such_argument(f"{where}.{key}", target.__name__, named))
    for name in _missing(named.values(), {*arguments, *given}):
        if not partial:
            raise ConfigError(f"{where}.{name}: {target.__name__} needs this argument and it is not given")
    for key, value in arguments.items():
        arguments[key] = _checked(value, hints.get(key, Any), f"{where}.{key}", target, allowed)
    return target, arguments


def _checked(value: Any, annotation: Any, spot: str, target: type, allowed: Allowed) -> Any:
    """What stands at `spot` among the arguments of `target`: plain values converted, nodes checked and left as they are, in
    mappings and lists, too."""
    if is_node(value):
        if typing.get_origin(annotation) is Callable:
            _check_waits(value, spot, target, allowed)
        check(value, spot, allowed=allowed)
        _fits(value, annotation, spot, target, allowed)
        return value
    if not holds_node(value):
        return plain(value, annotation, spot)
    element = _element(annotation)
    if isinstance(value, Mapping):
        for key, each in value.items():
            if each in (None, "none") and element is not Any:
                raise ConfigError(f"{spot}.{key}={'null' if each is None else each}: to leave it out say ~{spot}.{key}")
        return {key: _checked(each, element, f"{spot}.{key}", target, allowed) for key, each in value.items()}
    return [_checked(each, element, f"{spot}[{i}]", target, allowed) for i, each in enumerate(value)]


def _element(annotation: Any) -> Any:
    """The annotation of what a mapping or a sequence holds; Any where that is not known or not the same for all."""
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if not inspect.isclass(origin):
        return Any
    if issubclass(origin, Mapping):
        return parts[1]
    alike = len(parts) == 1 or parts[1:] == (...,)
    return parts[0] if issubclass(origin, Sequence) and alike else Any


def _missing(parameters: Iterable[inspect.Parameter], given: Set[str]) -> list[str]:
    """The names of those that have no default and are not given."""
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = (each for each in parameters if each.default is each.empty and each.kind not in variable)
    return [each.name for each in needed if each.name not in given]


def _check_waits(node: Mapping, spot: str, target: type, allowed: Allowed) -> None:
    """ConfigError where a node whose last arguments `target` gives, as a prior those of its network, forgot `_partial_`."""
    kind = resolve(node["_target_"], spot, allowed)
    missing = _missing(signature_of(kind).parameters.values(), set(node))
    if missing and not node.get("_partial_"):
        raise ConfigError(
            f"{spot}: {kind.__name__} waits for {', '.join(missing)}, which {target.__name__} gives; "
            "add _partial_: true beside its _target_"
        )


def _fits(node: Mapping, annotation: Any, spot: str, target: type, allowed: Allowed) -> None:
    """ConfigError where what the node builds is not of the class that the annotation wants."""
    wanted = tuple(_classes(annotation))
    kind = functools.partial if node.get("_partial_") else resolve(node["_target_"], spot, allowed)
    if not wanted or issubclass(kind, wanted):
        return
    names, waits = " or ".join(c.__name__ for c in wanted), " with _partial_" if node.get("_partial_") else ""
    raise ConfigError(f"{spot}: {target.__name__} wants a {names} here, got {node['_target_']}{waits}")


def build(config: Any, where: str = "config", allowed: Allowed = None, **given: Any) -> Any:
    """Build the object that a node describes, children first; lists and mappings of nodes keep their form.

    Arguments:
        config: a node, or lists and mappings of nodes.
        where: the place of the config, for messages.
        allowed: the packages whose classes may be named.
        given: further arguments of the outermost node, which only the running program knows, as shapes.
    """
    if is_node(config):
        check(config, where, tuple(given), allowed)
        target, arguments = _bind(config, where, tuple(given), allowed)
        arguments = {k: build(v, f"{where}.{k}", allowed) if holds_node(v) else v for k, v in arguments.items()}
        arguments |= given
        return functools.partial(target, **arguments) if config.get("_partial_") else target(**arguments)
    if isinstance(config, Mapping):
        return {key: build(value, f"{where}.{key}", allowed) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return [build(value, f"{where}[{i}]", allowed) for i, value in enumerate(config)]
    return config


def described(node: Config, leave: tuple[str, ...] = (), allowed: Allowed = None) -> str:
    """A node in a word: its class in lower case and, in brackets, the arguments that are not the default, in the order of
    the signature; those to `leave` are left out at every depth. Two nodes of the same word build the same."""
    target, arguments = _bind(node, "config", (), allowed)
    parameters = signature_of(target).parameters
    words = []
    for name in sorted(arguments, key=list(parameters).index):
        if name not in leave and arguments[name] != parameters[name].default:
            words.append(f"{name}={_word(arguments[name], leave, allowed)}")
    return target.__name__.lower() + (f"({', '.join(words)})" if words else "")


def _word(value: Any, leave: tuple[str, ...], allowed: Allowed) -> str:
    if is_node(value):
        return described(value, leave, allowed)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_word(each, leave, allowed) for each in value) + "]"
    if isinstance(value, float):
        return f"{value:.12g}"
    return str(value).lower() if isinstance(value, bool) else str(value)


def merged(own: Any, given: Any) -> Any:
    """`own` with the arguments that are given, at any depth; a node that is given takes the place of one."""
    if is_node(given) or not isinstance(given, Mapping) or not isinstance(own, Mapping):
        return given
    return {**own, **{name: merged(own.get(name), value) for name, value in given.items()}}
