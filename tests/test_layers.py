"""The house's order: a module imports only from rows above its own. Read off the source, so that no import hides."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "ldm").rglob("*.py"))
ENTRIES = [ROOT / name for name in ("train.py", "sample.py", "evaluate.py")]

ROWS = [
    (
        "types",
        "random",
        "plugins",
        "nearest",
        "resolve",
        "build",
        "constructed",
        "files",
        "tensors",
        "eight_bits",
        "ode",
        "cost",
        "ranks",
        "nn",
    ),
    ("autoencoder", "condition", "bijection", "diffusion", "loss", "alignment", "backbone", "signature"),
    ("prior",),
    ("model",),
    ("metric", "data"),
    ("task",),
    ("run", "interop"),
    ("api",),
    ("report", "demo"),
    ("logger",),
    ("stage", "callback"),
    ("experiment",),
    ("command",),
    ("__main__",),
]
ROW = {name: row for row, names in enumerate(ROWS) for name in names}

# Parts of one row know nothing of each other, but for these.
SIDEWAYS = {
    ("nn", "types"): "shapes of tensors",
    ("eight_bits", "types"): "shapes of tensors",
    ("cost", "types"): "shapes of tensors",
    ("resolve", "plugins"): "whose classes may be named",
    ("build", "resolve"): "classes",
    ("build", "nearest"): "ends of messages",
    ("constructed", "build"): "nodes",
    ("constructed", "resolve"): "classes",
    ("metric", "data"): "the attribute checker learns from the shapes that the data renders",
    ("loss", "alignment"): "the perceptual loss compares the same feature maps",
    ("callback", "stage"): "a callback watches a stage",
}

LIGHTNING_ALLOWED = {"stage", "callback", "experiment"}


def imports(file: Path) -> set[str]:
    """The dotted names that a file imports, anywhere in it; `from a import b` counts as a.b."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def part(file: Path) -> str:
    """`ldm/run/store.py` is of the part `run`."""
    return file.relative_to(ROOT / "ldm").parts[0].removesuffix(".py")


def name(file: Path) -> str:
    return str(file.relative_to(ROOT))


def test_every_part_has_a_row():
    parts = {part(file) for file in FILES} - {"__init__"}
    assert parts <= set(ROW), f"no row for {parts - set(ROW)}"


@pytest.mark.parametrize("file", [file for file in FILES if file.name != "__init__.py"], ids=name)
def test_imports_come_from_above(file):
    own = part(file)
    for imported in imports(file):
        if not imported.startswith("ldm."):
            assert imported != "ldm", f"{name(file)} imports all of ldm"
            continue
        other = imported.split(".")[1]
        above = ROW[other] < ROW[own]
        assert above or other == own or (own, other) in SIDEWAYS, (
            f"{name(file)} imports {imported}, which is not above it"
        )


def test_what_is_listed_as_sideways_is_needed():
    """A list of exceptions that nobody uses any more is a hole."""
    used = {(part(file), other.split(".")[1]) for file in FILES for other in imports(file) if other.startswith("ldm.")}
    assert set(SIDEWAYS) <= used, f"not needed: {set(SIDEWAYS) - used}"


def test_a_file_of_task_is_a_word():
    """What tasks share is in task/tools, so that the folder tells what can be done."""
    files = {file.stem for file in FILES if file.parent == ROOT / "ldm" / "task"} - {"__init__", "base"}
    named = [file.read_text(encoding="utf-8") for file in (ROOT / "conf" / "task").glob("*.yaml")]
    words = {re.search(r"^_target_: ldm\.task\.(\w+)\.", text, re.MULTILINE)[1] for text in named}
    assert files == words


def test_diffusion_and_backbone_do_not_know_each_other():
    for file in FILES:
        other = {"diffusion": "ldm.backbone", "backbone": "ldm.diffusion"}.get(part(file))
        assert other is None or not any(f"{each}.".startswith(f"{other}.") for each in imports(file)), name(file)


@pytest.mark.parametrize("file", FILES, ids=name)
def test_frameworks_stay_where_they_belong(file):
    packages = {imported.split(".")[0] for imported in imports(file)}
    assert part(file) == "command" or not packages & {"hydra", "omegaconf"}, f"{name(file)}: configs are plain here"
    assert part(file) in LIGHTNING_ALLOWED or not packages & {"lightning", "pytorch_lightning"}, name(file)


def test_scripts_are_other_names_of_the_command():
    for file in ENTRIES:
        assert len(file.read_text(encoding="utf-8").splitlines()) < 10
        assert imports(file) == {"sys", "ldm.__main__.main"}


@pytest.mark.parametrize("file", [*FILES, *ENTRIES], ids=name)
def test_nothing_is_unpickled(file):
    tree = ast.parse(file.read_text(encoding="utf-8"))
    packages = {imported.split(".")[0] for imported in imports(file) - {"pickle.UnpicklingError"}}
    unsafe = packages & {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
    assert not unsafe, f"{name(file)} imports {unsafe}"
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        called = ast.unparse(node.func)
        keywords = {word.arg: ast.unparse(word.value) for word in node.keywords}
        where = f"{name(file)}:{node.lineno}"
        if called == "torch.load":
            assert keywords.get("weights_only") == "True", f"{where}: torch.load says weights_only=True"
        assert called != "torch.hub.load", f"{where}: torch.hub.load runs the code that it downloads"
        assert keywords.get("allow_pickle", "False") == "False", f"{where}: allow_pickle"
        assert called != "yaml.load", f"{where}: yaml.safe_load"
        if called.endswith("load_dataset"):
            assert "trust_remote_code" not in keywords, where
