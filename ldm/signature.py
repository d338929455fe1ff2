"""The arguments of a class, read from its source, so that wrong arguments are reported and help is given without importing
anything large.

A config names classes in modules that import torch, and this takes seconds. But the arguments of a constructor, their types,
their defaults and their descriptions are in its source, and reading a file takes milliseconds. What cannot be decided from the
source (as a class of another package with a computed name, or an annotation of tensors) is left to `ldm.build`, which checks
everything again on the classes themselves.
"""

from __future__ import annotations

import ast
import functools
import importlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ldm.build import arguments_of, holds_node, is_node, no_such_argument, plain
from ldm.plugins import located, within
from ldm.resolve import ConfigError, packages

PIECES = ("backbone", "diffusion")
"""Nodes of a run's config that exist only to be referred to, by the node of the prior."""
BESIDE = {"autoencoder": ("checkpoint", "train"), "prior": ("checkpoint", "weights", "statistics")}
"""Keys of a part of the config that are not arguments of its class."""

_BARE = ("ABC", "Generic", "Module", "Protocol", "object")  # bases whose constructors take no arguments
_LIGHT = ("builtins", "collections.abc", "pathlib", "pydantic", "typing")  # whose names an annotation may be read by


@dataclass(frozen=True)
class Argument:
    """One argument of a constructor.

    Fields:
        name: of the argument.
        annotation, default: as they stand in the source; None for a default means that there is none, so that the argument
            has to be given.
        module: the name of the module that they stand in.
        doc: what the docstring says about it, in one line.
    """

    name: str
    annotation: ast.expr | None
    default: ast.expr | None
    module: str
    doc: str = ""

    def kind(self) -> Any:
        """The annotation as a type; `Any` where it contains a name that is known only by importing its package."""
        return Any if self.annotation is None else _evaluated(self.annotation, self.module, Any)

    def value(self) -> Any:
        """The default as a value where it is a plain one, else its source."""
        return _evaluated(self.default, self.module, ast.unparse(self.default))


@dataclass(frozen=True)
class Declared:
    """The arguments of a class.

    Fields:
        name: of the class.
        arguments: by their names.
        free: whether it takes further arguments by any name.
        doc: the docstring of the class, or that of its module where the class has none.
    """

    name: str
    arguments: Mapping[str, Argument]
    free: bool
    doc: str


def check(config: Any, where: str = "", beside: tuple[str, ...] = ()) -> None:
    """Raise ConfigError at the first node in a config with an argument that its class does not have, or with a plain value of
    the wrong type, as far as this is known from the sources.

    Arguments:
        config: a node, or lists and mappings of nodes.
        where: the place of the config, for messages.
        beside: keys of this node that are not checked.
    """
    if is_node(config):
        _check_node(config, where, beside)
    pairs = config.items() if isinstance(config, Mapping) else enumerate(config) if isinstance(config, list) else ()
    for key, value in pairs:
        spot = f"{where}[{key}]" if isinstance(config, list) else f"{where}.{key}".lstrip(".")
        check(value, spot, () if where else BESIDE.get(key, ()))


def _check_node(node: Mapping, where: str, beside: tuple[str, ...]) -> None:
    found = declared(node["_target_"])
    if found is None:
        return
    for key, value in arguments_of(node).items():
        argument, spot = found.arguments.get(key), f"{where}.{key}".lstrip(".")
        if argument is not None:
            if not holds_node(value):
                plain(value, argument.kind(), spot)
        elif not found.free and key not in beside:
            raise ConfigError(no_such_argument(spot, found.name, found.arguments))


def declared(path: Any) -> Declared | None:
    """What the class at a dotted path takes; None where its source does not tell, or a config may not name it."""
    if not isinstance(path, str) or not within(path, packages()):
        return None
    module, _, name = path.rpartition(".")
    found = _find(module, name)
    return _read(*found) if found is not None and isinstance(found[1], ast.ClassDef) else None


# Classes


def _read(module: str, node: ast.ClassDef) -> Declared:
    read = {_name(each): _base(module, each) for each in node.bases}
    bases = [base for base in read.values() if base is not None]
    doc = ast.get_docstring(node) or ""
    constructor = next((each for each in node.body if getattr(each, "name", None) == "__init__"), None)
    free = False
    if isinstance(constructor, ast.FunctionDef):
        arguments = {each.name: each for each in _parameters(constructor, module)}
        free = constructor.args.kwarg is not None
        doc = "\n\n".join(filter(None, [doc, ast.get_docstring(constructor)]))
    elif any(_called(each) == "dataclass" for each in node.decorator_list):
        arguments = {name: each for base in reversed(bases) for name, each in base.arguments.items()}
        arguments |= {each.name: each for each in _fields(node, module)}
    else:
        first = next((base for base in bases if base.arguments or base.free), None)
        hidden = bool(node.decorator_list) or any(base is None and name not in _BARE for name, base in read.items())
        arguments, free = (first.arguments, first.free) if first else ({}, hidden)
    said = documented(doc)
    doc = doc if summary(doc) else _syntax(module)["__doc__"]
    inherited = {name: each.doc for base in reversed(bases) for name, each in base.arguments.items()}
    described = {
        name: Argument(name, each.annotation, each.default, each.module, said.get(name) or inherited.get(name, ""))
        for name, each in arguments.items()
    }
    return Declared(node.name, described, free, doc)


def _base(module: str, node: ast.expr) -> Declared | None:
    """What a base class of ours or of a plugin takes; None where that is not read."""
    found = _find(module, node.id) if isinstance(node, ast.Name) else None
    own = found is not None and within(found[0], packages()) and isinstance(found[1], ast.ClassDef)
    return _read(*found) if own else None


def _parameters(constructor: ast.FunctionDef, module: str) -> Iterator[Argument]:
    every = constructor.args
    placed = [*every.posonlyargs, *every.args]
    defaults = [None] * (len(placed) - len(every.defaults)) + every.defaults
    for each, default in [
        *zip(placed[1:], defaults[1:], strict=True),
        *zip(every.kwonlyargs, every.kw_defaults, strict=True),
    ]:
        yield Argument(each.arg, each.annotation, default, module)


def _fields(node: ast.ClassDef, module: str) -> Iterator[Argument]:
    for each in node.body:
        if not isinstance(each, ast.AnnAssign) or "ClassVar" in ast.unparse(each.annotation):
            continue
        default = each.value
        if _called(default) == "field":
            words = {word.arg: word.value for word in default.keywords}
            default = words.get("default") or words.get("default_factory")
        yield Argument(each.target.id, each.annotation, default, module)


def _called(node: ast.expr | None) -> str:
    """The name of what a decorator or a default calls."""
    return "" if node is None else _name(node.func if isinstance(node, ast.Call) else node)


def _name(node: ast.expr) -> str:
    """The last part of a dotted name; of `Generic[T]` that of Generic."""
    node = node.value if isinstance(node, ast.Subscript) else node
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def summary(doc: str) -> str:
    """The first paragraph of a docstring, in one line; empty where it begins with the arguments."""
    return " ".join(re.split(r"\n\s*\n|\n\s*\w+:\n", f"\n{doc}\n")[0].split())


def documented(doc: str) -> dict[str, str]:
    """What a docstring says about each argument, in one line each."""
    found, names, depth = {}, [], 0
    for line in doc.splitlines():
        indent = len(line) - len(line.lstrip())
        if re.fullmatch(r"\s*(Args|Arguments|Fields|Parameters):\s*", line):
            names, depth = [], indent + 1
        elif depth and line.strip() and indent < depth:
            depth = 0
        elif depth and line.strip():
            depth = indent if depth == 1 or not found else depth
            entry = re.fullmatch(r"\s*((?:\w+, )*\w+)(?: \([^)]*\))?:\s*(.*)", line) if indent <= depth else None
            if entry:
                names = entry[1].split(", ")
                found |= dict.fromkeys(names, entry[2].strip())
            else:
                found |= {name: f"{found[name]} {line.strip()}".strip() for name in names}
    return found


# Names


@functools.cache
def _syntax(module: str) -> dict[str, Any]:
    """The top-level names of a module, and `__doc__`. For a class or a value it is the syntax tree, for an imported name
    (module, name). Without a source there are no names."""
    file = _file(module)
    tree = ast.parse("" if file is None else file.read_text(encoding="utf-8"))
    names: dict[str, Any] = {"__doc__": ast.get_docstring(tree) or ""}
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            names[node.name] = node
        elif isinstance(node, ast.AnnAssign | ast.Assign) and node.value is not None:
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Name):
                    names[target.id] = node.value
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                names[alias.asname or alias.name] = (_imported_from(node, module), alias.name)
    return names


def _imported_from(node: ast.ImportFrom, module: str) -> str:
    """The module whose name an import statement of `module` takes, be it relative."""
    if not node.level:
        return node.module
    spec, parts = located(module), module.split(".")
    own = spec is not None and spec.submodule_search_locations is not None  # a package is its own first parent
    above = node.level - own
    return ".".join([*parts[: len(parts) - above], *([node.module] if node.module else [])])


def _file(module: str) -> Path | None:
    """The source of a module, found without importing the packages that it is in."""
    spec = located(module)
    return Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None


def _find(module: str, name: str) -> tuple[str, ast.AST] | None:
    """The module that defines a name and the syntax tree of the name, found by following imports."""
    found = _syntax(module).get(name)
    if isinstance(found, tuple):
        return _find(*found) if found != (module, name) else None
    return None if found is None or name == "__doc__" else (module, found)


class _Unknown(Exception):
    """A name whose value is known only by an import."""


class _Names(dict):
    """The values of the names in a module, as far as they are known from sources."""

    def __init__(self, module: str):
        super().__init__()
        self.module = module

    def __missing__(self, name: str) -> Any:
        here = _syntax(self.module).get(name)
        origin, source = here if isinstance(here, tuple) else ("builtins", name)
        if here is None or (isinstance(here, tuple) and origin in _LIGHT):
            found = getattr(importlib.import_module(origin), source, _Unknown)
        elif isinstance(here, tuple):
            found = _value_of(origin, source)
        else:
            found = _value_of(self.module, name)
        if found is _Unknown:
            raise _Unknown(name)
        return found


def _value_of(module: str, name: str) -> Any:
    found = _find(module, name)
    if found is None or not isinstance(found[1], ast.expr):
        return _Unknown
    return _evaluated(found[1], found[0], _Unknown)


def _evaluated(source: ast.expr, module: str, otherwise: Any) -> Any:
    """The value of an expression of plain values and of names in the modules of `_LIGHT`; `otherwise` where it contains another
    name."""
    try:
        return eval(compile(ast.Expression(source), module, "eval"), {"__builtins__": {}}, _Names(module))
    except _Unknown:
        return otherwise
