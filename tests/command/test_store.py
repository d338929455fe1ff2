"""`python -m ldm store`: says what is there and who needs it, and removes nothing that a run needs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from ldm.__main__ import main
from ldm.files import write_json
from ldm.run.needs import Needs
from ldm.run.store import Store

HISTORY = [
    {
        "after": 0,
        "settings": {
            "autoencoder": {"_target_": "ldm.autoencoder.autoencoder.Autoencoder"},
            "data": {"image_shape": [3, 32, 32]},
            "first": {"steps": 900},
            "seed": 4,
        },
    }
]


@pytest.fixture
def runs(tmp_path) -> Path:
    """`one` needs a first stage; latents of 2,000 bytes are needed by none."""
    run = tmp_path / "runs" / "one"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("seed: 4\n")
    store = Store(tmp_path / "runs" / "store", Needs(run))
    assert store.find("autoencoder", "aaaa") is None
    _put(store, "autoencoder", "aaaa", {"history": HISTORY, "weights": "0123456789abcdef"})
    _put(store, "latents", "bbbb", {"split": "train", "weights": "0123456789abcdef", "data": "d"}, 2000)
    return tmp_path / "runs"


def _put(store: Store, kind: str, key: str, made_from: dict, size: int = 10) -> None:
    (store.workplace(kind, key) / "data").write_bytes(bytes(size))
    store.publish(kind, key, made_from)


def ask(runs: Path, what: str, *words: str) -> int:
    return main(["store", what, "--store", str(runs / "store"), *words])


def there(runs: Path) -> set[str]:
    return {f"{path.parent.name}/{path.name}" for path in (runs / "store").glob("*/*") if path.is_dir()}


def said(capsys) -> str:
    """What was printed, in one line; no line of it is wider than a terminal."""
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 80 for line in lines)
    return " ".join(line.strip() for line in lines)


def test_it_lists_what_is_there_of_what_and_for_whom(runs, capsys, monkeypatch):
    monkeypatch.chdir(runs.parent)
    assert main(["store", "list"]) == 0, "runs/store is where it looks"
    text = said(capsys)
    first, latents = text.split("latents/bbbb")
    assert "autoencoder/aaaa" in first and "Autoencoder of 3 x 32 x 32 images, 900 updates, seed 4" in first
    assert "runs/one" in first.replace(" ", "") and "needed by no run" not in first
    assert "2.1 kB" in latents and "latents of the train images, by weights 0123456789ab" in latents
    assert "needed by no run" in latents and "2 artifacts" in latents


def test_clean_says_and_removes_only_when_told(runs, capsys):
    assert ask(runs, "clean") == 0 and there(runs) == {"autoencoder/aaaa", "latents/bbbb"}
    text = said(capsys)
    assert "latents/bbbb" in text and "aaaa" not in text and "1 artifact, 2.1 kB; --yes removes them" in text
    assert ask(runs, "clean", "--yes") == 0 and there(runs) == {"autoencoder/aaaa"}
    assert "removed latents/bbbb" in said(capsys)
    assert ask(runs, "clean", "--yes") == 0 and "nothing to remove" in said(capsys)


def test_what_a_process_is_making_stays(runs, capsys):
    Store(runs / "store").workplace("latents", "cccc")
    with FileLock(runs / "store" / "latents" / "cccc.lock"):
        assert ask(runs, "clean", "--yes") == 0
        assert "kept latents/cccc: a process is using it" in said(capsys)
        assert there(runs) == {"autoencoder/aaaa", "latents/cccc.part"}
    assert ask(runs, "clean", "--yes") == 0 and there(runs) == {"autoencoder/aaaa"}


def test_a_need_that_comes_up_meanwhile_is_heeded(runs, capsys, monkeypatch):
    """Between the list and the removal a run looks the latents up."""
    from ldm.run import inventory

    remove = inventory.remove

    def late(store: Path, *rest):
        assert Store(store, Needs(runs / "one")).find("latents", "bbbb") is not None
        return remove(store, *rest)

    monkeypatch.setattr(inventory, "remove", late)
    assert ask(runs, "clean", "--yes") == 0 and "latents/bbbb" in there(runs)
    assert "kept latents/bbbb" in said(capsys)


def test_a_run_that_moved_is_found_where_it_is_named(runs, tmp_path, capsys):
    (runs / "one").rename(tmp_path / "moved")
    assert ask(runs, "clean") == 0
    text = said(capsys)
    assert "no run is there any more" in text and "by --runs" in text and "2 artifacts" in text
    assert ask(runs, "clean", "--yes", "--runs", str(tmp_path / "moved")) == 0
    assert there(runs) == {"autoencoder/aaaa"}
    (tmp_path / "moved").rename(runs / "elsewhere")  # beside the store it is found without being named
    assert ask(runs, "clean", "--yes") == 0 and there(runs) == {"autoencoder/aaaa"}


def test_a_run_elsewhere_is_known_to_the_store(runs, tmp_path, capsys):
    other = tmp_path / "far" / "two"
    other.mkdir(parents=True)
    (other / "config.yaml").write_text("seed: 0\n")
    Store(runs / "store", Needs(other)).find("latents", "bbbb")
    assert ask(runs, "clean", "--yes") == 0 and len(there(runs)) == 2


def test_a_run_that_does_not_say_what_it_needs_keeps_everything(runs, capsys):
    for damage in (lambda file: file.unlink(), lambda file: file.write_text("{")):
        damage(runs / "one" / "needs.json")
        assert ask(runs, "clean", "--yes") == 1 and len(there(runs)) == 2
        text = said(capsys)
        assert "does not say what it needs" in text and "Nothing is removed" in text
        write_json(runs / "one" / "needs.json", [])


def test_an_entry_that_cannot_be_read_is_told(runs, capsys):
    (runs / "store" / "latents" / "bbbb" / "artifact.json").write_text("{")
    (runs / "store" / "autoencoder" / "aaaa" / "artifact.json").unlink()
    assert ask(runs, "list") == 0
    text = said(capsys)
    assert "artifact.json is damaged" in text and "it has no artifact.json" in text


def test_no_store_is_told(tmp_path, capsys):
    assert ask(tmp_path, "list") == 1 and "no store at" in capsys.readouterr().err
    (tmp_path / "store").mkdir()
    assert ask(tmp_path, "list", "--runs", str(tmp_path / "absent")) == 1
    assert "absent: no such folder" in capsys.readouterr().err


def test_a_finished_run_needs_what_it_asked_for_last(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    store = tmp_path / "store"
    Store(store, Needs(run)).find("latents", "old")
    needs = Needs(run)
    needs.begin()
    Store(store, needs).find("latents", "new")
    assert json.loads((run / "needs.json").read_text()) == ["latents/new", "latents/old"]
    needs.settle(goes_on=True)
    assert json.loads((run / "needs.json").read_text()) == ["latents/new"]
    needs.settle(goes_on=False)
    assert json.loads((run / "needs.json").read_text()) == []
    assert (store / "runs.txt").read_text() == f"{run}\n"


def test_it_imports_nothing_heavy():
    code = (
        "import sys; from ldm.__main__ import main; main(['store', 'list', '--store', '.']);"
        "print(sorted({'torch', 'lightning', 'transformers', 'torchvision', 'datasets', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
