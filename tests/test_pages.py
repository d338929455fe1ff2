"""README and docs/: their links lead somewhere, their words exist, and what they tell to type runs as it stands.

Commands and programs are read off the pages. DIR, VAL and NAME stand there for what a reader has; here they are a little data
of each kind, and models and lengths are shrunk.
"""

import csv
import io
import json
import os
import re
import shlex
import subprocess
import sys
import tarfile
from pathlib import Path

import datasets
import pytest
from PIL import Image

from ldm.command.compose import composed
from ldm.command.words import heard
from ldm.data.shapes import Shapes
from ldm.experiment.experiment import Experiment
from ldm.run.signals import FINISHED
from ldm.signature import PIECES, check
from tests.pieces import CONF
from tests.runs import compose, saved, shrunk, tiny

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
LINKING = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "benchmarks" / "README.md", *ROOT.glob("experiments/*/README.md")]
ENTRIES = {"train.py": "config", "sample.py": "sample", "evaluate.py": "evaluate"}


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def section(page: Path, title: str) -> str:
    """What stands below the heading `title`, up to the next of its level."""
    return re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)[1]


def commands(text: str) -> list[list[str]]:
    """The commands of the shell blocks, as a shell would split them; `VARIABLE=value` before a command is left out."""
    lines = [line for block in blocks(text, "sh") for line in block.replace("\\\n", " ").splitlines()]
    split = [shlex.split(line, comments=True) for line in lines]
    return [words[words.index("python") :] for words in split if "python" in words and words[-1] != "python"]


def called(text: str) -> list[tuple[str, list[str]]]:
    """(entry point, its words) of each call of train.py, sample.py and evaluate.py."""
    return [(words[1], words[2:]) for words in commands(text) if words[1] in ENTRIES]


def by_name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def anchors(page: Path) -> set[str]:
    """What GitHub calls the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", LINKING, ids=by_name)
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?:", target):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), f"{by_name(page)}: {target}"
        assert not anchor or anchor in anchors(found), f"{by_name(page)}: {target}"


def test_every_page_is_named_in_the_readme():
    text = README.read_text(encoding="utf-8")
    assert all(f"]({by_name(page)})" in text for page in PAGES[1:])


def test_pictures_are_small():
    pictures = list((ROOT / "docs").glob("*.png"))
    assert pictures and all(picture.stat().st_size < 200_000 for picture in pictures)


PLUGIN = section(README, "Your own network")  # whose words are there where it is
FOUND = [(page, *call) for page in PAGES for call in called(page.read_text(encoding="utf-8").replace(PLUGIN, ""))]
# What stands on several pages is heard once.
CALLS = list({(entry, *words): (page, entry, words) for page, entry, words in FOUND}.values())


@pytest.mark.parametrize(
    ("page", "entry", "words"),
    CALLS,
    ids=[f"{by_name(page)}: {' '.join((entry, *words))}" for page, entry, words in CALLS],
)
def test_a_command_is_heard_and_fits_the_signatures(page, entry, words):
    """As `python train.py` hears it; each combination of a sweep by itself."""
    told = heard(words, CONF, ENTRIES[entry])
    if "--help" in told:
        return
    for job in jobs(told):
        plain = composed(CONF, ENTRIES[entry], job)
        if entry == "train.py":
            check({key: value for key, value in plain.items() if key not in PIECES})


def jobs(words: list[str]) -> list[list[str]]:
    """The jobs of a sweep; of any other command itself."""
    if "-m" not in words:
        return [words]
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_overrides(words[1:])
    if "hydra/sweeper=optuna" in words:
        pytest.importorskip("optuna", reason="a search needs Optuna: pip install -e '.[optuna]'")
        from ldm.command.search.ranges import space

        found = space([word for word in parsed if not word.is_hydra_override()])
        ends = {key: [*getattr(each, "choices", ()), getattr(each, "low", None)] for key, each in found.ranges.items()}
        return found.jobs({key: each[0] for key, each in ends.items()})
    return BasicSweeper.split_arguments(parsed, None)[0]


def test_every_word_has_its_place_in_the_table_of_words():
    """And the table names no word that is not there."""
    text, _, _ = (ROOT / "docs" / "command_line.md").read_text(encoding="utf-8").partition("## Experiments")
    rows = re.findall(r"^\| `([\w/]+).*?\| (.*) \|$", text, re.MULTILINE)
    said = {group: set(re.findall(r"`(\w+)`", words)) for group, words in rows}
    for group in {file.parent.relative_to(CONF).as_posix() for file in CONF.rglob("*/*.yaml")}:
        assert said[group] == {file.stem for file in (CONF / group).glob("*.yaml")}, group


SHAPES = [Shapes(12, "train", size=16)[i] for i in range(12)]


def png(item: dict) -> bytes:
    file = io.BytesIO()
    Image.fromarray(item["image"]).save(file, "png")
    return file.getvalue()


def write_folder(root: Path) -> None:
    """Two classes, a text beside each image."""
    for i, item in enumerate(SHAPES):
        place = root / "cat" / f"{i}.png" if i % 2 else root / "dog" / f"{i}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(png(item))
        place.with_suffix(".txt").write_text(item["caption"])


def write_parquets(root: Path, *names: str) -> None:
    """Files with the columns image, text and label."""
    root.mkdir(parents=True, exist_ok=True)
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "text": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["cat", "dog"]),
        }
    )
    columns = {
        "image": [Image.fromarray(item["image"]) for item in SHAPES],
        "text": [item["caption"] for item in SHAPES],
    }
    columns["label"] = [i % 2 for i in range(len(SHAPES))]
    for name in names:
        datasets.Dataset.from_dict(columns, features=features).to_parquet(str(root / name))


def write_csv(root: Path) -> None:
    with (root / "all.csv").open("w", newline="") as file:
        rows = [(f"cat/{i}.png", SHAPES[i]["caption"]) for i in range(1, len(SHAPES), 2)]
        csv.writer(file).writerows([("file", "text"), *rows])


def write_tars(root: Path) -> None:
    for split in ("train", "val"):
        with tarfile.open(root / f"{split}-0.tar", "w") as tar:
            for i, item in enumerate(SHAPES):
                for ending, content in (("png", png(item)), ("json", json.dumps({"text": item["caption"]}).encode())):
                    entry = tarfile.TarInfo(f"{i}.{ending}")
                    entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> dict[str, dict[str, str]]:
    """What DIR, VAL and NAME stand for: folders of images (of `data=hub` with files of all kinds), and what a name on the hub
    leads to."""
    folder = tmp_path_factory.mktemp("data")
    write_folder(folder / "images")
    write_folder(folder / "files")
    write_parquets(folder / "files", "train.parquet", "val.parquet", "all.parquet")
    write_csv(folder / "files")
    write_tars(folder / "files")
    write_parquets(folder / "named", "train.parquet", "validation.parquet", "test.parquet")
    named = {"VAL": str(folder / "images"), "NAME": str(folder / "named")}
    return {"hub": named | {"DIR": str(folder / "files")}, "folder": named | {"DIR": str(folder / "images")}}


TEXTS = section(README, "Your own images"), (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
OWN = {" ".join(words): words for text in TEXTS for entry, words in called(text) if entry == "train.py"}
LONG = "data.train.streaming=true"  # of which tests/test_streaming.py has runs


@pytest.mark.parametrize("words", [words for words in OWN.values() if LONG not in words], ids=" ".join)
def test_own_images_are_trained_on(words, places, tmp_path):
    stand = places["hub" if "data=hub" in words else "folder"]
    given = [re.sub(r"=(DIR|VAL|NAME)$", lambda found: f"={stand[found[1]]}", word) for word in words]
    config = shrunk(
        compose(*heard([*given, "logger=none", "trainer=cpu", "data.image_shape=[3,16,16]"], CONF)), tmp_path
    )
    for stage in ("first", "second"):
        config[stage]["steps"] = 1
    assert Experiment(config).run() == FINISHED


def program(text: str, folder: Path) -> str:
    """What a Python block prints, run by itself in a folder."""
    done = subprocess.run(
        [sys.executable, "-c", text],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        **{"capture_output": True, "text": True, "timeout": 280, "check": False},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_the_training_loop_runs(tmp_path):
    """For two updates."""
    (loop,) = blocks(section(README, "A training loop"), "python")
    assert "range(1000)" in loop
    short = (
        loop.replace("range(1000)", "range(2)")
        + "assert samples.shape == (16, 3, 16, 16) and samples.isfinite().all()\n"
    )
    program(short, tmp_path)


def test_a_network_of_ones_own(places, tmp_path):
    """Its files lie beside the commands, which train it for an update a stage and draw from it."""
    for text in (*blocks(PLUGIN, "python"), *blocks(PLUGIN, "yaml")):
        file = tmp_path / re.match(r"# (\S+)\n", text)[1]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    small = ["first.steps=1", "second.steps=1", "data.batch_size=4", "data.workers=0", "data.image_shape=[3,16,16]"]
    for entry, words in called(PLUGIN):
        given = [word.replace("=DIR", f"={places['folder']['DIR']}") for word in words]
        given += [*small, "metric=none", "logger=none", "trainer=cpu"] if entry == "train.py" else []
        done = subprocess.run(
            [sys.executable, str(ROOT / entry), *given],
            cwd=tmp_path,
            **{"capture_output": True, "text": True, "timeout": 280, "check": False},
        )
        assert done.returncode == 0, done.stderr[-2000:]
    assert len(list((tmp_path / "runs" / "own" / "samples").glob("*/00*.png"))) == 16


def test_the_table_of_a_sweep(tmp_path, monkeypatch, capsys):
    """A row for each configuration, averaged over its seeds."""
    (text,) = blocks(section(README, "Comparing runs"), "python")
    for seed in (0, 1):
        config = tiny(tmp_path, f"seed={seed}", "prior=normal", steps=1, name=f"nine/seed-{seed}")
        assert Experiment(config).run() == FINISHED
    monkeypatch.chdir(tmp_path)
    exec(text, {})
    (row,) = capsys.readouterr().out.splitlines()
    assert "dB (2 seeds)" in row and "'experiment': 'custom'" in row


def test_other_programs_run(tmp_path, monkeypatch, unchecked):
    """Those of the pages on what is done with data and with models, where they find what they read."""
    for name in ("first", "quickstart"):
        saved(tmp_path / "runs" / name, tiny(tmp_path))
    for i, file in enumerate(("a.png", "b.png", "clothes/a.png", "clothes/b.png", "digits/a.png", "digits/b.png")):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        Image.fromarray(SHAPES[i]["image"]).save(tmp_path / file)
    mask = Image.new("L", (32, 32))
    mask.paste(255, (8, 8, 20, 20))
    mask.save(tmp_path / "mask.png")
    monkeypatch.chdir(tmp_path)
    columns = {
        "image": [Image.fromarray(item["image"]) for item in SHAPES],
        "text": [item["caption"] for item in SHAPES],
    }
    given = {"train": datasets.Dataset.from_dict(columns), "val": datasets.Dataset.from_dict(columns)}
    pages = [section(README, "What a trained model is for")]
    pages += [(ROOT / "docs" / f"{page}.md").read_text() for page in ("sampling", "data", "metrics", "python")]
    for page in pages:
        for text in blocks(page, "python"):
            exec(text, given)
    assert [each.size for each in given["pictures"]] == [(32, 32)] * 4 and given["z"].shape[0] == 2
    assert given["filled"][0].size == (32, 32)
    assert next(iter(given["data"].loader(0, 1, 0, 1)))["image"].shape == (64, 3, 64, 64)
