"""`ldm demo`: its words, and what is told before a model is loaded."""

import builtins
import logging

import pytest

from ldm.__main__ import main
from ldm.command.demo import demo, given, samplers
from ldm.demo.held_out import examples
from tests.pieces import CONF
from tests.runs import saved, tiny


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["runs/first"], "runs/first: a word is NAME=VALUE, as run=runs/first"),
        (["run=a", "agianst=b"], "agianst=: no such word; did you mean against?"),
        (["--run=a", "--agianst=b"], "agianst=: no such word; did you mean against?"),
        (["run=a", "run=b"], "run= is told twice"),
        (["run=a", "port="], "port= has no value"),
        (["port=80"], "no run is named: give run=DIR"),
        (["run=a", "port=99999"], "port: Input should be less than or equal to 65535; got '99999'"),
        (["run=a", "most=0"], "most: Input should be greater than 0; got '0'"),
        (["run=a", "seconds=soon"], "seconds: Input should be a valid number"),
        (["run=a", "weights=mean"], "weights: Input should be 'average', 'raw' or 'best'; got 'mean'"),
    ],
)
def test_wrong_words_are_told_in_a_line(words, said, capsys):
    assert main(["demo", *words]) == 1
    error = capsys.readouterr().err
    assert error.startswith("ldm: ") and said in error and len(error.splitlines()) == 1


def test_without_gradio_it_says_what_to_install(monkeypatch, capsys):
    own = builtins.__import__

    def without(name, *arguments):
        if name.partition(".")[0] == "gradio":
            raise ImportError(name)
        return own(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without)
    assert main(["demo", "run=absent"]) == 1
    assert capsys.readouterr().err == "ldm: ldm demo needs gradio: pip install 'ldm[demo]'\n"


def test_help_names_every_word_within_80_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main(["demo", "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    told = {line.split("=")[0].strip() for line in lines[lines.index("words:") :] if "=" in line[:13]}
    assert told == set(demo.__annotations__) - {"return"}


def test_words_are_taken_by_name_and_may_hold_more_equals_signs():
    assert given(["run=a=b", "host=0.0.0.0"]) == {"run": "a=b", "host": "0.0.0.0"}


def test_every_sampler_is_offered():
    assert samplers().keys() == {file.stem for file in (CONF / "diffusion" / "sampler").glob("*.yaml")}
    assert samplers()["dpmpp_2m_sde"] == {"_target_": "ldm.diffusion.sampler.dpmpp.DPMpp", "sde": True}


def test_held_out_images_are_those_of_the_run_or_of_a_folder(tmp_path, caplog):
    run = saved(tmp_path / "run", tiny(tmp_path))
    found = examples(str(run), None, (3, 32, 32))
    assert len(found) == 6 and found[0].size == (32, 32)  # data.val.count
    found[2].save(tmp_path / "a.png")
    (one,) = examples(str(run), str(tmp_path / "a.png"), (3, 16, 16))
    assert one.size == (16, 16)
    with pytest.raises(FileNotFoundError, match=r"images=.*absent: there is no such file or folder"):
        examples(str(run), str(tmp_path / "absent"), (3, 16, 16))
    (run / "config.yaml").unlink()
    with caplog.at_level(logging.INFO):
        assert examples(str(run), None, (3, 32, 32)) == [] and "no held-out images are offered" in caplog.text
