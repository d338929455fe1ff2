"""What a config has to be for its data: classes are read from the data, and what the data contradict is told before the
first update."""

from __future__ import annotations

from ldm.build import Config, ConfigError, resolve
from ldm.condition.label import Label, listed
from ldm.data.module import DataModule


def provisional(config: Config) -> Config:
    """The config with one class where their number is still to be read from the data."""
    node = config["condition"]
    if resolve(node["_target_"], "condition") is not Label or node.get("classes") or node.get("names"):
        return config
    return config | {"condition": node | {"classes": 1}}


def fitted(config: Config, data: DataModule) -> Config:
    """The config whose label condition has the classes of the data; ConfigError where it wants others."""
    node = config["condition"]
    if resolve(node["_target_"], "condition") is not Label:
        return config
    names, wanted = data.classes, node.get("classes")
    if wanted is not None and not names and data.sources["train"].stream is not None:
        return config  # nobody knows how many there are
    count = data.label_count
    if not count:
        raise ConfigError(
            "condition=label reads labels and the data has none: name their column (data.train.label=COLUMN), put the "
            "images into a folder for each class, or take condition=none"
        )
    if wanted is not None and wanted < count:
        called = f" ({listed(names)})" if names else ""
        raise ConfigError(
            f"condition.classes={wanted}, but the data has {count} classes{called}: leave condition.classes out, and it is "
            "read from the data"
        )
    known = {"classes": count, **({"names": list(names)} if names else {})}
    return config | {"condition": node | (known if wanted in (None, count) else {})}
