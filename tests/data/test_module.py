"""Batches are functions of (seed, update): not of cuts, ranks, workers, or of what was read before."""

import json
import os
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest
import torch

from ldm.build import build
from ldm.data.batches import Batches
from ldm.data.module import DataModule
from ldm.data.shapes import Shapes
from ldm.data.source import Stream, Subset, digest, digest_files
from ldm.data.tally import TooManyBadError
from tests.data.sources import Halves, Numbers, png


def module(train=None, val=None, **options) -> DataModule:
    options = {"image_shape": (3, 8, 8), "batch_size": 4, "workers": 0} | options
    return DataModule(Numbers(33) if train is None else train, Numbers(7) if val is None else val, **options)


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(
        torch.equal(a[k], b[k]) if isinstance(a[k], torch.Tensor) else a[k] == b[k] for k in a
    )


def test_batch_is_as_promised():
    (batch,) = module().loader(3, 4)
    assert set(batch) == {"image", "caption", "label", "index", "row", "step", "total"}
    assert batch["image"].shape == (4, 3, 8, 8) and batch["image"].dtype == torch.float32
    assert batch["row"].tolist() == [0, 1, 2, 3] and batch["row"].dtype == torch.int64
    assert batch["step"] == 3 and batch["total"] == 4
    for i, index in enumerate(batch["index"].tolist()):
        assert torch.allclose(batch["image"][i], torch.tensor(index / 127.5 - 1))
        assert batch["label"][i] == index and batch["caption"][i].split()[0] == str(index)


@pytest.mark.parametrize("workers", [0, 2])
def test_going_on_equals_going_through(workers):
    data = module(workers=workers, flip=True, crop="random")
    whole = list(module(flip=True, crop="random").loader(0, 12))
    parts = [*data.loader(0, 5), *data.loader(5, 12)]
    assert len(whole) == len(parts) == 12 and all(map(same, whole, parts))


def test_ranks_share_the_global_batch():
    whole = list(module().loader(0, 9))
    ranks = [list(module().loader(0, 9, rank, 2, 2)) for rank in range(2)]
    for k, batch in enumerate(whole):
        parts = [part for rank in ranks for part in rank[2 * k : 2 * k + 2]]
        assert torch.equal(torch.cat([p["image"] for p in parts]), batch["image"])
        assert torch.cat([p["row"] for p in parts]).tolist() == [0, 1, 2, 3]
        assert [c for p in parts for c in p["caption"]] == batch["caption"]
        assert {p["step"] for p in parts} == {k} and {p["total"] for p in parts} == {4}


def test_each_epoch_draws_one_of_the_captions():
    data = module(Numbers(4))
    drawn = Counter(c for batch in data.loader(0, 400) for c in batch["caption"])
    assert len(drawn) == 20  # each of 4 x 5 about 80 times: 5 standard deviations are 40
    assert min(drawn.values()) > 40 and max(drawn.values()) < 120


def test_the_seed_decides_the_order_and_the_captions():
    (first,), (other,) = (module(seed=seed, batch_size=33).loader(0, 1) for seed in (0, 1))
    (positions,) = Batches(33, 33, seed=1, stop=1)
    assert other["index"].tolist() == [position.index for position in positions] != first["index"].tolist()
    assert set(other["caption"]) != set(first["caption"])


def test_random_crops_lie_anywhere():
    """A picture whose column k has the value k: of 400 crops 100 are expected in each quarter, with a deviation of 9."""

    class Wide(Numbers):
        def __getitem__(self, index):
            return {"image": torch.arange(256, dtype=torch.uint8).repeat(8, 1).numpy()}

    crops = module(Wide(1), image_shape=(1, 8, 8), crop="random").loader(0, 100)
    left = torch.cat([(batch["image"][:, 0, 0, 0] + 1) * 127.5 for batch in crops])
    quarters = Counter((left / 62).long().clamp(0, 3).tolist())
    assert quarters.keys() == {0, 1, 2, 3} and all(60 < count < 140 for count in quarters.values())


def test_flips_are_half_and_off_by_default():
    left = [float(x[0, 0, 0]) for batch in module(Halves(8), flip=True).loader(0, 100) for x in batch["image"]]
    assert 140 < sum(v == 1 for v in left) < 260
    assert all(float(x[0, 0, 0]) == -1 for batch in module(Halves(8)).loader(0, 20) for x in batch["image"])


def test_validation_has_each_row_once():
    for world in (1, 2, 3):
        batches = [list(module().val_loader(rank, world)) for rank in range(world)]
        rows = [r for rank in batches for b in rank for r in b["row"].tolist()]
        assert sorted(rows) == list(range(7))
        assert all(b["step"] == 0 and b["total"] == 7 for rank in batches for b in rank)


@pytest.mark.parametrize(
    ("world", "images", "rows"),
    [(1, 3, [[0, 2, 4]]), (2, 4, [[0, 3], [1, 5]]), (3, 1, [[0], [2], [4]]), (2, 99, [[0, 2, 4, 6], [1, 3, 5]])],
)
def test_a_share_of_the_validation_set_is_spread_over_it(world, images, rows):
    """Of seven rows: each i of n is row 7 i / n, rounded down; a rank has at least one; random numbers are those of the whole."""
    loaders = [module().val_loader(rank, world, images=images) for rank in range(world)]
    assert [[r for b in loader for r in b["row"].tolist()] for loader in loaders] == rows
    assert {b["total"] for loader in loaders for b in loader} == {7}


def test_validation_is_the_same_each_time():
    data = module(flip=True, crop="random")
    assert all(map(same, data.val_loader(), data.val_loader()))


def test_validation_takes_the_first_caption_in_batches_of_a_micro_batch():
    batches = list(module().val_loader(accumulate=2))
    assert [batch["caption"] for batch in batches] == [["0 a", "1 a"], ["2 a", "3 a"], ["4 a", "5 a"], ["6 a"]]


def test_the_fingerprint_names_both_sets():
    found = {module(Numbers(train), Numbers(val)).fingerprint for train, val in ((33, 7), (34, 7), (33, 8))}
    assert len(found) == 3 and module().fingerprint in found


def test_items_are_the_rows_asked_for():
    batch = module(flip=True).items("val", [5, 0])
    assert batch["index"].tolist() == [5, 0] and batch["caption"] == ["5 a", "0 a"] and batch["row"].tolist() == [0, 1]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 8, 8), (4, 6, 10)])
def test_cache_changes_nothing_but_the_reading(shape, workers):
    read = []

    class Told(Halves):
        def __getitem__(self, index):
            read.append(index)
            return super().__getitem__(index)

        def facts(self, index):
            return {key: value for key, value in super().__getitem__(index).items() if key != "image"}

    options = {"image_shape": shape, "flip": True, "max_bad": 0.1}
    train = Told(33, bad=(4,))
    cached = module(train, workers=workers, cache=True, **options)
    assert all(map(same, module(Halves(33, bad=(4,)), **options).loader(0, 30), cached.loader(0, 30)))
    read.clear()
    cached.items("train", list(range(33)))
    assert set(read) == {4}


def test_cache_of_random_crops():
    with pytest.raises(ValueError, match=r"data\.cache=true"):
        module(cache=True, crop="random")


def test_captions_decode_nothing():
    assert list(module(Numbers(2, bad=(0, 1))).captions()) == [f"{i} {c}" for i in range(2) for c in "abcde"]


# Bad items


def test_the_next_takes_a_bad_ones_place(tmp_path):
    data = module(Numbers(1000, bad=(3, 4)), batch_size=1000)
    data.bad_samples = tmp_path / "bad_samples.jsonl"
    (batch,) = data.loader(0, 1)
    assert Counter(batch["index"].tolist()) == Counter([i for i in range(1000) if i not in (3, 4)] + [5, 5])
    assert data.counts() == {"train seen": 1000, "train bad": 2}
    lines = [json.loads(line) for line in data.bad_samples.read_text().splitlines()]
    assert {(line["index"], line["name"]) for line in lines} == {(3, "n3"), (4, "n4")}
    assert all("not an image" in line["reason"] for line in lines)


def test_a_missing_picture_is_listed_with_its_path(tmp_path):
    class Rows(Numbers):
        def __getitem__(self, index):
            return super().__getitem__(index) | {"image": tmp_path / f"{index}.png", "name": f"row {index}"}

    data = module(Rows(1))
    data.bad_samples = tmp_path / "bad_samples.jsonl"
    with pytest.raises(TooManyBadError, match=rf"the last: row 0 \({tmp_path}/0\.png\): cannot be read: No such file"):
        list(data.loader(0, 1))
    assert json.loads(data.bad_samples.read_text())["name"] == f"row 0 ({tmp_path}/0.png)"


@pytest.mark.parametrize("train, val", [(1, 1), (1, 7), (3, 2)])
def test_sets_smaller_than_a_batch(train, val):
    data = module(Numbers(train), Numbers(val))
    assert [batch["index"].tolist() for batch in data.val_loader()] == [
        list(range(val))[i : i + 4] for i in range(0, val, 4)
    ]
    seen = Counter(i for batch in data.loader(0, 3 * train) for i in batch["index"].tolist())
    assert seen == dict.fromkeys(range(train), 12)


def test_a_drawn_one_takes_a_bad_ones_place():
    data = [module(Numbers(1000, bad=(3, 4)), batch_size=1000, on_error="replace") for _ in range(2)]
    (first,), (second,) = (list(d.loader(0, 1)) for d in data)
    assert same(first, second)
    extra = Counter(first["index"].tolist()) - Counter(range(1000))
    assert sum(extra.values()) == 2 and not {3, 4, 5} & set(extra)


def test_workers_report_bad_items(tmp_path):
    data = module(Numbers(1000, bad=(3, 4)), batch_size=100, workers=2)
    data.bad_samples = tmp_path / "bad_samples.jsonl"
    alone = module(Numbers(1000, bad=(3, 4)), batch_size=100).loader(0, 10)
    assert all(map(same, data.loader(0, 10), alone))
    assert data.counts() == {"train seen": 1000, "train bad": 2}
    assert len(data.bad_samples.read_text().splitlines()) == 2


def test_raise_stops_at_the_first():
    with pytest.raises(ValueError, match="n3: not an image"):
        list(module(Numbers(10, bad=(3,)), on_error="raise").loader(0, 10))


def drained(loader) -> list:
    """All batches; the workers gone also after an error (whose traceback would else keep them)."""
    batches = iter(loader)
    try:
        return list(batches)
    finally:
        if loader.num_workers:
            batches._shutdown_workers()


class Counted(Numbers):
    """Counts how often an item was read in this process."""

    read = 0

    def __getitem__(self, index):
        self.read += 1
        return super().__getitem__(index)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("count, bad", [(3, 3), (2000, 2000), (2000, 100)])
def test_too_many_bad_ones_stop_the_run(workers, count, bad):
    """Also where there is no good one to skip to: a row is looked at a few times at most before the run ends."""
    source = Counted(count, bad=tuple(range(bad)))
    with pytest.raises(TooManyBadError, match="cannot be used, more than"):
        drained(module(source, workers=workers).loader(0, 500))
    assert source.read <= 4 * count


def test_garbage_that_is_allowed_still_ends():
    with pytest.raises(TooManyBadError, match="no usable item"):
        list(module(Numbers(50, bad=tuple(range(50))), max_bad=1.0).loader(0, 5))


def test_validation_survives_a_bad_row():
    rows = [r for b in module(val=Numbers(200, bad=(7,))).val_loader() for r in b["row"].tolist()]
    assert rows == list(range(200))


# What cannot be


@pytest.mark.parametrize(
    "options, message",
    [
        ({"root": Path("/no/such/folder")}, "no folder /no/such/folder"),
        ({"image_shape": (2, 8, 8)}, "image_shape: wanted"),
        ({"train": Numbers(0)}, "data.train: the source is empty"),
        ({"val": Numbers(0)}, "data.val: the source is empty"),
    ],
)
def test_impossible_arguments(options, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        module(**options)


def test_a_batch_that_cannot_be_shared():
    with pytest.raises(ValueError, match="take 3 or 6"):
        module().loader(0, 1, world=3)


# Workers and signals


class Slow(Numbers):
    def __getitem__(self, index):
        time.sleep(0.02)
        return super().__getitem__(index)


def test_workers_ignore_the_schedulers_signals_and_leave_with_their_parent():
    loader = module(Slow(64), workers=2).loader(0, 20)
    batches = iter(loader)
    children = [str(w.pid) for w in batches._workers]
    subprocess.run(["kill", "-TERM", *children], check=True)  # from someone who is not the parent
    subprocess.run(["kill", "-INT", *children], check=True)
    subprocess.run(["kill", "-USR1", *children], check=True)
    assert len(list(batches)) == 20
    workers = batches._workers
    for worker in workers:
        worker.terminate()
        worker.join(5)
        assert not worker.is_alive()


def test_a_killed_worker_is_an_error_and_not_a_hang():
    batches = iter(module(Slow(64), workers=2).loader(0, 200))
    next(batches)
    os.kill(batches._workers[0].pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match="worker"):
        try:
            list(batches)
        finally:
            batches._shutdown_workers()


# Streams


class Line(Stream):
    """The rows of a source in order, dealt out to the readers."""

    def __init__(self, source):
        self.source = source

    def rows(self, part, parts, seed):
        return (self.source[i] for i in range(part, len(self.source), parts))


class Streamed(Numbers):
    @property
    def stream(self):
        return Line(self)


def test_a_stream_goes_on_where_it_stopped():
    for workers in (0, 2):
        whole = list(module(Streamed(33, bad=(5,)), workers=workers, max_bad=0.1).loader(0, 21))
        data = module(Streamed(33, bad=(5,)), workers=workers, max_bad=0.1)
        parts = [*data.loader(0, 9), *data.loader(9, 21)]
        assert len(whole) == 21 and all(map(same, whole, parts))
        assert [b["step"] for b in whole] == list(range(21))


def test_a_streams_readers_share_the_rows():
    labels = [
        label
        for rank in range(2)
        for batch in module(Streamed(32), workers=2).loader(0, 8, rank, 2)
        for label in batch["label"].tolist()
    ]
    assert Counter(labels) == Counter(range(32))


def test_a_streams_micro_batches_are_rows_of_the_global_batch():
    ranks = [module(Streamed(32), batch_size=8).loader(0, 2, rank, 2, 2) for rank in range(2)]
    rows = [[(batch["step"], batch["row"].tolist()) for batch in loader] for loader in ranks]
    assert rows[0] == [(0, [0, 1]), (0, [2, 3]), (1, [0, 1]), (1, [2, 3])]
    assert rows[1] == [(0, [4, 5]), (0, [6, 7]), (1, [4, 5]), (1, [6, 7])]


def test_a_stream_of_garbage_stops():
    with pytest.raises(TooManyBadError, match="of the train set cannot be used"):
        list(module(Streamed(100, bad=tuple(range(100)))).loader(0, 10))


def test_a_stream_cannot_validate():
    with pytest.raises(ValueError, match=r"data\.val"):
        module(val=Streamed(3))


def test_subset():
    part = Subset(Numbers(10), [4, 2])
    assert [part[i]["label"] for i in range(len(part))] == [4, 2]
    assert part.fingerprint != Subset(Numbers(10), [2, 4]).fingerprint
    assert part.marks() is None
    assert Subset(Shapes(5, "train", 16), [3, 1]).marks() == [("train", 16, 0, 3), ("train", 16, 0, 1)]


def test_where_a_part_of_a_digest_ends_counts():
    assert digest(["ab", "c"]) == digest([b"ab", b"c"]) != digest(["a", "bc"])


def test_of_picked_files_the_bytes_count_and_of_others_the_size(tmp_path):
    def named(text: str, picture: bytes) -> str:
        files = [tmp_path / "a.json", tmp_path / "b.png"]
        files[0].write_text(text)
        files[1].write_bytes(picture)
        return digest_files(files, tmp_path, lambda file: file.suffix == ".json")

    first = named("[1]", b"xy")
    assert first == named("[1]", b"zz")
    assert len({first, named("[2]", b"xy"), named("[1]", b"xyz")}) == 3


# The configs of conf/data, on real files


def configured(name: str, root: Path | None, **changes) -> dict:
    from omegaconf import OmegaConf

    file = Path(__file__).parents[2] / "conf/data" / f"{name}.yaml"
    config = OmegaConf.create({"seed": 0, "data": OmegaConf.load(file)})
    if root is not None:
        config.data.root = str(root)
    config.data.workers = 0
    for key, value in changes.items():
        OmegaConf.update(config.data, key, value)
    return OmegaConf.to_container(config, resolve=True)["data"]


def test_own_folders_by_the_words_of_a_command(tmp_path):
    for name in ("A/cat", "A/dog", "B/dog"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "0.png").write_bytes(png(7))
    config = configured("folders", None, train={"root": str(tmp_path / "A")}, val={"root": str(tmp_path / "B")})
    data = build(config, "data")
    assert data.classes == ("cat", "dog") and data.items("val", [0])["label"].tolist() == [1]


@pytest.mark.parametrize(
    "name, column",
    [
        *[("hub", column) for column in ("path", "name", "builder", "image", "caption", "label", "group")],
        *[(name, column) for name in ("coco_hub", "emoji_hub") for column in ("path", "image", "caption")],
        *[(name, column) for name in ("cifar10", "fashion_mnist") for column in ("path", "image", "label")],
        *[("emoji", column) for column in ("image", "caption")],
    ],
)
def test_how_the_held_out_set_is_read_is_how_the_training_set_is(name, column):
    config = configured(name, Path("somewhere") if name == "emoji" else None, **{"train." + column: "mine"})
    assert config["val"][column] == config["train"][column] == "mine"


@pytest.mark.parametrize(
    "name, folder, items, classes",
    [
        ("shapes", None, 50_000, 28),
        ("coco", "coco", 80, 0),
        ("coco_small", "coco", 366, 0),
        ("emoji", "noto_emoji", 3254, 0),
        ("fashion_mnist", "fashion_mnist", 60_000, 10),
        ("cifar10", "cifar10", 50_000, 10),
        ("folder", "coco", 386, 3),
    ],
)
def test_configs_on_real_data(name, folder, items, classes, shared, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    root = None if folder is None else shared / "data" / folder
    data = build(configured(name, root))
    shape = tuple(configured(name, root)["image_shape"])
    batch = data.items("train", [0, 1])
    assert batch["image"].shape == (2, *shape) and batch["image"].abs().max() <= 1
    drawn = (
        24 if "hold_out" in configured(name, root) else 0
    )  # more than 4 standard deviations of how many are held out
    assert abs(len(data.sources["train"]) - items) <= drawn and len(data.classes) in (classes, classes - 1)
    assert next(iter(data.val_loader()))["image"].shape[1:] == shape
