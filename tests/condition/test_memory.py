import sqlite3

import pytest

from ldm.condition.memory import Disk, Memory


def test_what_was_used_last_is_kept_and_computed_once():
    asked: list[str] = []

    def compute(captions):
        asked.extend(captions)
        return [caption.upper() for caption in captions]

    memory: Memory[str] = Memory(2)
    assert memory.recall(["a", "b", "a"], compute) == ["A", "B", "A"]
    assert memory.recall(["a", "c"], compute) == ["A", "C"]  # b goes
    assert memory.recall(["a", "b"], compute) == ["A", "B"]
    assert asked == ["a", "b", "c", "b"] and len(memory) == 2


def test_a_batch_larger_than_the_memory_is_answered_whole():
    memory: Memory[int] = Memory(1)
    assert memory.recall(["a", "bb", "ccc", "a"], lambda captions: map(len, captions)) == [1, 2, 3, 1]
    assert len(memory) == 1


def test_a_computation_that_fails_leaves_nothing_behind():
    memory: Memory[int] = Memory(4)
    with pytest.raises(ZeroDivisionError):
        memory.recall(["a", "b"], lambda captions: (1 // (c == "a") for c in captions))
    assert memory.recall(["a"], lambda captions: [7]) == [7]


def test_the_disk_gives_back_what_another_process_wrote(tmp_path, monkeypatch):
    monkeypatch.setenv("LDM_CACHE", str(tmp_path))
    Disk("k").write({"a 'quoted' 日本": b"\x00\x01", "b": b""})
    Disk("k").write({"b": b"late"})
    assert Disk("k").read(["a 'quoted' 日本", "b", "c"]) == {"a 'quoted' 日本": b"\x00\x01", "b": b""}
    assert Disk("other").read(["b"]) == {}


def test_a_damaged_file_is_an_error_and_not_a_wrong_answer(tmp_path, monkeypatch):
    monkeypatch.setenv("LDM_CACHE", str(tmp_path))
    disk = Disk("k")
    disk.path.write_bytes(b"not a database" * 100)
    with pytest.raises(sqlite3.DatabaseError, match="not a database"):
        disk.read(["a"])
