"""What a user gets wrong on the command line is told in a line, with the key, the value and the nearest right one, before
data is read or anything is written."""

import functools

import pytest

from ldm.command.terminal import message
from ldm.command.words import misspelt
from ldm.data.module import DataModule
from ldm.experiment.experiment import Experiment
from tests.pieces import CONF
from tests.runs import compose

QUICK = ["trainer=cpu", "logger=none", "metric=offline", "autoencoder=kl_f4_small", "backbone=unet_small"]

# A word on the command line -> what the message has to hold.
WRONG = {
    # unknown keys, at every depth
    "+sede=3": ["sede", "did you mean seed?"],
    "+cash_latents=true": ["cash_latents", "did you mean cache_latents?"],
    "first.stepz=3": ["first.stepz", "did you mean steps?"],
    "second.acumulate=2": ["second.acumulate", "did you mean accumulate?"],
    "first.optimizer.lrr=1": ["first.optimizer.lrr", "did you mean lr?"],
    "first.rate.warmpu=1": ["first.rate.warmpu", "did you mean warmup?"],
    "data.batchsize=3": ["data.batchsize", "did you mean batch_size?"],
    "data.train.cuont=3": ["data.train.cuont", "did you mean count?"],
    "data.wrkers=3": ["data.wrkers", "did you mean workers?"],
    "autoencoder.encoder.widht=8": ["autoencoder.encoder.widht", "did you mean width?"],
    "backbone.multiplier=[1]": ["multiplier", "did you mean multipliers?"],
    "condition.vocabulry=300": ["condition.vocabulry", "did you mean vocabulary?"],
    "diffusion.schedule.strat=1": ["schedule.strat", "did you mean start?"],
    "diffusion.guidance.scael=1": ["guidance.scael", "did you mean scale?"],
    "prior.stpes=3": ["prior.stpes", "did you mean steps?"],
    "loss.kl_wieght=1": ["loss.kl_wieght", "did you mean kl_weight?"],
    "evaluation.sample=3": ["evaluation.sample", "did you mean samples?"],
    "trainer.precison=32": ["trainer.precison", "did you mean precision?"],
    # words in place of numbers and the like
    "seed=abc": ["seed", "integer", "'abc'"],
    "seed=1.5": ["seed", "1.5"],
    "seed=null": ["seed", "None"],
    "cache_latents=perhaps": ["cache_latents", "'perhaps'"],
    "rank_timeout=soon": ["rank_timeout", "'soon'"],
    "first.steps=many": ["first.steps", "'many'"],
    "first.steps=[1,2]": ["first.steps", "[1, 2]"],
    "first.clip=no": ["first.clip", "number"],
    "first.optimizer.lr=abc": ["first.optimizer.lr", "'abc'"],
    "first.optimizer.betas=0.9": ["first.optimizer.betas", "0.9"],
    "data.batch_size=big": ["data.batch_size", "'big'"],
    "data.image_shape=32": ["data.image_shape"],
    "data.image_shape=[3,32]": ["data.image_shape"],
    "data.crop=center": ["data.crop", "'centre'", "center"],
    "data.on_error=ignore": ["data.on_error", "'skip'"],
    "backbone.width=wide": ["width", "'wide'"],
    "backbone.attention=yes": ["attention"],
    "diffusion.grid=karas": ["grid", "karas"],
    "condition.drop=often": ["condition.drop", "'often'"],
    "loss.kl_weight=heavy": ["loss.kl_weight", "'heavy'"],
    "evaluation.samples=all": ["evaluation.samples", "'all'"],
    "name=../elsewhere": ["name", "below runs"],
    "name=/tmp/x": ["name", "below runs"],
    # out of range
    "seed=-1": ["seed", "-1"],
    "rank_timeout=0": ["rank_timeout", "greater than 0"],
    "first.steps=0": ["first.steps", "greater than 0"],
    "second.steps=-5": ["second.steps", "-5"],
    "second.accumulate=0": ["second.accumulate", "0"],
    "first.clip=-1": ["first.clip", "-1"],
    "first.decay=1.5": ["first.decay", "1.5"],
    "first.optimizer.lr=-0.1": ["first.optimizer", "learning rate", "-0.1"],
    "second.optimizer.weight_decay=-1": ["second.optimizer", "weight_decay", "-1"],
    "first.optimizer.betas=[0.9,1.5]": ["first.optimizer", "beta", "1.5"],
    "second.rate.final=2": ["second.rate.final", "2"],
    "data.batch_size=0": ["data.batch_size", "0"],
    "data.workers=-1": ["data.workers", "-1"],
    "data.max_bad=7": ["data.max_bad", "7"],
    "data.train.count=0": ["data.train.count", "0"],
    "backbone.width=0": ["width", "0"],
    "prior.steps=0": ["prior.steps", "0"],
    "condition.drop=-0.5": ["condition.drop", "-0.5"],
    "evaluation.batch=0": ["evaluation.batch", "0"],
    "diffusion.guidance.scale=-1": ["scale", "-1"],
    # pairs that do not go together
    "first.accumulate=3": ["batch_size 128", "126 or 129"],
    "backbone.attention=[true]": ["one entry a level", "attention"],
    "data.image_shape=[3,30,30]": ["30"],
    "data.image_shape=[3,32,32,1]": ["data.image_shape"],
    "diffusion.schedule._target_=ldm.diffusion.grid.Uniform": ["schedule", "wants a Schedule"],
    "diffusion.schedule._target_=ldm.diffusion.schedule.Cosin": ["did you mean Cosine?"],
    "diffusion.schedule._target_=os.system": ["os.system is not allowed"],
    "autoencoder.checkpoint=/nowhere/at/all": ["/nowhere/at/all"],
}


@pytest.fixture
def nothing_begins(monkeypatch):
    @functools.wraps(DataModule.__init__)
    def init(*_, **__):
        raise AssertionError("the data was begun")

    monkeypatch.setattr(DataModule, "__init__", init)


@pytest.mark.parametrize("word", WRONG)
def test_a_wrong_word_is_told_before_anything_begins(word, tmp_path, nothing_begins):
    key, _, value = word.partition("=")
    words = [word if key.startswith("+") or "." not in key else f"++{key}={value}"]
    with pytest.raises((ValueError, OSError)) as caught:
        Experiment(compose(*QUICK, f"runs={tmp_path}/runs", f"store={tmp_path}/store", *words)).run()
    said = message(caught.value)
    assert all(part in said for part in WRONG[word]), said
    assert len(said) < 700 and len(said.splitlines()) < 6, said
    assert list(tmp_path.iterdir()) == []


def test_there_are_sixty():
    assert len(WRONG) >= 60


@pytest.mark.parametrize(
    ("argument", "parts"),
    [
        ("prior=difusion", ["prior=difusion", "did you mean diffusion?", "normal"]),
        ("experiment=shape", ["did you mean shapes?"]),
        ("diffusion/sampler=dimm", ["diffusion/sampler", "did you mean ddim?"]),
        ("diffusion/smapler=ddim", ["did you mean diffusion/sampler?"]),
        ("priro=normal", ["priro", "did you mean prior?"]),
        ("prior=normal,difusion", ["difusion"]),
        ("stage@first=frist", ["stage=frist", "did you mean first?"]),
        ("trainer=xyzzy", ["no such trainer", "cpu"]),
    ],
)
def test_misspelt_words(argument, parts):
    said = misspelt([argument], CONF)
    assert said is not None and all(part in said for part in parts), said


@pytest.mark.parametrize("entry", ["sample", "apply", "evaluate"])
@pytest.mark.parametrize(
    ("argument", "parts"),
    [
        ("diffusion/sampler=dimm", ["did you mean ddim?"]),
        ("+diffusion/weighting=snr", ["diffusion/weighting", "There are", "diffusion/schedule"]),
        ("diffusion=flow", ["recipe is of training", "diffusion/grid"]),
        ("guidence=3", ["did you mean guidance?"]),
        ("data=shapes", ["data: no such word"]),
    ],
)
def test_misspelt_words_of_a_finished_run(entry, argument, parts):
    said = misspelt([argument], CONF, entry)
    assert said is not None and all(part in said for part in parts), said
    right = ["run=x", "diffusion/sampler=heun", "diffusion.sampler.s_churn=3", "diffusion/guidance=interval", "ema=0.1"]
    assert misspelt([*right, "task=embed"] if entry == "apply" else right, CONF, entry) is None


@pytest.mark.parametrize(
    "argument",
    [
        *("prior=normal", "prior=normal,diffusion", "+experiment=shapes", "seed=1,2", "hydra.verbose=true", "-m"),
        *(
            "++first.steps=3",
            "~experiment",
            "experiment=null",
            "stage@first=first",
            "diffusion=choice(ddpm,v)",
            "--cfg",
        ),
        *("hydra/launcher=joblib", "hydra/sweeper/sampler=random", "hydra.launcher.n_jobs=2", "objective=[psnr,ssim]"),
    ],
)
def test_words_that_are_right(argument):
    assert misspelt([argument], CONF) is None


def test_an_error_in_a_data_worker_is_its_last_words():
    text = (
        "Caught TooManyBadError in DataLoader worker process 1.\nOriginal Traceback (most recent call last):\n"
        '  File "x.py", line 3, in f\n    raise\nldm.data.tally.TooManyBadError: 3 of 9 items: bad.png: truncated\n'
    )
    assert message(RuntimeError(text)) == "3 of 9 items: bad.png: truncated (in a data worker)"


def test_a_long_message_is_cut_at_a_screen():
    assert len(message(ValueError("\n".join(map(str, range(500))))).splitlines()) < 20
