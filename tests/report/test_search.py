"""What a report says of a search, from a file that anyone may have written."""

import json

from ldm.report.search import FILE, search_in

FACTS = {
    "goal": [{"name": "psnr", "direction": "maximize"}],
    "trials": [
        {
            "number": 0,
            "state": "complete",
            "values": [20.0],
            "chosen": {"lr": 0.001234567, "width": 8},
            "runs": ["s/a"],
        },
        {"number": 1, "state": "complete", "values": [30.0], "chosen": {"lr": 0.01, "width": 16}, "runs": ["s/b"]},
        {"number": 2, "state": "pruned", "values": [5.0], "chosen": {"lr": 0.1, "width": 16}, "runs": ["s/c"]},
        {"number": 3, "state": "complete", "values": [25.0], "chosen": {"lr": 0.02, "width": 8}, "runs": ["s/d"]},
        {"number": 4, "state": "fail", "values": None, "chosen": {"lr": 0.02, "width": "<b>"}, "runs": ["s/e"]},
    ],
    "importances": [{"width": 0.25, "lr": 0.75}],
    "best": [{"number": 1, "command": "python train.py lr=0.01 'name=a b'"}],
}


def test_the_best_trial_is_said_with_its_words(tmp_path):
    (tmp_path / FILE).write_text(json.dumps(FACTS))
    search = search_in(tmp_path)
    assert search.sentences == [
        "5 trials by psnr: 3 finished, 1 pruned, 1 failed.",
        "Best: trial 2 with psnr 30, lr=0.01, width=16.",
    ]
    html, markdown = search.html(), search.markdown()
    assert "<pre>python train.py lr=0.01 &#x27;name=a b&#x27;</pre>" in html
    assert "Importance for psnr: lr 0.75, width 0.25." in markdown and "```sh\npython train.py lr=0.01" in markdown
    assert html.index("lr  0.75") < html.index("width  0.25"), "the greatest share first"
    assert "PSNR, dB, best so far" in html


def test_the_best_so_far_is_of_finished_trials(tmp_path):
    """20, 30 and once more 30; where less is better 20, 20 and 20."""
    for direction, wanted in (("maximize", "30"), ("minimize", "20")):
        (tmp_path / FILE).write_text(json.dumps(FACTS | {"goal": [{"name": "psnr", "direction": direction}]}))
        assert f"best <b>{wanted}</b>" in search_in(tmp_path).html()


def test_a_file_that_is_none_is_left_out(tmp_path):
    assert search_in(tmp_path) is None
    for text in ("", "[]", "{", json.dumps(FACTS | {"goal": [{"name": "a", "direction": "up"}]})):
        (tmp_path / FILE).write_text(text)
        assert search_in(tmp_path) is None


def test_names_are_no_markup(tmp_path):
    aim = {"name": "<script>", "direction": "minimize"}
    (tmp_path / FILE).write_text(json.dumps(FACTS | {"goal": [aim], "importances": [{"<b>": 1.0}]}))
    html = search_in(tmp_path).html()
    assert "<script>" not in html and "<b>  1" not in html
