"""What a config has to be for its data: classes are read from the data, and what the data contradict is told before the
first update."""

from __future__ import annotations

from collections.abc import Callable

from ldm.build import Config
from ldm.condition.label import Label, listed
from ldm.data.module import DataModule
from ldm.resolve import ConfigError, resolve


def provisional(config: Config) -> Config:
    """The config with one class where their number is still to be read from the data."""
    return _with_label(
        config, lambda node, _: node if node.get("classes") or node.get("names") else node | {"classes": 1}
    )


def fitted(config: Config, data: DataModule) -> Config:
    """The config whose label condition has the classes of the data; ConfigError where it wants others."""
    return _with_label(config, lambda node, where: _fitted(node, where, data))


def _with_label(config: Config, change: Callable[[Config, str], Config]) -> Config:
    """The config with its label condition changed, where it has one: the condition itself, or what it is composed `of`."""

    def changed(node: Config, where: str) -> Config:
        if resolve(node["_target_"], where) is Label:
            return change(node, where)
        return node | {"of": changed(node["of"], f"{where}.of")} if node.get("of") else node

    return config | {"condition": changed(config["condition"], "condition")}


def _fitted(node: Config, where: str, data: DataModule) -> Config:
    """A label's node with the classes of the data."""
    names, wanted = data.classes, node.get("classes")
    if wanted is not None and not names and data.sources["train"].stream is not None:
        return node  # nobody knows how many there are
    count = data.label_count
    if not count:
        raise ConfigError(
            "condition=label reads labels and the data has none: name their column (data.train.label=COLUMN), put the "
            "images into a folder for each class, or take condition=none"
        )
    if wanted is not None and wanted < count:
        called = f" ({listed(names)})" if names else ""
        raise ConfigError(
            f"{where}.classes={wanted}, but the data has {count} classes{called}: leave {where}.classes out, and it is "
            "read from the data"
        )
    known = {"classes": count, **({"names": list(names)} if names else {})}
    return node | (known if wanted in (None, count) else {})
