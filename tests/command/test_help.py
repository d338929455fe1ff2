"""Help with a word says what its class takes, at the width of the terminal."""

import re

import pytest

from ldm.command.compose import composed
from ldm.command.help import help_text, wrapped
from ldm.command.words import misspelt
from ldm.signature import declared
from tests.pieces import CONF
from tests.test_layers import ROOT

FOLDERS = [folder.relative_to(CONF) for folder in CONF.rglob("*") if folder.is_dir()]
OF_TASKS = ["diffusion/posterior", "task"]  # which ldm apply alone has
GROUPS = sorted({folder.as_posix() for folder in FOLDERS if folder.parts[0] != "hydra"} - {*OF_TASKS})


DRAWING, OTHERS = ("config", "sample", "apply", "evaluate"), ("export", "import")


def help_of(*words: str, entry: str = "config") -> str:
    return help_text(list(words), CONF, entry, lambda given: composed(CONF, entry, given))


@pytest.mark.parametrize("columns", [60, 80, 200])
@pytest.mark.parametrize("entry", [*DRAWING, *OTHERS])
def test_no_line_is_wider_than_the_terminal(entry, columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    for words in ([], ["diffusion/sampler=heun"]) if entry in DRAWING else ([],):
        text = help_of("--help", *words, entry=entry)
        wide = [line for line in text.splitlines() if len(line) > columns and " " in line.strip()]
        assert not wide


@pytest.mark.parametrize("entry", [*DRAWING, *OTHERS])
def test_all_words_of_an_entry_point(entry):
    text = help_of("--help", entry=entry)
    top = re.findall(r"^(\w+): \S", (CONF / f"{entry}.yaml").read_text(encoding="utf-8"), re.MULTILINE)
    assert all(f"\n  {word}=" in text for word in top)
    groups = GROUPS if entry == "config" else ["diffusion/sampler"] if entry in DRAWING else []
    assert all(f"\n  {group}: " in text for group in groups)


@pytest.mark.parametrize("group", [*GROUPS, *OF_TASKS])
def test_every_word_tells_its_header_and_its_arguments(group, monkeypatch):
    monkeypatch.setenv("COLUMNS", "10000")
    entry = "apply" if group in OF_TASKS else "config"
    place = group.replace("/", ".")
    for file in sorted((CONF / group).glob("*.yaml")):
        text, lines = help_of(f"{group}={file.stem}", entry=entry), file.read_text(encoding="utf-8").splitlines()
        header = [line.lstrip("# ") for line in lines[: next(i for i, line in enumerate(lines) if line[:1] != "#")]]
        assert all(line in text for line in header if not line.startswith("@package"))
        target = re.findall(r"^_target_: (ldm[\w.]+)", "\n".join(lines), re.MULTILINE)
        for name, argument in declared(target[0]).arguments.items() if target else ():
            assert f"\n{place}.{name}: " in text and f"\n    {argument.doc}\n" in f"{text}\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["prior"], ["prior=", "\n  normal\n      The standard normal: with autoencoder=vae, a plain VAE."]),
        (["seed"], ["seed = 0\n    of first weights, order, noise and samples"]),
        (
            ["first.clip"],
            ["first.clip: PositiveFloat = 1.0\n    the greatest norm of the gradient of each optimiser's parameters."],
        ),
        (["first.steps=500"], ["first.steps: PositiveInt   (here 500)"]),
        (["experiment=shapes", "prior.steps"], ["prior.steps: PositiveInt = 50   (here 10)"]),
        (["first.optimizer.lr"], ["first.optimizer.lr: ", " = 0.001   (here 0.0003)\n    learning rate"]),
        (["second"], ["second: ldm.stage.recipe.Recipe", "second.patience: PositiveInt = 20"]),
        (
            ["trainer.precision"],
            ["trainer.precision: ", "   (here 32-true)\n    Double precision (64, '64' or '64-true')"],
        ),
        (["data=coco", "data.train.root"], ["data.train.root: Path", "(here to be given)"]),
        (["diffusion=flow"], ["Rectified flow", "- schedule: rectified"]),
        (["stage@second=second"], ["second.snapshots: NonNegativeInt = 0   (here 8)"]),
    ],
)
def test_one_word(words, said, monkeypatch):
    monkeypatch.setenv("COLUMNS", "10000")
    text = help_of(*words)
    assert misspelt(["--help", *words], CONF) is None
    assert all(each in text for each in said), text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["first.stepz"],
            "first.stepz: nothing has the name stepz in first; did you mean steps? There are steps, optimizer,",
        ),
        (["data.train.rot"], "data.train.rot: nothing has the name rot in data.train."),
        (["first.steps.more"], "first.steps.more: nothing has the name more in first.steps."),
    ],
)
def test_no_such_place(words, said):
    with pytest.raises(KeyError) as found:
        help_of(*words)
    assert found.value.args[0].startswith(said)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--help", "frist"], "frist: no such word; did you mean first?"),
        (["-h", "prior=difusion"], "prior=difusion: no such prior; did you mean diffusion?"),
        (["prior"], "prior: a word is KEY=VALUE, as prior=..."),
    ],
)
def test_words_of_help_are_checked(words, said):
    assert misspelt(words, CONF).startswith(said)


def test_wrapped():
    text = "  python train.py a=1      what it does\n\nA sentence of seven words.\n  key: one, two, three, four"
    assert wrapped(text, 24) == (
        "  python train.py a=1\n        what it does\n\nA sentence of seven\nwords.\n  key: one, two, three,\n      four"
    )
    assert wrapped(text, 80) == text


def test_the_readme_names_it():
    assert "train.py --help" in (ROOT / "README.md").read_text(encoding="utf-8")
