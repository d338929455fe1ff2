"""The words of a command line through the real parsers: what the shell hands over arrives, and what is wrong is told in one line
that says what to type."""

import inspect
import re
import subprocess
import sys
import typing

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

from ldm.command import grammar
from ldm.command.grammar import at_home, left_open, quoted, understood, unquoted
from ldm.command.words import heard, misspelt
from ldm.resolve import resolve
from tests.pieces import CONF
from tests.runs import compose

ROOT = CONF.parent

TEXTS = [
    *(
        "a large blue star",
        "",
        "3",
        "true",
        "a, b",
        "[a]",
        "{a: b}",
        "(a",
        "a]",
        "k=v",
        "it's",
        "'quoted'",
        '"quoted"',
        "'",
    ),
    *("cost ${x}", "${", "\\${x}", "\\\\${x}", "$x", "}", "${a}\\", "C:\\dir\\", "\\", "\\\\", "\\'", "a\\n", "\\\n"),
    *(
        "two\nlines",
        "\ttab",
        "# no comment",
        "50 %",
        "~",
        "~/x",
        "a&b|c;d<e>`f`",
        "!a",
        "*?",
        "@",
        ":",
        "???",
        "-x",
        " spaces ",
    ),
    *("Grüße", "星の絵", "\N{SNOWMAN}"),
]
PATHS = [
    *(
        "runs/nine/seed=0,diffusion=ddpm",
        "a b/c",
        "br[ack]et",
        "t[1].parquet",
        "(1)",
        "it's",
        'say "x"',
        "a#b",
        "a,b",
        "$HOME",
    ),
    *(
        "${HOME}/x",
        "Bücher/日",
        "a=b=c",
        "2024",
        ".5",
        "1e3",
        "-v",
        "100%",
        "a:b",
        "a;b",
        "a\\b",
        "x{y}",
        "nan",
        "..",
        "../x",
        "/",
    ),
    *("../x", "/", "D/a/b", "org/name", "name@rev", "choice(a,b)", "x~", "*.tar"),
]
PATH_WORDS = {
    "sample": ["run", "guide", "prompts", "out"],
    "apply": ["run", "guide", "images", "out", "task.others"],
    "evaluate": ["run", "guide", "data.root", "store", "metric.x.weights", "data.val.files"],
    "config": [
        *("runs", "store", "name", "data.root", "autoencoder.checkpoint", "data.train.files", "data.train.path"),
        *("data.val.split", "metric.x.weights", "condition.source", "data.train.name"),
    ],
}


def read(config: dict, key: str):
    for part in key.split("."):
        config = config[part]
    return config


def rounds(values: list[str], keys: list[str]) -> list[dict[str, str]]:
    """Words that between them say every value, a few in each composition, for that takes a tenth of a second."""
    return [
        {key: values[(start + i) % len(values)] for i, key in enumerate(keys)}
        for start in range(0, len(values), len(keys))
    ]


@pytest.mark.parametrize("given", rounds(TEXTS, ["prompt", "negative", "label"]))
def test_a_text_arrives_to_the_letter(given):
    config = compose(
        *heard(["run=x", *(f"{key}={text}" for key, text in given.items())], CONF, "sample"), name="sample"
    )
    assert {key: config[key] for key in given} == given


@pytest.mark.parametrize(
    ("entry", "given"), [(entry, given) for entry, keys in PATH_WORDS.items() for given in rounds(PATHS, keys)]
)
def test_a_path_arrives_to_the_letter_whatever_the_word(entry, given):
    arguments = [f"{key}={path}" for key, path in given.items()] + ["task=anomaly"] * (entry == "apply")
    config = at_home(compose(*heard(arguments, CONF, entry), name=entry))
    assert {key: read(config, key) for key in given} == given


def test_a_path_reaches_what_refers_to_it():
    config = compose(*heard(["data=coco", "data.root=/x/${y}, 'z'"], CONF))
    assert config["data"]["train"]["root"] == config["data"]["val"]["root"] == "/x/${y}, 'z'"


def test_null_is_none_and_lists_stay_lists():
    given = ["autoencoder.checkpoint=null", "name=null", "data=hub", "data.train.files=[a b.tar,'c,d.tar']"]
    config = compose(*heard([*given, "data.train.caption=[text,caption]"], CONF))
    assert config["autoencoder"]["checkpoint"] is None and config["name"] is None
    assert config["data"]["train"]["files"] == ["a b.tar", "c,d.tar"]
    assert config["data"]["train"]["caption"] == ["text", "caption"]


def test_null_is_no_text():
    config = compose(*heard(["run=x", "prompt=null", "negative=null", "label='null'"], CONF, "sample"), name="sample")
    assert (config["prompt"], config["negative"], config["label"]) == (None, None, "'null'")


def test_quotes_around_a_whole_path_are_hydras():
    config = compose(*heard(["runs='/x/my runs'", 'store="a, b"'], CONF))
    assert (config["runs"], config["store"]) == ("/x/my runs", "a, b")


def test_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    given = ["runs=~/runs", "store=~", "data=hub", "data.root=~/a b", "data.train.files=[~/x,y~]", "name=~"]
    config = at_home(compose(*heard(given, CONF)))
    assert (config["runs"], config["store"], config["data"]["root"]) == ("/home/me/runs", "/home/me", "/home/me/a b")
    assert config["data"]["train"]["root"] == "/home/me/a b", "what refers to it, too"
    assert config["data"]["train"]["files"] == ["/home/me/x", "y~"] and config["name"] == "~"
    assert at_home({"prompt": "~/x"}) == {"prompt": "~/x"}


@pytest.mark.parametrize("path", PATHS)
def test_what_is_understood_once_is_understood_twice(path):
    """A job of a sweep is given the words that the sweep has read."""
    once = understood(f"data.root={path}")
    assert understood(once) == once


def test_the_captions_of_several_images_are_a_list():
    assert understood("task.source=[a red star,'b, and c']") == "++task.source=['a red star','b, and c']"
    assert understood("task.source=a red star, large") == "++task.source='a red star, large'"


@pytest.mark.parametrize("text", [*TEXTS, *PATHS])
def test_unquoted_is_the_inverse(text):
    assert unquoted(quoted(text)) == text or text == "???"


def jobs(*given: str) -> list[list[str]]:
    own = [understood(word, sweep=True) for word in given]
    return BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(own), None)[0]


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("D/a,D/b", ["D/a", "D/b"]),
        ("D/a/b,D/a-b", ["D/a/b", "D/a-b"]),
        ("'D/a,b',D/c", ["D/a,b", "D/c"]),
        ("a b,c=d,(e)", ["a b", "c=d", "(e)"]),
        ("choice(D/a,D/b)", ["D/a", "D/b"]),
        ("D/a", ["D/a"]),
    ],
)
def test_in_a_sweep_a_comma_separates_but_in_quotes(value, wanted):
    found = jobs("data=folder", f"data.root={value}", "seed=0")
    assert [compose(*job)["data"]["root"] for job in found] == wanted
    assert [compose(*map(understood, job))["data"]["root"] for job in found] == wanted, "and so in its job"


# What is wrong


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("--seed", "--seed: a word is KEY=VALUE, as seed=..."),
        ("logger=null", "logger=null: say logger=none"),
        ("condition=null", "condition=null: say condition=none"),
        ("alignment=null", "alignment=null: say alignment=none"),
        ("metric=null", "metric=null: say metric=none"),
        ("stage@second=null", "stage@second=null: say stage@second=none"),
        ("stage@first=null", "stage@first=null: say stage@first=none"),
        ("second=null", "second=null: say stage@second=none"),
        ("second=none", "second=none: say stage@second=none"),
        ("stage=none", "stage=none: of which stage? Say stage@first=none or stage@second=none"),
        ("prior=null", "prior=null: there is no run without. There are categorical, cnf, consistency, diffusion"),
        ("logger=xx", "logger=xx: no such logger. There are none, tensorboard, trackio, wandb"),
        (
            "logger=wandbb",
            "logger=wandbb: no such logger; did you mean wandb? There are none, tensorboard, trackio, wandb",
        ),
        ("frist.steps=3", "frist.steps: no such word as frist; did you mean first? There are alignment, "),
        ("qqq=3", "qqq: no such word. There are alignment, "),
        ("first.steps", "first.steps: a word is KEY=VALUE, as first.steps=..."),
        ("SEED=3", "SEED: no such word; did you mean seed? There are alignment, "),
        ("prior=", "prior=: no such prior. There are categorical, cnf, "),
        ("data=0.5", "data=0.5: no such data. There are "),
        ("prior=glow.yaml", "prior=glow.yaml: no such prior; did you mean glow?"),
        ("prior=gan,", "prior=: no such prior. There are categorical, cnf, "),
        ("metric=[fid,default]", "metric=fid: no such metric. There are attributes, "),
        ("~prior", "prior=null: there is no run without. There are categorical, cnf, "),
        ("~callback", "callback=null: say callback=none"),
        ("lr=3", "lr: no such word alone; say first.optimizer.lr=3 or second.optimizer.lr=3"),
        ("batch_size=3", "batch_size: no such word alone; say data.batch_size=3"),
        ("samples=3", "samples: no such word alone; say evaluation.samples=3"),
        ("sampler=heun", "sampler: no such word alone; say diffusion/sampler=heun"),
    ],
)
def test_a_wrong_word_says_what_to_type(argument, said):
    found = misspelt([argument], CONF)
    assert found is not None and found.startswith(said) and len(found.splitlines()) == 1


@pytest.mark.parametrize("argument", ["~experiment", "metric=[]", "metric=[offline,default]", "logger=wandb,none"])
def test_what_may_be_left_out_or_listed_is_right(argument):
    assert misspelt([argument], CONF) is None


def test_an_argument_of_a_chosen_word_is_found():
    assert misspelt(["run=x", "images=y", "task=inpaint", "mask=box"], CONF, "apply") == (
        "mask: no such word alone; say task.mask=box"
    )
    assert misspelt(["prior=gan", "r1=3"], CONF) == "r1: no such word alone; say prior.r1=3"
    assert misspelt(["r1=3"], CONF).startswith("r1: no such word. There are alignment, ")
    assert misspelt(["experiment=fashion_mnist_gan", "r1=3"], CONF) == "r1: no such word alone; say prior.r1=3"
    assert misspelt(["experiment=fashion_mnist_glow", "lr=3"], CONF) == (
        "lr: no such word alone; say first.optimizer.lr=3 or second.optimizer.lr=3"
    )
    assert misspelt(["metric=[offline,memorisation]", "shown=3"], CONF) == (
        "shown: no such word alone; say metric.memorisation.shown=3"
    )
    assert misspelt(["prior=glow,gan", "r1=3"], CONF) == "r1: no such word alone; say prior.r1=3"


HEADS = "has no head; these have: pixelcnn, transformer"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("prior/head=categorical", f"prior/head=categorical: prior=diffusion {HEADS}"),
        ("prior/head=categorical prior=pixelcnn", None),
        (
            "prior=transformer,gan prior/head=categorical,diffusion",
            f"prior/head=categorical,diffusion: prior=gan {HEADS}",
        ),
        ("experiment=fashion_mnist_vq prior/head=gaussian_mixture", None),
        ("experiment=fashion_mnist_vq prior=gan prior/head=categorical", f"prior/head=categorical: prior=gan {HEADS}"),
        ("experiment=mnist_pixels_pixelcnn prior/head=logistic_mixture", None),
        ("experiment=mnist_pixels_pixelcnn prior=transformer", None),
        (
            "experiment=mnist_pixels_pixelcnn prior=glow",
            f"prior/head=categorical is of the experiment, and prior=glow {HEADS}; or take another experiment",
        ),
        ("experiment=mnist_pixels_pixelcnn,mnist_pixels_glow", None),
        ("experiment=fashion_mnist_vq,mnist_pixels_pixelcnn prior/head=categorical", None),
        (
            "experiment=fashion_mnist_vq,mnist_pixels_glow prior/head=categorical",
            f"prior/head=categorical: prior=glow {HEADS}",
        ),
        (
            "experiment=fashion_mnist_vq,shapes prior/head=categorical",
            f"prior/head=categorical: prior=diffusion {HEADS}",
        ),
        ("experiment=glob(*vq) prior/head=categorical", None),
        ("prior=choice(pixelcnn,transformer) prior/head=categorical", None),
        ("backbone/routing=tread", "backbone/routing=tread: backbone=unet has no routing; these have: dit, dit_small"),
        ("diffusion=v diffusion/sampler=ddim experiment=shapes", None),
        ("prior=variational_dequantisation prior/transform@prior.prior.transform=spline", None),
    ],
)
def test_a_word_below_another_one_is_told_where_that_has_no_place_for_it(arguments, said):
    assert misspelt(arguments.split(), CONF) == said


@pytest.mark.parametrize("base", ["- /experiment: fashion_mnist_vq", "- /experiment/fashion_mnist_vq", "- mine"])
def test_an_experiment_may_go_on_from_another(tmp_path, base):
    """In a folder of one's own."""
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("defaults:\n  - /experiment/fashion_mnist_vq\nseed: 3\n")
    (tmp_path / "experiment" / "own.yaml").write_text(f"defaults:\n  {base}\n  - _self_\nseed: 4\n")
    given = [f"--config-dir={tmp_path}", "experiment=own"]
    assert misspelt([*given, "prior/head=categorical"], CONF) is None
    assert misspelt([*given, "prior/transform=spline"], CONF).startswith(
        "prior/transform=spline: prior=pixelcnn has no "
    )


@pytest.mark.parametrize("value", ["none", "null", "64", "[1]"])
def test_a_mapping_has_no_value_of_its_own(value):
    """None that Hydra could merge with it: a run would find a word where it looks for arguments."""
    said = "evaluation: no such word alone; its arguments are set one by one, as evaluation.NAME=VALUE"
    assert misspelt([f"evaluation={value}"], CONF) == said
    assert misspelt(["evaluation={samples: 64}"], CONF) is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "run= is missing; a finished run's directory"),
        (["run=x", "first.steps=3"], "first.steps: no such word as first. There are data, "),
        (["run=x", "data=shapes"], "data: no such word alone; its arguments are set one by one, as data.NAME=VALUE"),
        (["run=x", "metric=ofline"], "metric=ofline: no such metric; did you mean offline?"),
        (["run=my", "run"], 'run: a word is KEY=VALUE; a value with spaces is in quotes: run="my run ..."'),
        (["run=x", "data.root=y", "metric.distances.networks={}", "evaluation.batch=3", "metric=offline"], None),
        (["--help"], None),
        (["--cfg", "job"], None),
    ],
)
def test_words_of_measuring_again(arguments, said):
    found = misspelt(arguments, CONF, "evaluate")
    assert found == said or found.startswith(said)


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("--data.batch_size=8", "++data.batch_size=8"),
        ("--prior=diffusion", "prior=diffusion"),
        ("--diffusion/sampler=ddim", "diffusion/sampler=ddim"),
        ("--name=a=b", "name='a=b'"),
        ("--data.val=None", "++data.val=null"),
        ("--cfg=job", "--cfg=job"),
        ("--config-name=config", "--config-name=config"),
        ("seed=1", "seed=1"),
    ],
)
def test_a_word_may_have_dashes(said, meant):
    assert heard([said], CONF) == [meant]


def test_the_words_of_a_wandb_sweeps_agent_are_those_of_a_shell():
    """As W&B's own agent makes them: `${args}` and `${args_no_hyphens}`."""
    utils = pytest.importorskip("wandb.sdk.launch.sweeps.utils")
    chosen = {"first.optimizer.lr": 0.00025, "diffusion": "flow", "data.val": None, "backbone.multipliers": [1, 2]}
    made = utils.create_sweep_command_args({"args": {key: {"value": value} for key, value in chosen.items()}})
    assert made["args"][0] == "--first.optimizer.lr=0.00025" and made["args_no_hyphens"][1] == "diffusion=flow"
    config = compose(*heard(made["args"], CONF))
    assert config["first"]["optimizer"]["lr"] == 0.00025 and config["data"]["val"] is None
    assert config["backbone"]["multipliers"] == [1, 2]
    assert config["diffusion"] == compose("diffusion=flow")["diffusion"] != compose()["diffusion"]
    plain = compose(*heard([word for word in made["args_no_hyphens"] if "None" not in word], CONF))
    assert plain | {"data": None} == config | {"data": None}


def test_left_open():
    assert left_open({"a": "???", "b": {"c": [1], "d": {"e": "???"}}, "f": "?"}) == ["a", "b.d.e"]


@pytest.mark.parametrize("entry", ["train.py", "sample.py", "evaluate.py"])
def test_a_wrong_word_is_told_before_torch_is_imported(entry):
    command = [sys.executable, "-X", "importtime", str(ROOT / entry), "run=x", "pormpt=3", "runz=x"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    lines = done.stderr.splitlines()
    assert done.returncode == 1 and "no such word" in lines[-1]
    imported = {line.rpartition("|")[2].strip() for line in lines}
    assert "hydra" in imported and not imported & {"torch", "lightning", "datasets"}


def test_every_word_of_a_path_is_in_the_list():
    """Whatever a constructor takes as a Path is a word that is taken to the letter."""
    found = set()
    for file in CONF.rglob("*.yaml"):
        for target in re.findall(r"_target_: (ldm[\w.]+)", file.read_text(encoding="utf-8")):
            hints = typing.get_type_hints(resolve(target).__init__)
            found |= {name for name in inspect.signature(resolve(target)).parameters if "Path" in str(hints.get(name))}
    assert "root" in found and found <= grammar.PATHS
