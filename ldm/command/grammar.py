"""The grammar of a command line, from the shell to Hydra: what its words mean.

    a word that is a text     prompt, negative, label         what the shell hands over is the value, to the letter
    a word that is a path,    run, out, runs, data.root, ...  so too; quotes around the whole are Hydra's, and with -m a
    a name, a column                                          comma outside of them separates values; `~` is home
    every other word          seed=0, [1,2], {a: 1}           Hydra's grammar

`null` is none in all of them. Hydra reads a value by its own grammar and OmegaConf reads `${` in what is left of it; a text
is therefore handed on in quotes and with both kinds of marks escaped.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TEXTS = {"prompt", "negative", "label"}
# Paths, and what stands for one, as a hub's name: by a word's last part.
PATHS = {"run", "guide", "prompts", "out", "runs", "store", "root", "checkpoint", "files", "weights", "source", "path"}
PATHS |= {"backbone", "images", "others", "background", "reference", "real", "mask", "text"}
_NAMES = {"name", "split", "image", "caption", "label", "group", "revision"}
_LISTS = {"files", "image", "caption", "label", "source"}  # also `[a,b]`
_PLUGINS = "plugins"
_NODES = {"backbone"}  # also `{_target_: ...}`

_BARE = re.compile(r"(?!(?:inf|nan)\Z)(?:[a-z/]|\.\.?(?:/|\Z))[\w./-]*", re.ASCII | re.IGNORECASE)
_SWEPT = re.compile(r"(?:choice|shuffle|sort|glob|range|interval|tag)\(.*\)", re.DOTALL)
_WHOLE = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""  # in quotes from its first to its last letter
_PIECE = re.compile(rf"(?:^|,)[ ]*((?:{_WHOLE})(?=[ ]*(?:,|\Z))|[^,]*)", re.DOTALL)

_CONFIG_DIR = ("--config-dir", "-cd")

# Of Hydra's own command line: those that stand alone, and those that are followed by a value.
ALONE = {"--help", "-h", "--hydra-help", "--version", "--resolve", "--run", "-r", "--multirun", "-m"}
ALONE |= {"--shell-completion", "-sc"}
VALUED = {"--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd"}
VALUED |= {"--experimental-rerun", "--info", "-i"}
ASIDE = {"--help", "-h", "--hydra-help", "--version", "--cfg", "-c", "--info", "-i"}  # after which nothing is run
SWEEP = {"-m", "--multirun", "hydra.mode=MULTIRUN"}
HELP = {"--help", "-h"}


def parted(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The flags of Hydra's command line, with their values, and the words."""
    flags, words, before = [], [], ""
    for argument in arguments:
        (flags if argument.startswith("-") or before in VALUED else words).append(argument)
        before = argument
    return flags, words


def undashed(argument: str) -> str:
    """`--seed=1` as `seed=1`: so other programs have it, and so a W&B sweep's agent calls this one, null being None there."""
    flag, equals, value = argument.partition("=")
    dashed = flag.startswith("--") or "WANDB_SWEEP_ID" in os.environ
    if not (equals and dashed) or flag in VALUED:
        return argument
    word = flag.removeprefix("--")
    return f"{word}={'null' if value == 'None' and word not in TEXTS else value}"


def plugins_of(arguments: Sequence[str]) -> list[str]:
    """The packages of `plugins=mynets`, `plugins=mine,theirs` or `plugins=[mine,theirs]`."""
    values = [value for key, _, value in (each.partition("=") for each in arguments) if key.lstrip("+") == _PLUGINS]
    every = [each.strip(" '\"") for value in values for each in value.strip("[]").split(",")]
    return [each for each in every if each not in ("", "null")]


def given_folders(arguments: Sequence[str]) -> list[str]:
    """The folders of Hydra's `--config-dir`."""
    found, before = [], ""
    for argument in arguments:
        flag, equals, folder = argument.partition("=")
        if before in _CONFIG_DIR:
            found.append(argument)
        elif equals and flag in _CONFIG_DIR:
            found.append(folder)
        before = argument
    return found


def understood(argument: str, sweep: bool = False) -> str:
    """One argument in Hydra's grammar; what is so already stays as it is."""
    key, equals, value = argument.partition("=")
    last = key.rpartition(".")[2].lstrip("+")
    if key.lstrip("+") == _PLUGINS and equals:
        return f"{key}=[{','.join(plugins_of([argument]))}]"
    text = last in TEXTS and "." not in key
    node = last in _NODES and value[:1] == "{"
    if not equals or node or not (text or last in PATHS | _NAMES):
        return settable(argument)
    if text:
        said = value if value == "null" else quoted(value)
    elif last in _LISTS and value[:1] == "[" and value[-1:] == "]":
        said = "[" + ",".join(map(_handed_on, _PIECE.findall(value[1:-1]))) + "]"
    elif sweep:
        said = value if _SWEPT.fullmatch(value) else ",".join(map(_handed_on, _PIECE.findall(value)))
    else:
        said = _handed_on(value)
    return settable(f"{key}={said}")


def _handed_on(value: str) -> str:
    """One value of a path or a name."""
    return value if _BARE.fullmatch(value) or re.fullmatch(_WHOLE, value, re.DOTALL) else quoted(value)


def quoted(text: str) -> str:
    """A text that Hydra and OmegaConf read as it is."""
    if text == "???":  # OmegaConf's mark of what is missing
        return "'${oc.decode:\"\\'???\\'\"}'"
    text = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)
    text = re.sub(r"(\\*)'", r"\1\1\\'", text)
    return "'" + re.sub(r"(\\+)\Z", r"\1\1", text) + "'"


def unquoted(value: str) -> str:
    """What `quoted` was given; any other value as it is."""
    if not re.fullmatch(_WHOLE, value, re.DOTALL):
        return value
    mark, text = value[0], value[1:-1]
    text = re.sub(rf"(\\+)({mark}|\Z)", lambda found: found[1][: len(found[1]) // 2] + found[2], text)
    return re.sub(r"(\\+)\$\{", lambda found: found[1][: len(found[1]) // 2] + "${", text)


def settable(argument: str) -> str:
    """`first.clip=2` as `++first.clip=2`: defaults live in Python, so a config need not name a key for it to be set; a
    misspelt one is found by the signature that it is bound to, with the nearest right one named."""
    key, equals, _ = argument.partition("=")
    dotted = equals and "." in key and key.replace(".", "_").isidentifier() and not key.startswith("hydra.")
    return f"++{argument}" if dotted else argument


def at_home(config: Any) -> Any:
    """A plain config with `~` in its paths as the user's directory."""
    if isinstance(config, dict):
        return {key: _home(value) if key in PATHS else at_home(value) for key, value in config.items()}
    return [at_home(value) for value in config] if isinstance(config, list) else config


def _home(value: Any) -> Any:
    if isinstance(value, str) and value.startswith("~"):
        return str(Path(value).expanduser())
    return [_home(each) for each in value] if isinstance(value, list) else at_home(value)


def left_open(config: Any, key: str = "") -> list[str]:
    """The dotted keys of what a plain config, not resolved, leaves to be given."""
    if isinstance(config, dict):
        return [each for name, value in config.items() for each in left_open(value, f"{key}.{name}" if key else name)]
    return [key] if config == "???" else []
