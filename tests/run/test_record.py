import json
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from ldm.metric.measurement import Measurement
from ldm.run.record import Incomparable, Record, TornLineWarning, comparable, read, table, write

FULL = Record(
    metric="fd_x",
    value=3.25,
    standard_error=0.5,
    n=512,
    features="x",
    features_hash="f",
    reference_hash="r",
    paired=True,
    rounded=True,
    run="a",
    experiment="shapes",
    data="d",
    split="test",
    seed=0,
    weights="averaged:0.05",
    drawn={"prior": "diffusion", "sampler": "ddim", "steps": 50},
    evaluations=100,
    seconds=1.5,
    device="CPU",
    parameters=7,
    images_seen=9,
    code_version="abc+",
    date="2024-01-01T00:00:00Z",
)


def test_what_is_written_is_read(tmp_path):
    path, bare = tmp_path / "new" / "records.jsonl", Record(metric="psnr", value=27.0)
    write(path, FULL)
    write(path, bare)
    assert read(path) == [FULL, bare]
    assert [json.loads(line)["metric"] for line in path.read_text().splitlines()] == ["fd_x", "psnr"]
    assert read(tmp_path / "absent.jsonl") == []


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_strict_json(tmp_path, value):
    path = tmp_path / "records.jsonl"
    write(path, replace(FULL, value=value, standard_error=math.nan))
    json.loads(path.read_text(), parse_constant=pytest.fail)
    (found,) = read(path)
    assert str(found.value) == str(value) and math.isnan(found.standard_error)


def test_a_torn_line_costs_itself_only(tmp_path):
    path = tmp_path / "records.jsonl"
    write(path, FULL)
    whole = path.read_bytes()
    for cut in (*range(len(whole), 2 * len(whole), 11), 2 * len(whole) - 2, 2 * len(whole) - 1):
        path.write_bytes((whole + whole)[:cut])
        write(path, replace(FULL, seed=1))
        torn = len(whole) < cut < 2 * len(whole) - 1
        if torn:
            with pytest.warns(TornLineWarning, match=r"records.jsonl:2 is torn"):
                found = read(path)
        else:
            found = read(path)
        assert found[0] == FULL and found[-1].seed == 1
        assert len(found) == (2 if torn or cut == len(whole) else 3)


def test_many_writers_lose_nothing(tmp_path):
    path = tmp_path / "records.jsonl"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda seed: write(path, replace(FULL, seed=seed)), range(64)))
    assert sorted(record.seed for record in read(path)) == list(range(64))


@pytest.mark.parametrize(
    ("line", "named"), [('{"metric":"a","value":1,"colour":2}', "colour"), ('{"metric":"a"}', "value")]
)
def test_what_is_no_record_is_an_error(tmp_path, line, named):
    (tmp_path / "records.jsonl").write_text(line + "\n")
    with pytest.raises(ValueError, match=rf"records.jsonl:1 is not a record of this version: {named}"):
        read(tmp_path / "records.jsonl")


def test_a_record_is_a_measurement_in_its_run():
    measurement = Measurement(metric="psnr", value=27.0, standard_error=0.1, n=4, rounded=True)
    record = Record.of(measurement, {"seed": 3, "run": "a"})
    assert (record.metric, record.n, record.seed, record.run) == ("psnr", 4, 3, "a")
    with pytest.raises(TypeError, match="colour"):
        Record.of(measurement, {"colour": 3})


@pytest.mark.parametrize(
    "field",
    ["metric", "n", "features", "features_hash", "reference_hash", "paired", "rounded", "kind", "data", "split"],
)
def test_what_must_agree(field):
    other = replace(
        FULL,
        **{field: {"n": 0, "paired": False, "rounded": False}.get(field, "other")},
        seed=5,
        value=1.0,
        drawn={"sampler": "ddpm"},
    )
    assert comparable(FULL, other) == [field]
    assert comparable(FULL, replace(FULL, seed=5, drawn={"sampler": "ddpm"})) == []


def test_seeds_are_averaged():
    runs = [replace(FULL, run=f"r{s}", seed=s, value=v, seconds=float(s)) for s, v in enumerate([1.0, 2.0, 6.0])]
    other = [replace(r, drawn={"sampler": "ddpm"}, value=r.value + 1) for r in runs[:1]]
    first, second = table([*runs, *other])
    assert (first.mean, first.seeds, first.n) == (3.0, 3, 512)
    assert first.standard_error == pytest.approx(math.sqrt(7 / 3))  # s^2 = (4 + 1 + 9) / 2 = 7
    assert first.setting["drawn"]["sampler"] == "ddim" and "kind" not in first.setting
    assert (second.mean, second.seeds, second.standard_error) == (2.0, 1, 0.5)


def test_measuring_again_replaces():
    (row,) = table([FULL, replace(FULL, value=9.0, date="later")])
    assert (row.mean, row.seeds) == (9.0, 1)


@pytest.mark.parametrize(
    "change", [{"n": 1024}, {"reference_hash": "s"}, {"paired": False}, {"rounded": False}, {"split": "val"}]
)
def test_numbers_that_cannot_be_compared_get_no_column(change):
    with pytest.raises(Incomparable, match=rf"fd_x of a and of b may not.*{next(iter(change))}"):
        table([FULL, replace(FULL, run="b", **change)])
    assert len(table([FULL, replace(FULL, metric="fd_y", run="b", **change)])) == 2


def test_two_seeds_have_an_error_of_their_own():
    (row,) = table([replace(FULL, seed=seed, run=f"s{seed}", value=value) for seed, value in ((0, 3.0), (1, 5.0))])
    assert (row.mean, row.seeds) == (4.0, 2)
    assert row.standard_error == pytest.approx(1.0)  # sqrt((1 + 1) / 1 / 2)


def test_half_a_line_is_told(tmp_path, monkeypatch):
    path = tmp_path / "records.jsonl"
    monkeypatch.setattr("ldm.run.record.os.write", lambda *_: 3)
    with pytest.raises(OSError, match=r"only 3 of \d+ bytes of records could be written to .*is the disk full\?"):
        write(path, FULL)
