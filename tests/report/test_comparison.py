"""What stands in one column, what is marked, and what is said."""

import json

import pytest

from ldm.report.collection import collect
from ldm.report.comparison import Mark, apart, compare
from ldm.report.setting import settings
from ldm.report.several import Several, several
from ldm.report.written import latex, markdown, write
from tests.report.runs import record, run

GLOW = {"prior___target_": "ldm.prior.glow.Glow"}


def sweep(folder, ours, theirs, metric="fd_x", error=0.01) -> Several:
    """Two settings, Diffusion and Glow, with these numbers by seed."""
    for name, values, words in (("ours", ours, {}), ("theirs", theirs, GLOW)):
        for seed, value in enumerate(values):
            run(folder / f"{name}-{seed}", record(metric, value, standard_error=error), seed=seed, **words)
    return several(collect([str(folder)]))


def marks(found: Several) -> dict[str, Mark]:
    return {found.comparison.rows[i].label: mark for i, mark in found.comparison.marks[0].items()}


def test_the_best_is_marked_where_it_is_told(tmp_path):
    found = sweep(tmp_path, (1.0, 1.1, 1.2), (2.0, 2.1, 2.21))
    assert marks(found) == {"Diffusion": Mark.BEST, "Glow": Mark.PLAIN}
    [verdict] = found.verdicts
    assert verdict.startswith(
        "FD, x, n = 100: Diffusion is best with 1.10 ± 0.10; Glow, the nearest, is higher by 1.003 ["
    )
    assert verdict.endswith("(47.7%; 3 pairs of seeds).")  # of 2.103


def test_network_evaluations_are_one_number_whether_a_metric_or_a_record_says_them(tmp_path):
    """Of a run that measured its cost, and of an older one whose records alone say it."""
    run(tmp_path / "a", record(evaluations=16), record("network_evaluations", 16.0, evaluations=16))
    run(tmp_path / "b", record(evaluations=8), **GLOW)
    found = several(collect([str(tmp_path)])).comparison
    titles = [column.quantity.title for column in found.columns if column.metric == "network_evaluations"]
    assert titles and not [column for column in found.columns if column.metric == "evaluations"]
    values = {
        row.label: [row.summary(i).mean for i in row.numbers if found.columns[i].metric == "network_evaluations"]
        for row in found.rows
    }
    assert values == {"Diffusion": [16.0], "Glow": [8.0]}


def test_higher_is_better_where_it_is(tmp_path):
    assert marks(sweep(tmp_path, (0.1, 0.11, 0.12), (0.5, 0.51, 0.53), "recall_x"))["Glow"] is Mark.BEST


def test_a_tie_is_said(tmp_path):
    found = sweep(tmp_path, (1.0, 2.0, 3.0), (1.5, 1.4, 3.2))
    assert set(marks(found).values()) == {Mark.TIED}
    assert "no best can be told" in found.verdicts[0] and "that can be none" in found.pair_verdicts[1]


def test_single_seeds_that_are_close_are_no_verdict(tmp_path):
    found = sweep(tmp_path, (1.0,), (1.02,))
    assert set(marks(found).values()) == {Mark.TIED} and "no verdict" in found.verdicts[0]
    assert "no verdict" in found.pair_verdicts[1]


def test_unpaired_runs_are_left_out_aloud(tmp_path):
    found = sweep(tmp_path, (1.0, 1.1, 1.2, 5.0), (2.0, 2.1, 2.21))
    assert any("ours-3" in line and "left out" in line for line in found.remarks)
    assert "left out: 1 run" in found.pair_verdicts[1]
    difference = found.comparison.difference(0, 0, 1)
    assert difference.pairs == 3 and abs(difference.mean) == pytest.approx(1.0033, abs=1e-3)


@pytest.mark.parametrize(
    ("field", "value"),
    [("n", 200), ("features_hash", "g"), ("reference_hash", "q"), ("rounded", False), ("data", "e"), ("kind", "bound")],
)
def test_what_was_measured_otherwise_is_never_in_one_column(tmp_path, field, value):
    run(tmp_path / "a", record(value=1.0))
    run(tmp_path / "b", record(value=2.0, **{field: value}), **GLOW)
    found = compare(settings(collect([str(tmp_path)]).runs))
    assert len(found.columns) == 2 and all(len(row.numbers) == 1 for row in found.rows)
    [said] = apart(found)
    assert "not measured alike" in said and "Diffusion" in said and "Glow" in said
    assert not any(Mark.BEST in each.values() for each in found.marks)


def test_seconds_of_other_devices_are_not_compared(tmp_path):
    run(tmp_path / "a", facts={"seconds": {"total": 10.0}})
    run(tmp_path / "b", facts={"seconds": {"total": 20.0}, "device": "GPU"}, **GLOW)
    found = compare(settings(collect([str(tmp_path)]).runs))
    assert [column.metric for column in found.columns] == ["training_seconds"] * 2
    assert "device CPU in Diffusion; device GPU in Glow" in apart(found)[0]


def test_ways_of_sampling_are_rows(tmp_path):
    told = [
        record(value=1.0),
        record(value=2.0, drawn={"prior": "diffusion", "steps": 5}),
        record("psnr", 20.0, drawn=None),
    ]
    run(tmp_path / "a", *told)
    found = compare(settings(collect([str(tmp_path)]).runs))
    assert [row.label for row in found.rows] == ["custom", "custom · steps 5"]
    assert [len(row.numbers) for row in found.rows] == [2, 2]  # PSNR is of both


def test_of_one_setting_and_seed_the_newest_counts_and_it_is_told(tmp_path):
    run(tmp_path / "a", record(value=1.0, date="2026-01-01"))
    run(tmp_path / "b", record(value=2.0, date="2026-01-02"))
    found = compare(settings(collect([str(tmp_path)]).runs))
    assert [row.summary(0).mean for row in found.rows] == [2.0] and "the newer, b, counts" in found.notes[0]


def test_a_name_that_nobody_knows_is_in_a_column_without_a_best(tmp_path):
    found = sweep(tmp_path, (1.0, 1.1), (2.0, 2.1), "flavour")
    assert set(marks(found).values()) == {Mark.PLAIN} and any("Flavour" in line for line in found.remarks)


def test_two_that_are_chosen_are_compared_by_label_or_run(tmp_path):
    sweep(tmp_path, (1.0, 1.1, 1.2), (2.0, 2.1, 2.21))
    run(tmp_path / "third", record(value=9.0), prior__steps=77)
    runs = collect([str(tmp_path)])
    assert several(runs).pair is None
    found = several(runs, pair=("theirs-0", "Diffusion · steps=77"))
    assert (
        found.comparison.rows[found.pair[0]].label == "Glow" and "Of 1 number Glow is better" in found.pair_verdicts[0]
    )
    with pytest.raises(ValueError, match=r"compare=Glou: no setting and no run has this name; did you mean Glow\?"):
        several(runs, pair=("Glou", "Glow"))


def test_all_files_are_of_one_comparison(tmp_path):
    found = sweep(tmp_path / "runs", (1.0, 1.1, 1.2), (2.0, 2.1, 2.21))
    write(found, tmp_path / "out")
    facts = json.loads((tmp_path / "out" / "report.json").read_text())
    [column] = facts["columns"]
    assert column["rows"][0] == column["rows"][0] | {"setting": "Diffusion", "mark": "best", "seeds": 3}
    assert (
        column["rows"][1]["from_best"]["mean"] == pytest.approx(1.0033, abs=1e-3)
        and column["rows"][1]["from_best"]["told"]
    )
    assert facts["compared"]["a"] == "Diffusion" and len(facts["runs"]) == 6
    lines = (tmp_path / "out" / "report.csv").read_text().splitlines()
    assert len(lines) == 3 and lines[1].startswith("Diffusion,fd_x,100,3,1.1,0.01,0.1,best,Diffusion,")
    assert "| Diffusion | 3 | **1.10** | 0.01 | 0.10 |" in markdown(found)
    assert r"Diffusion & 3 & \textbf{1.10} & 0.01 & 0.10 \\" in latex(found)


def test_features_of_a_trained_network_are_the_headline_where_there_are_some(tmp_path):
    """Though those of an untrained one come first, and by them the other row would be the best."""
    for name, untrained, trained, steps in (("a", 1.0, 9.0, 1), ("b", 2.0, 3.0, 2)):
        weak = record("fd_random_conv", untrained, features="random_conv")
        run(tmp_path / name, weak, record("fd_classifier", trained, features="classifier"), prior__steps=steps)
    found = several(collect([str(tmp_path)]))
    assert found.comparison.columns[found.headline].metric == "fd_classifier"
    assert [row.setting.runs[0][1].name for row in found.comparison.rows] == ["b", "a"]
    [samples] = found.tables.values()
    assert ["classifier" in head.title for head in samples.heads[2:]] == [
        True,
        False,
    ]  # the headline's column is the first
    assert [[cell.text for cell in row[2::2]] for row in samples.rows] == [["3.000", "2.000"], ["9.000", "1.000"]]
