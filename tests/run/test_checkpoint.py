"""What is written comes back to the bit, and what was damaged is noticed, named and passed over."""

import json
import logging
import random
import shutil
from pathlib import Path

import pytest
import torch

from ldm.run import checkpoint
from ldm.run.checkpoint import Checkpoints, DamagedCheckpoint, read, to_device, write
from tests.runs import equal


def state(value: float = 1.0) -> dict:
    shared = torch.randn(6, 4)
    return {
        "weights": {
            "a.b": torch.full((3, 5), value),
            "view": shared[::2].T,
            "same": shared,
            "scalar": torch.tensor(2.5),
        },
        "half": torch.randn(7).bfloat16(),
        "kinds": [torch.arange(5), torch.ones(3, dtype=torch.bool), torch.randn(2, dtype=torch.float64)],
        "empty": {"tensor": torch.zeros(0, 3), "dict": {}, "list": [], "bytes": torch.zeros(0, dtype=torch.uint8)},
        "optimizer": {
            "state": {0: {"step": torch.tensor(3.0)}, 11: {"m": torch.randn(2)}},
            "param_groups": [{"lr": 1e-3}],
        },
        "plain": {"none": None, "true": True, "int": 2**60, "float": 0.1, "word": "é\n\u2603", "/": 1, "a/b": 2},
    }


def test_round_trip(tmp_path):
    wanted = state()
    write(tmp_path / "step-1", wanted)
    found = read(tmp_path / "step-1")
    assert equal(found, wanted)
    assert set(found["optimizer"]["state"]) == {0, 11} and found["plain"]["float"] == 0.1
    assert sorted(file.name for file in (tmp_path / "step-1").iterdir()) == ["manifest.json", "tensors.safetensors"]
    assert len((tmp_path / "step-1" / "manifest.json").read_text().splitlines()) == 1, "no encoder that indents is fast"


def test_names_that_meet_do_not_mix(tmp_path):
    """{'a': {'b': x}} and {'a/b': y} make the same path of names; so do {1: x} and {'1': y}."""
    wanted = {"a": {"b": torch.zeros(1)}, "a/b": torch.ones(1), 1: torch.full((1,), 2.0), "1": torch.full((1,), 3.0)}
    write(tmp_path / "step-1", wanted)
    assert equal(read(tmp_path / "step-1"), wanted)


def test_an_optimizer_goes_on_from_it(tmp_path):
    """A fused AdamW, whose state is numbered by parameter, after a trip through the file."""
    torch.manual_seed(0)
    nets = [torch.nn.Linear(3, 2) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    optimizers = [torch.optim.AdamW(net.parameters(), 1e-2, fused=True) for net in nets]

    def train(i, start, stop):
        for k in range(start, stop):
            nets[i](torch.arange(3.0) + k).square().sum().backward()
            optimizers[i].step()
            optimizers[i].zero_grad()

    train(0, 0, 6)
    train(1, 0, 3)
    write(tmp_path / "step-3", {"net": dict(nets[1].state_dict()), "optimizer": optimizers[1].state_dict()})
    found = read(tmp_path / "step-3")
    nets[1] = torch.nn.Linear(3, 2)
    nets[1].load_state_dict(found["net"])
    optimizers[1] = torch.optim.AdamW(nets[1].parameters(), 1.0, fused=True)
    optimizers[1].load_state_dict(found["optimizer"])
    train(1, 3, 6)
    assert equal(dict(nets[0].state_dict()), dict(nets[1].state_dict()))


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", 1j])
def test_what_is_not_plain_is_refused_by_name(tmp_path, value):
    with pytest.raises(TypeError, match="deep/er"):
        write(tmp_path / "step-1", {"deep": {"er": value}})
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """One checkpoint of a few kilobytes."""
    path = tmp_path_factory.mktemp("whole") / "step-1"
    write(path, state())
    return path


@pytest.mark.parametrize("name", ["tensors.safetensors", "manifest.json"])
def test_every_truncation_is_noticed(whole, tmp_path, name):
    size = (whole / name).stat().st_size
    for length in sorted({0, 1, 7, 8, 9, size // 4, size // 2, size - 64, size - 2, size - 1}):
        damaged = tmp_path / str(length)
        shutil.copytree(whole, damaged)
        with open(damaged / name, "r+b") as file:
            file.truncate(length)
        if name == "manifest.json" and length == size - 1:  # only its last newline is gone
            assert equal(read(damaged)["kinds"][0], torch.arange(5))
            continue
        with pytest.raises(DamagedCheckpoint, match=str(damaged)):
            read(damaged)


@pytest.mark.parametrize("name", ["tensors.safetensors", "manifest.json"])
def test_every_flipped_bit_is_noticed(whole, tmp_path, name):
    damaged, dice = tmp_path / "damaged", random.Random(0)
    shutil.copytree(whole, damaged)
    good = (whole / name).read_bytes()
    for place in [0, len(good) - 2, *(dice.randrange(len(good) - 1) for _ in range(100))]:
        bad = bytearray(good)
        bad[place] ^= 1 << dice.randrange(8)
        (damaged / name).write_bytes(bad)
        if name == "manifest.json" and _says_the_same(bad, good):
            continue
        with pytest.raises(DamagedCheckpoint, match=str(damaged)):
            read(damaged)
    (damaged / name).write_bytes(good)
    read(damaged)


def _says_the_same(bad: bytes, good: bytes) -> bool:
    """A newline that became a tab changes the file and not what it says."""
    try:
        return json.loads(bad) == json.loads(good)
    except ValueError:
        return False


@pytest.mark.parametrize("name", ["tensors.safetensors", "manifest.json"])
def test_a_missing_file_is_noticed(whole, tmp_path, name):
    shutil.copytree(whole, tmp_path / "damaged")
    (tmp_path / "damaged" / name).unlink()
    with pytest.raises(DamagedCheckpoint, match=name):
        read(tmp_path / "damaged")


def with_manifest(whole: Path, path: Path, text: str) -> Path:
    shutil.copytree(whole, path)
    (path / "manifest.json").write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "said"),
    [
        *[("[]", "TypeError"), ("null", "TypeError"), ("3", "TypeError"), ("{", "JSONDecodeError")],
        *[("{}", "KeyError: 'format'"), ('{"format": "x"}', "TypeError: '>' not supported")],
        (f'{{"format": {checkpoint.FORMAT}}}', "KeyError: 'self'"),
        (f'{{"format": {checkpoint.FORMAT}, "self": ""}}', "its checksum does not match"),
    ],
)
def test_a_manifest_of_another_kind_is_damage(whole, tmp_path, text, said):
    with pytest.raises(DamagedCheckpoint, match=said) as caught:
        read(with_manifest(whole, tmp_path / "damaged", text))
    assert str(tmp_path / "damaged") in str(caught.value)


@pytest.mark.parametrize("change", [{"bytes": 1}, {"xxh3": "0"}, {"state": None}, {"more": 1}, {"self": "0"}])
def test_a_manifest_that_says_something_else_is_damage(whole, tmp_path, change):
    """Valid JSON of this format, of which one word was changed and the checksum over the whole was not."""
    manifest = json.loads((whole / "manifest.json").read_text())
    with pytest.raises(DamagedCheckpoint, match=r"manifest\.json: its checksum does not match"):
        read(with_manifest(whole, tmp_path / "damaged", json.dumps(manifest | change)))


@pytest.mark.parametrize(("by", "said"), [(1, "newer than this ldm"), (-1, "of an older ldm")])
def test_another_format_is_refused(whole, tmp_path, by, said):
    shutil.copytree(whole, tmp_path / "other")
    file = tmp_path / "other" / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["format"] = checkpoint.FORMAT + by
    file.write_text(json.dumps(manifest))
    with pytest.raises(DamagedCheckpoint, match=said):
        read(tmp_path / "other")


def test_a_pickle_is_not_opened(whole, tmp_path):
    """A tensor file in torch's own format, with something to run in it, is damage."""
    shutil.copytree(whole, tmp_path / "bad")
    marker = tmp_path / "marker"

    class Evil:
        def __reduce__(self):
            return (marker.touch, ())

    torch.save(Evil(), tmp_path / "bad" / "tensors.safetensors")
    with pytest.raises(DamagedCheckpoint):
        read(tmp_path / "bad")
    assert not marker.exists()


def break_(folder: Path) -> None:
    file = folder / "tensors.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def test_the_older_one_is_taken_with_a_warning(tmp_path, caplog):
    kept = Checkpoints(tmp_path / "first")
    assert kept.load() is None and kept.steps() == []
    for step in (5, 10):
        kept.save(step, {"step": step})
    assert kept.load() == (10, {"step": 10})
    break_(tmp_path / "first" / "step-10")
    with caplog.at_level(logging.WARNING):
        assert kept.load() == (5, {"step": 5})
    assert "step-10" in caplog.text and "bytes" in caplog.text
    break_(tmp_path / "first" / "step-5")
    with pytest.raises(DamagedCheckpoint, match=r"(?s)no whole checkpoint.*step-10.*step-5"):
        kept.load()


def test_a_damaged_one_is_written_over(tmp_path):
    """Going on from 5, the run comes to 10 again."""
    kept = Checkpoints(tmp_path)
    for step in (5, 10):
        kept.save(step, {"step": step})
    break_(tmp_path / "step-10")
    assert kept.load()[0] == 5
    kept.save(10, {"again": True})
    assert kept.load() == (10, {"again": True}) and kept.steps() == [5, 10]


def test_a_damaged_one_does_not_count_among_those_kept(tmp_path):
    """With the newest damaged and written past, the last whole ones stay."""
    kept = Checkpoints(tmp_path)
    for step in (10, 20):
        kept.save(step, {"step": step})
    break_(tmp_path / "step-20")
    assert kept.load()[0] == 10
    for step in (12, 14, 16):
        kept.save(step, {"step": step})
    assert kept.steps() == [14, 16, 20] and kept.load()[0] == 16
    kept.save(20, {"step": 20})
    assert kept.steps() == [16, 20] and kept.load() == (20, {"step": 20})


def test_two_are_kept(tmp_path):
    kept = Checkpoints(tmp_path, keep=1)
    for step in (1, 2, 9, 10, 100):
        kept.save(step, {"step": step})
        assert (tmp_path / "latest").read_text() == f"step-{step}\n"
        assert step in kept.steps() and len(kept.steps()) <= 2
    assert sorted(each.name for each in tmp_path.iterdir()) == ["latest", "step-10", "step-100"]
    three = Checkpoints(tmp_path, keep=3)
    three.save(101, {})
    assert three.steps() == [10, 100, 101]


def test_leftovers_of_an_interrupted_write_are_removed(tmp_path):
    kept = Checkpoints(tmp_path)
    kept.save(1, {"step": 1})
    shutil.copytree(tmp_path / "step-1", tmp_path / "step-2.tmp")
    shutil.copytree(tmp_path / "step-1", tmp_path / "step-1.old.tmp")
    (tmp_path / ".latest.123.tmp").write_text("step-")
    assert kept.load() == (1, {"step": 1})
    assert sorted(each.name for each in tmp_path.iterdir()) == ["latest", "step-1"]


def test_an_interrupted_write_leaves_what_was_there(tmp_path, monkeypatch):
    kept = Checkpoints(tmp_path)
    kept.save(1, {"a": torch.zeros(3)})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_tensors", full)
    with pytest.raises(OSError, match="No space"):
        kept.save(2, {"a": torch.ones(3)})
    assert kept.steps() == [1] and equal(kept.load()[1], {"a": torch.zeros(3)})
    assert not list(tmp_path.glob("*.tmp"))


def test_a_full_disk_is_told_before_anything_is_trained(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=(1 << 20) + 7000)
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda _: usage)
    kept, state = Checkpoints(tmp_path / "run" / "first"), {"a": torch.zeros(1 << 10)}
    with pytest.raises(OSError, match=r"two checkpoints.*make room"):
        kept.check_room(state)
    kept.check_room({"a": torch.zeros(800)})
    assert list(tmp_path.iterdir()) == []


def test_the_disk_is_asked_where_checkpoints_will_lie(tmp_path, monkeypatch):
    asked, usage = [], shutil.disk_usage(tmp_path)
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda place: asked.append(place) or usage)
    kept = Checkpoints(tmp_path / "run" / "first")
    kept.check_room({})
    kept.folder.mkdir(parents=True)  # perhaps a disk of its own
    kept.check_room({})
    assert asked == [tmp_path, kept.folder]


def test_a_peek_is_at_the_newest_whole_manifest_and_reads_no_tensor(tmp_path):
    kept = Checkpoints(tmp_path)
    assert kept.peek() is None
    for step in (9, 10):
        kept.save(step, {"step": step, "a": torch.zeros(3)})
        (tmp_path / f"step-{step}" / "tensors.safetensors").write_bytes(b"")
    assert kept.peek() == {"step": 10, "a": None}
    (tmp_path / "step-10" / "manifest.json").write_text("{")
    assert kept.peek() == {"step": 9, "a": None}


def test_to_device_keeps_the_form():
    moved = to_device({"a": [torch.zeros(2), 3], 4: {"b": torch.ones(1)}, "c": None}, torch.device("meta"))
    assert moved["a"][0].is_meta and moved["a"][1] == 3 and moved[4]["b"].is_meta and moved["c"] is None
