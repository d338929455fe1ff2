"""Tensors in files, read by the library itself, byte by byte; and what is refused."""

import json
import os
import weakref

import pytest
import torch
import xxhash
from safetensors import safe_open
from safetensors.torch import load_file

from ldm import tensors
from ldm.tensors import hash_of, read_tensors, write_tensors

STATE = {
    "b": torch.arange(6, dtype=torch.float32).view(2, 3).T,  # not contiguous
    "half": torch.tensor([1.5, -2.0, 0.25], dtype=torch.float16),
    "a/long name": torch.tensor([2**40, -1]),
    "flag": torch.tensor([True, False, True]),
    "empty": torch.zeros(0, 4),
    "one": torch.tensor(3.0, dtype=torch.float64),
    "brain": torch.ones(5, dtype=torch.bfloat16),
}


def test_the_library_reads_what_is_written(tmp_path):
    file = tmp_path / "x.safetensors"
    size, digest = write_tensors(file, STATE)
    for found in (load_file(file), read_tensors(file)):
        assert found.keys() == STATE.keys()
        assert all(found[k].dtype == v.dtype and torch.equal(found[k], v) for k, v in STATE.items())
    content = file.read_bytes()
    assert (size, digest) == (len(content), xxhash.xxh3_128_hexdigest(content))
    header = 8 + int.from_bytes(content[:8], "little")
    assert header % 8 == 0, "tensors begin at a multiple of 8"
    with safe_open(file, "pt") as opened:
        assert set(opened.keys()) == set(STATE)


def test_every_tensor_begins_at_a_multiple_of_its_element(tmp_path):
    write_tensors(tmp_path / "x", STATE)
    content = (tmp_path / "x").read_bytes()
    entries = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    for name, entry in entries.items():
        assert entry["data_offsets"][0] % STATE[name].element_size() == 0
        assert entry["data_offsets"][1] - entry["data_offsets"][0] == STATE[name].nbytes


def test_a_disk_that_writes_in_pieces(tmp_path, monkeypatch):
    write = os.write
    monkeypatch.setattr(tensors.os, "write", lambda descriptor, data: write(descriptor, data[:7]))
    write_tensors(tmp_path / "x.safetensors", STATE)
    monkeypatch.undo()
    assert all(torch.equal(value, STATE[key]) for key, value in load_file(tmp_path / "x.safetensors").items())


def test_room_is_asked_for_before_anything_is_written(tmp_path, monkeypatch):
    def full(descriptor, start, size):
        assert size == sum(value.nbytes for value in STATE.values()) + header
        raise OSError(28, "No space left on device")

    header = write_tensors(tmp_path / "y", STATE)[0] - sum(value.nbytes for value in STATE.values())
    monkeypatch.setattr(tensors.os, "posix_fallocate", full)
    with pytest.raises(OSError, match=r"MiB do not go into it.*x\.safetensors"):
        write_tensors(tmp_path / "x.safetensors", STATE)
    assert (tmp_path / "x.safetensors").stat().st_size == 0


def test_what_is_written_is_flushed_and_dropped_on_the_way(tmp_path, monkeypatch):
    """Eight tensors of 64 bytes, at most 150 of them waiting: two flushes on the way and one at the end."""
    done = []
    monkeypatch.setattr(tensors, "_FLUSH", 150)
    monkeypatch.setattr(tensors.os, "fsync", lambda descriptor: done.append("flush"))
    monkeypatch.setattr(tensors.os, "posix_fadvise", lambda *words: done.append(words[3]), raising=False)
    write_tensors(tmp_path / "x", {str(i): torch.ones(16) for i in range(8)})
    assert done == ["flush", getattr(os, "POSIX_FADV_DONTNEED", 4)] * 3


def test_of_what_is_on_a_device_one_tensor_is_on_the_host_at_a_time(tmp_path, monkeypatch):
    there = []

    def fetched(tensor):
        assert not any(each() is not None for each in there), "the one before is still here"
        copy = tensor.clone()
        there.append(weakref.ref(copy))
        return copy

    monkeypatch.setattr(torch.Tensor, "cpu", fetched)
    write_tensors(tmp_path / "x", {str(i): torch.ones(4) for i in range(3)})
    assert len(there) == 3


def test_tensors_that_share_their_memory_are_written_each(tmp_path):
    """Tied weights, which the library's writer refuses."""
    one = torch.arange(4.0)
    write_tensors(tmp_path / "x.safetensors", {"a": one, "b": one, "c": one[1:3]})
    found = read_tensors(tmp_path / "x.safetensors")
    assert all(torch.equal(found[k], v) for k, v in {"a": one, "b": one, "c": torch.tensor([1.0, 2.0])}.items())


def test_a_hash_is_of_names_and_bytes():
    base = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([3.0])}
    others = [
        {"a": torch.tensor([1.0, 2.5]), "b": torch.tensor([3.0])},
        {"c": torch.tensor([1.0, 2.0]), "b": torch.tensor([3.0])},
        {"a": torch.tensor([1.0, 2.0])},
    ]
    assert hash_of(base) == hash_of({name: value.clone() for name, value in base.items()})
    assert len({hash_of(each) for each in (base, *others)}) == 4 and len(hash_of(base)) == 32


def test_what_a_file_cannot_hold_is_refused_by_name(tmp_path):
    with pytest.raises(TypeError, match=r"odd is of type torch\.complex64"):
        write_tensors(tmp_path / "x", {"odd": torch.zeros(1, dtype=torch.complex64)})
    with pytest.raises(FileNotFoundError, match="no weights at"):
        read_tensors(tmp_path / "nothing.safetensors")


def test_a_pickle_of_more_than_tensors_is_refused(tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "x.pth")
    assert torch.equal(read_tensors(tmp_path / "x.pth")["a"], torch.ones(2))
    torch.save({"a": torch.nn.Linear(1, 1)}, tmp_path / "y.pth")
    with pytest.raises(ValueError, match="holds no tensors that can be read"):
        read_tensors(tmp_path / "y.pth")


def test_a_hash_sees_every_weight_name_shape_type_and_setting_and_no_order():
    state = {"a": torch.arange(6.0), "b": torch.ones(())}
    before = hash_of(state)
    assert hash_of(dict(reversed(state.items()))) == before and len(before) == 32
    others = [
        {**state, "a": state["a"] + torch.tensor([0, 0, 0, 0, 0, 1e-6])},
        {**state, "a": state["a"].view(2, 3)},
        {**state, "b": torch.ones((), dtype=torch.int32).view(torch.float32)},
        {"c": state["a"], "b": state["b"]},
    ]
    found = [before, hash_of(state, 1), hash_of(state, 2), *map(hash_of, others)]
    assert len(set(found)) == len(found)
    assert hash_of({"a": torch.zeros(1)}) != hash_of({"a": torch.zeros(1, dtype=torch.int32)}), "the same bytes"
