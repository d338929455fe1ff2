"""Artifacts appear whole, once, under the hash of what made them; one process makes while others wait."""

import logging
import subprocess
import sys
import threading
import time

import pytest

from ldm.run.store import Store, key_of, turn


def test_keys_name_what_was_described():
    assert key_of({"a": 1, "b": [2, {"c": None}]}) == key_of({"b": [2, {"c": None}], "a": 1})
    others = [{"a": 1}, {"a": 2}, {"a": "1"}, {"a": 1.5}, {"a": [1]}, {"b": 1}, {"a": None}, {"a": {"a": 1}}, [], {}]
    assert len({key_of(each) for each in others}) == len(others)
    assert len(key_of({})) == 20 and set(key_of({})) <= set("0123456789abcdef")


def test_an_artifact_is_there_when_published(tmp_path):
    store = Store(tmp_path / "store")
    assert store.find("latents", "k") is None
    (store.workplace("latents", "k") / "data").write_text("1")
    assert store.find("latents", "k") is None, "half made is not there"
    again = Store(tmp_path / "store").workplace("latents", "k")
    assert (again / "data").read_text() == "1", "an interrupted making goes on"
    path = store.publish("latents", "k", {"from": 3})
    assert store.find("latents", "k") == path and (path / "data").read_text() == "1"
    assert '"from": 3' in (path / "artifact.json").read_text() and not again.exists()
    assert store.find("autoencoder", "k") is None


def test_a_folder_without_its_description_is_no_artifact(tmp_path):
    store = Store(tmp_path)
    store.path("latents", "k").mkdir(parents=True)  # as a copy that was broken off leaves it
    assert store.find("latents", "k") is None


def test_keys_with_dots_are_kept_apart(tmp_path):
    store = Store(tmp_path)
    assert store.workplace("latents", "a.1") != store.workplace("latents", "a.2")


def test_one_makes_and_the_others_wait(tmp_path, caplog):
    store, made, order = Store(tmp_path), [], []

    def want(name):
        with turn(Store(tmp_path).lock("first", "k")):
            order.append(f"{name} in")
            if store.find("first", "k") is None:
                time.sleep(0.1)
                store.workplace("first", "k")
                store.publish("first", "k", {})
                made.append(name)
            order.append(f"{name} out")

    threads = [threading.Thread(target=want, args=(i,)) for i in range(3)]
    with caplog.at_level(logging.INFO):
        for each in threads:
            each.start()
        for each in threads:
            each.join()
    assert len(made) == 1 and "waiting" in caplog.text
    assert all(a.split()[0] == b.split()[0] for a, b in zip(order[::2], order[1::2], strict=True))


def test_a_dead_makers_lock_is_free(tmp_path, caplog):
    held = f"""
import os
from pathlib import Path
from filelock import FileLock
place = Path({str(tmp_path)!r}) / "first"
place.mkdir()
FileLock(place / "k.lock").acquire()
os._exit(9)
"""
    assert subprocess.run([sys.executable, "-c", held], check=False).returncode == 9
    with caplog.at_level(logging.INFO), turn(Store(tmp_path).lock("first", "k")):
        assert "waiting" not in caplog.text


def test_a_failure_gives_the_lock_back(tmp_path):
    store = Store(tmp_path)
    with pytest.raises(KeyError), turn(store.lock("first", "k")):
        raise KeyError
    with turn(store.lock("first", "k")):
        pass
