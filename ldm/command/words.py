"""The words of a command line as Hydra is to be given them, and what is wrong with them: which words there are is read off the
files of conf/ and of plugins. Nothing here needs torch, so that a wrong word is told in a moment."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ldm import plugins
from ldm.command.grammar import (
    ALONE,
    ASIDE,
    HELP,
    PATHS,
    SWEEP,
    TEXTS,
    VALUED,
    given_folders,
    plugins_of,
    undashed,
    understood,
)
from ldm.nearest import nearest

_OF_FINISHED = {"task", "diffusion/posterior"}  # groups of a finished run alone


def heard(arguments: Sequence[str], conf: Path, entry: str = "config") -> list[str]:
    """The arguments as Hydra is to be given them; ends the process where one is wrong. Plugins are named from here on."""
    arguments = [undashed(argument) for argument in arguments]
    try:
        plugins.check_named()
        plugins.name(plugins_of(arguments))
        wrong = misspelt(arguments, conf, entry)
    except ValueError as error:  # plugins that are not there, or whose words are not their own
        sys.exit(str(error))
    if wrong:
        sys.exit(wrong)
    return [understood(argument, bool(SWEEP & set(arguments))) for argument in arguments]


def misspelt(arguments: Sequence[str], conf: Path, entry: str = "config") -> str | None:
    """What is wrong with the first argument that cannot be right, and what to type; None if all is well, as far as can be
    seen from conf/. Training takes every group, the other entry points (`entry` is their file in conf/) those that they
    name."""
    known = Known(conf, entry, given_folders(arguments))
    known.choose(arguments)
    asked, before = bool(HELP & set(arguments)), ""
    for argument in arguments:
        wrong = None if before in VALUED else _wrong(argument, before, known, asked)
        if wrong:
            return wrong
        before = argument
    for key, value in known.of_experiment:
        stray = known.stray(key, known.typed)
        if stray:
            return f"{key}={value} is of the experiment, and {stray}; or take another experiment"
    given = {argument.partition("=")[0].lstrip("+") for argument in arguments}
    missing = [] if given & ASIDE else [word for word in known.required if word not in given]
    return f"{missing[0]}= is missing; {known.required[missing[0]]}" if missing else None


class Known:
    """The words of an entry point, read off its file in conf/ and the names of the others, plugins' among them.

    Arguments:
        conf: ldm's own folder.
        entry: the entry point's file in it.
        given: folders beside it and those of plugins.
    Raises:
        ValueError: two folders have one word, of which Hydra would hear the first.
    """

    def __init__(self, conf: Path, entry: str, given: Sequence[str] = ()):
        self.text = text = (conf / f"{entry}.yaml").read_text(encoding="utf-8")
        defaults = re.findall(r"^  - (?!override )([\w/]+)(?:@([\w.]+))?: (\w+)", text, re.MULTILINE)
        self.folders = {"ldm": conf, **plugins.confs(), **{folder: Path(folder) for folder in given}}
        self.training = entry == "config"
        self._files = self._all_files()
        self.groups = {group for group, _ in self._files if group}
        self.groups |= {parent for group in self.groups for parent in map(str, Path(group).parents) if parent != "."}
        self.groups = {group for group in self.groups if Path(group).parts[0] != "hydra"}
        if self.training:
            self.groups -= {group for group in self.groups for each in _OF_FINISHED if Path(group).is_relative_to(each)}
        else:
            self.groups &= {group for group, _, _ in defaults}
        self.chosen = {place or group: [(group, choice)] for group, place, choice in defaults if choice != "null"}
        self.typed: dict[str, list[tuple[str, str]]] = {}
        self.of_experiment: list[tuple[str, str]] = []
        self.needed = {group for group, _, choice in defaults if choice != "null"}
        self.places = {place: group for group, place, _ in defaults if place}  # of a group that stands at several
        # Of a mapping only the arguments are words.
        mappings = set(re.findall(r"^(\w+):(?: \{.*)?$", text, re.MULTILINE)) - {"defaults", "hydra"}
        self.words = self.groups | set(re.findall(r"^(\w+): ", text, re.MULTILINE)) - mappings
        self.plain = _plain(text)
        self.required = dict(re.findall(r"^(\w+): \?\?\? +# (.*)", text, re.MULTILINE))
        self.heads = {word.partition("/")[0] for word in self.words} | mappings | self.places.keys()

    def _all_files(self) -> dict[tuple[str, str], Path]:
        found: dict[tuple[str, str], tuple[str, Path]] = {}
        for owner, folder in self.folders.items():
            for file in folder.rglob("*.yaml"):
                group = file.parent.relative_to(folder).as_posix()
                word = ("" if group == "." else group, file.stem)
                first, there = found.setdefault(word, (owner, file))
                if not there.samefile(file):
                    said = "=".join(filter(None, word))
                    raise ValueError(f"{first} and {owner} both have the word {said} ({file}): give one another name")
        return {word: file for word, (_, file) in found.items()}

    def choices(self, group: str) -> set[str]:
        """The words of a group."""
        return {word for of, word in self._files if of == group}

    def file(self, group: str, word: str) -> Path:
        """The yaml of a word."""
        return self._files[group, word]

    def choose(self, arguments: Sequence[str]) -> None:
        """Words of groups among the arguments take the place of those of an experiment, and these of those that are there by
        default. In a sweep there are several."""
        pairs = (argument.lstrip("+").partition("=") for argument in arguments)
        self.typed = dict(self._words((key, value) for key, _, value in pairs))
        experiments = [list(self._defaults(*word)) for word in self.typed.get("experiment", ())]
        self.of_experiment = [pair for each in experiments for pair in each]
        if "experiment" in self.typed:
            ways = [self.chosen | dict(self._words(each)) for each in experiments]
            places = {place for way in ways for place in way}
            self.chosen = {
                place: list(dict.fromkeys(word for way in ways for word in way.get(place, ()))) for place in places
            }
        self.chosen |= self.typed

    def _words(self, pairs: Iterable[tuple[str, str]]) -> Iterator[tuple[str, list[tuple[str, str]]]]:
        """Where each group of (key, value) stands, and its words: none of what cannot be read here, as a pattern of Hydra's."""
        for key, value in pairs:
            group, _, place = key.partition("@")
            if group in self.groups:
                words = [(group, word.strip()) for word in value.strip("[]").split(",")]
                yield place or group, [word for word in words if word in self._files]

    def _defaults(self, group: str, word: str) -> Iterator[tuple[str, str]]:
        """The groups of a word's defaults, each with the word that is chosen there, those of words that it goes on from first."""
        import yaml

        if (group, word) not in self._files:
            return
        content = yaml.safe_load(self.file(group, word).read_text(encoding="utf-8")) or {}
        for entry in content.get("defaults", ()):
            for said, value in entry.items() if isinstance(entry, dict) else [entry.rpartition("/")[::2]]:
                key = said.removeprefix("optional ").removeprefix("override ")
                key = key[1:] if key.startswith("/") else f"{group}/{key}".rstrip("/")
                if key == group:
                    yield from self._defaults(group, value)
                else:
                    yield key, ",".join(value) if isinstance(value, list) else str(value)

    def stray(self, key: str, chosen: Mapping[str, Sequence[tuple[str, str]]]) -> str | None:
        """Why there is no place for a word of a group below another one: what was chosen of that does not have it."""
        group, name = key.rpartition("/")[::2]
        if not group or "@" in key:
            return None

        def has(word: str) -> bool:
            return key in {below.partition("@")[0] for below, _ in self._defaults(group, word)}

        lacks = next((word for _, word in chosen.get(group, ()) if not has(word)), None)
        having = ", ".join(sorted(filter(has, self.choices(group))))
        return None if lacks is None else f"{group}={lacks} has no {name}; these have: {having}"

    def places_of(self, name: str) -> list[str]:
        """Where a name stands that is no word alone: groups that end in it, or else arguments of what is chosen."""
        groups = sorted(group for group in self.groups if group.endswith(f"/{name}"))
        return groups or sorted({place for place in self._arguments() if place.endswith(f".{name}")})

    def _arguments(self) -> Iterator[str]:
        """The places of the arguments of the words that are chosen, of settings and of what these are made of."""
        import yaml

        parts = [(name, value) for name, value in yaml.safe_load(self.text).items() if name != "hydra"]
        for place, words in self.chosen.items():
            for word in words:
                content = yaml.safe_load(self.file(*word).read_text(encoding="utf-8"))
                parts += content.items() if place == "experiment" else [(place, content)]
        for place, content in parts:
            yield from _below(place, content)


def _below(place: str, content: Any) -> Iterator[str]:
    """The places of what a part of a config takes and, where that is written out, of what stands in it."""
    from ldm.signature import declared

    if not isinstance(content, dict):
        return
    found = declared(content.get("_target_"))
    written = [name for name in content if name != "defaults" and not name.startswith("_")]
    yield from (f"{place.replace('/', '.')}.{name}" for name in {*written, *(found.arguments if found else ())})
    for name in written:
        yield from _below(f"{place}.{name}", content[name])


def _plain(text: str) -> dict[str, tuple[str, str]]:
    """The settings at the top of an entry point's file: name -> (value, what its comment says)."""
    found: dict[str, tuple[str, str]] = {}
    name = ""
    for line in text.splitlines():
        setting = re.fullmatch(r"(\w+): ([^#\s][^#]*?)(?:\s+# (.*))?", line)
        more = re.fullmatch(r"\s+# (.*)", line)
        if setting:
            name = setting[1]
            found[name] = (setting[2], setting[3] or "")
        elif more and name:
            found[name] = (found[name][0], f"{found[name][1]} {more[1]}")
        else:
            name = ""
    return found


def _wrong(argument: str, before: str, known: Known, asked: bool) -> str | None:
    """What is wrong with one argument; where help is `asked` for, a key may stand alone."""
    if argument.startswith("-"):
        return _dashed(argument)
    if argument.startswith("~"):
        group = argument[1:].partition("=")[0]
        return _choice(group, group, "null", known) if group in known.needed else None
    key, equals, value = argument.partition("=")
    if not equals:
        return _unasked(key, known) if asked else _alone(argument, before)
    key, _, place = key.lstrip("+").partition("@")
    if re.split("[./]", key)[0] == "hydra":  # Hydra's own, of its plugins among them
        return None
    if "." in key and key not in known.groups:
        head = key.partition(".")[0]
        return None if head in known.heads else f"{key}: no such word as {head}{nearest(head, known.heads)}"
    if key in known.places:
        group = known.places[key]
        return f"{key}={value}: say {group}@{key}={value if value != 'null' else 'none'}"
    if key in known.places.values() and place not in known.places:
        return f"{argument}: of which {key}? Say {' or '.join(f'{key}@{each}={value}' for each in known.places)}"
    if key not in known.words:
        pieces = sorted(group for group in known.groups if group.startswith(f"{key}/"))
        if pieces:
            return f"{key}: a whole recipe is of training; a finished run takes another {', '.join(pieces)}"
        if key in known.heads:
            if value.startswith("{"):  # which Hydra merges
                return None
            return f"{key}: no such word alone; its arguments are set one by one, as {key}.NAME=VALUE"
        places = known.places_of(key)
        if places:
            return f"{key}: no such word alone; say {' or '.join(f'{place}={value}' for place in places)}"
        return f"{key}: no such word{nearest(key, known.words)}"
    if key not in known.groups:
        return None
    said = f"{key}@{place}" if place else key
    wrong, stray = _choice(said, key, value, known), known.stray(said, known.chosen)
    return wrong or (f"{said}={value}: {stray}" if stray else None)


def _unasked(key: str, known: Known) -> str | None:
    """What is wrong with a key that help is asked for."""
    there = known.words | known.heads
    head = re.split(r"[.@]", key)[0]
    return None if head in there else f"{key}: no such word{nearest(head, there)}"


def _dashed(argument: str) -> str | None:
    flag = argument in ALONE | VALUED or argument.partition("=")[0] in VALUED
    if flag or not argument.startswith("--") or argument == "--":
        return None  # of one dash argparse has its own forms, as -cjob
    return f"{argument}: a word is KEY=VALUE, as {argument[2:]}=..."


def _alone(argument: str, before: str) -> str:
    key, equals, value = before.partition("=")
    if equals and key.rpartition(".")[2] in TEXTS | PATHS:
        return f'{argument}: a word is KEY=VALUE; a value with spaces is in quotes: {key}="{value} {argument} ..."'
    return f"{argument}: a word is KEY=VALUE, as {argument}=..."


def _choice(said: str, group: str, value: str, known: Known) -> str | None:
    """What is wrong with the words chosen of a group."""
    choices = known.choices(group)
    if value == "null" and "none" in choices:
        return f"{said}=null: say {said}=none"
    if value == "null" and group in known.needed:
        return f"{said}=null: there is no run without. There are {', '.join(sorted(choices))}"
    if re.fullmatch(r"[\w.,-]*|\[[\w., -]*\]", value):
        for word in map(str.strip, value.strip("[]").split(",")):
            if word not in choices | {"null"} and value != "[]":
                return f"{group}={word}: no such {group}{nearest(word, choices)}"
    return None
