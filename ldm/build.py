"""From a plain config to objects, safely: the signature of a constructor is the schema of its config.

A node is a mapping with `_target_: ldm.prior.normal.Normal`. Its other keys are arguments of the constructor, and may be nodes
themselves. With `_partial_: true` a node becomes a callable that takes the remaining arguments. Before anything is built, every
node is bound to the signature of its class and every plain value is checked against its annotation. So a misspelt key, or a
word in place of a number, is an error at the start, which names the key, the value, and the most similar right one.

A config can come from a stranger's run, so it can name only classes, of `PACKAGES` and of plugins (`ldm.plugins`), and a
class is judged by where it was defined and not by the path that led to it (`ldm.data.folder.os.system` is `posix`'s).

An argument `allowed` lists the packages that may be built from: None is `PACKAGES` and every plugin, for what users write
themselves; with a list, for what comes from a file, plugins count only where the user has named them.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
import pkgutil
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Set
from importlib.machinery import PathFinder
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from ldm import plugins
from ldm.plugins import within

# Of Lightning what a trainer is made of and what watches it; its command line would build whatever its arguments name.
_LIGHTNING = tuple(
    f"lightning.pytorch.{name}" for name in ("trainer", "callbacks", "strategies", "plugins", "profilers")
)
PACKAGES = ("ldm", "torch.optim", "torchmetrics", *_LIGHTNING)

Config = dict[str, Any]
Allowed = tuple[str, ...] | None


class ConfigError(ValueError):
    """A config that cannot be built; the message says where, what was given, and what was expected."""


def is_node(value: Any) -> bool:
    """Whether a value describes an object: a mapping with `_target_`."""
    return isinstance(value, Mapping) and "_target_" in value


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
        hint = (
            "; name its class in _target_" if isinstance(value, Mapping) and first["type"] == "is_instance_of" else ""
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
        spot, annotation = f"{where}.{key}", hints.get(key, Any)
        if not holds_node(value):
            arguments[key] = plain(value, annotation, spot)
            continue
        if is_node(value) and typing.get_origin(annotation) is Callable:
            _check_waits(value, spot, target, allowed)
        check(value, spot, allowed=allowed)
        if is_node(value):
            _fits(value, annotation, spot, target, allowed)
    return target, arguments


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


def nearest(word: str, known: Iterable[str], there: str = "There are") -> str:
    """The end of a message about an unknown word: the most similar known word, and then all of them, those of a set sorted."""
    known = sorted(known) if isinstance(known, Set) else list(known)
    near = similar(word, known)
    return (f"; did you mean {near}?" if near else ".") + f" {there} {', '.join(known)}"


def similar(word: str, known: Iterable[str]) -> str | None:
    """The known word that is the most like this one, whatever its capitals; None where none is like it."""
    small = {each.casefold(): each for each in known}
    near = difflib.get_close_matches(word.casefold(), small, 1)
    return small[near[0]] if near else None


def merged(own: Any, given: Any) -> Any:
    """`own` with the arguments that are given, at any depth; a node that is given takes the place of one."""
    if is_node(given) or not isinstance(given, Mapping) or not isinstance(own, Mapping):
        return given
    return {**own, **{name: merged(own.get(name), value) for name, value in given.items()}}
