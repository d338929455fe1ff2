"""Help with a command line: all words, or one word with what it takes.

    python train.py --help                          what the entry point does, and its words
    python train.py --help prior=diffusion          a word: the header of its yaml, and each argument with its type, its
                                                    default, and what its class's docstring says of it
    python train.py --help first.optimizer.lr       an argument by its place, in the config that the other words compose

All of it is read off conf/ and off the sources of the classes (`ldm.signature`).
"""

from __future__ import annotations

import ast
import inspect
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ldm import plugins
from ldm.build import arguments_of, is_node
from ldm.command.grammar import given_folders
from ldm.command.words import Known
from ldm.nearest import nearest
from ldm.resolve import resolve
from ldm.signature import Argument, Declared, declared, documented, summary

Compose = Callable[[Sequence[str]], Mapping[str, Any]]


def help_text(words: Sequence[str], conf: Path, entry: str, compose: Compose) -> str:
    """What there is to say of the words of a command line, at the width of the terminal.

    Arguments:
        words: as Hydra is given them, `--help` among them perhaps; keys alone, too.
        compose: the plain config of words that are `key=value`.
    Raises:
        KeyError: there is no such place.
    """
    folders = given_folders(words)
    asked = [word for word in words if not word.startswith("-") and word not in folders]
    known = Known(conf, entry, folders)
    if not asked:
        return wrapped(_as_called(_overview(known)))
    given = [word for word in asked if "=" in word]
    return wrapped(_as_called("\n".join(_word(word, known, lambda: compose(given)) for word in asked)))


def _as_called(text: str) -> str:
    """`ldm train` for `python train.py`, where this process was called so."""
    called = Path(sys.argv[0])
    by_name = called.name == "ldm" or called.parts[-2:] == ("ldm", "__main__.py")
    return re.sub(r"python (train|sample|evaluate)\.py", r"ldm \1", text) if by_name else text


# One word


def _word(word: str, known: Known, config: Callable[[], Mapping[str, Any]]) -> str:
    key, equals, choice = word.lstrip("+").partition("=")
    group, _, place = key.partition("@")
    if group in known.groups:
        place = place or group.replace("/", ".")
        return "\n".join(_chosen(known, group, place, choice) if equals else _choices(known, group))
    said = known.plain.get(key)
    if said is not None:
        return f"{key} = {said[0]}\n    {said[1]}"
    return "\n".join(_place(config(), key))


def _choices(known: Known, group: str) -> Iterator[str]:
    """The words of a group, each with how its yaml begins."""
    yield f"{group}="
    for name in sorted(known.choices(group)):
        yield f"  {name}"
        yield from (f"      {line.partition('. ')[0]}" for line in _header(known.file(group, name))[:1])


def _chosen(known: Known, group: str, place: str, choice: str) -> Iterator[str]:
    file = known.file(group, choice)
    text = file.read_text(encoding="utf-8")
    yield f"{group}={choice}"
    yield from (f"    {line}" for line in _header(file))
    yield ""
    content = yaml.safe_load(text) or {}
    content.pop("defaults", None)
    nodes = list(_nodes(content, place))
    for spot, node in nodes:
        yield from _node(spot, node)
    if not nodes:
        yield from ("    " + line for line in text.splitlines() if not line.startswith("#"))
        yield ""


def _header(file: Path) -> list[str]:
    """What a yaml says of itself, the comment that it begins with: a line each for a sentence that goes on and for a command."""
    found: list[str] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        said = line.lstrip("# ")
        if said.startswith("@package"):
            continue
        if found and not said.startswith("python ") and not found[-1].startswith("python "):
            found[-1] = f"{found[-1]} {said}"
        else:
            found.append(said)
    return found


def _place(config: Mapping[str, Any], key: str) -> Iterator[str]:
    """What stands at a dotted place, or can be set there."""
    value, argument, spot = config, None, ""
    for part in key.split("."):
        takes = _declared(value["_target_"]) if is_node(value) else None
        known = list(value) if isinstance(value, Mapping) else []
        argument = takes.arguments.get(part) if takes else None
        if argument is None and part not in known:
            there = list(takes.arguments) if takes else known
            raise KeyError(f"{key}: nothing has the name {part} in {spot or 'this config'}{nearest(part, there)}")
        spot = f"{spot}.{part}".lstrip(".")
        above, value = value, value[part] if part in known else None
    if argument is not None:
        yield from _argument(spot, argument, arguments_of(above))
    nodes = list(_nodes(value, key))
    for place, node in nodes:
        yield from _node(place, node)
    if argument is None and not nodes:
        yield f"{key} = {_shown(value)}\n"


def _nodes(value: Any, place: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The outermost nodes in a plain value, each with its place."""
    if is_node(value):
        yield place, value
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from _nodes(each, f"{place}.{key}")


def _node(place: str, node: Mapping[str, Any]) -> Iterator[str]:
    takes = _declared(node["_target_"])
    yield f"{place}: {node['_target_']}"
    if takes is None:
        return
    yield from (f"    {line}" for line in [summary(takes.doc)] if line)
    yield ""
    for name, argument in takes.arguments.items():
        yield from _argument(f"{place}.{name}", argument, arguments_of(node))


def _argument(spot: str, argument: Argument, given: Mapping[str, Any]) -> Iterator[str]:
    kind = "" if argument.annotation is None else f": {ast.unparse(argument.annotation)}"
    default = "" if argument.default is None else f" = {_shown(argument.value())}"
    here = f"   (here {_shown(given[argument.name])})" if argument.name in given else ""
    yield f"{spot}{kind}{default}{here}"
    yield f"    {argument.doc}"
    yield ""


def _shown(value: Any) -> str:
    if is_node(value):
        return value["_target_"]
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_shown(each)}" for key, each in value.items()) + "}"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _declared(path: str) -> Declared | None:
    """What a class takes; of a library's, whose docstring need not stand in its source, with what the class itself says."""
    found = declared(path)
    if found is None or plugins.within(path, ("ldm", *plugins.known())) or documented(found.doc):
        return found
    own = resolve(path)
    said = documented(inspect.getdoc(own) or "")
    arguments = {
        name: Argument(name, each.annotation, each.default, each.module, said.get(name, ""))
        for name, each in found.arguments.items()
    }
    return Declared(found.name, arguments, found.free, found.doc or inspect.getdoc(own) or "")


# All words


def _overview(known: Known) -> str:
    template = yaml.safe_load(known.text)["hydra"]["help"]["template"]
    groups = [f"  {group}: {', '.join(sorted(known.choices(group)))}" for group in sorted(known.groups)]
    plain = [f"  {name}={value}   {said}" for name, (value, said) in known.plain.items()]
    return template.replace("$GROUPS", "\n".join(group for group in groups if not group.endswith(": "))).replace(
        "$WORDS", "\n".join(plain)
    )


def wrapped(text: str, width: int | None = None) -> str:
    """A text in lines of at most `width` letters, by default the terminal's; what is said of a command at its right stands
    below it where there is no room."""
    width = width or shutil.get_terminal_size((80, 24)).columns
    lines = []
    for line in text.splitlines():
        depth = len(line) - len(line.lstrip())
        command, _, said = re.sub(r"(?<=\S) {3,}(?=\S)", "\0", line).partition("\0")
        pieces = [line] if len(line) <= width or not said else [command, " " * (depth + 6) + said]
        for piece in pieces:
            inner = " " * (len(piece) - len(piece.lstrip()))
            after = inner + "    " * (piece is line and depth == 2)  # of a list
            lines += textwrap.wrap(piece, width, subsequent_indent=after, break_on_hyphens=False) or [""]
    return "\n".join(lines)
