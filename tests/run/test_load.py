"""A finished run's model: which weights are loaded, and how it samples by other words."""

import copy

import pytest
import torch
import yaml

from ldm.build import described
from ldm.command.evaluate import measure_again
from ldm.diffusion.denoiser import Rescheduled
from ldm.diffusion.guidance.autoguidance import Autoguidance
from ldm.diffusion.guidance.interval import Interval
from ldm.model import LatentModel
from ldm.random import Random
from ldm.run import record
from ldm.run.load import Drawing, load, named
from ldm.run.snapshots import Snapshots
from tests.pieces import CONF
from tests.runs import compose, saved, tiny, words_of

CPU = torch.device("cpu")
PIECES = ("schedule", "sampler", "grid", "guidance")


@pytest.fixture
def run(tmp_path):
    """A run with a model of zeros, and snapshots of ones."""
    config = tiny(tmp_path)
    config["autoencoder"].pop("checkpoint")
    model = LatentModel.build(config)
    learnt = {name: p for name, p in model.named_parameters() if not name.startswith("autoencoder")}
    with torch.no_grad():
        for p in learnt.values():
            p.zero_()
    model.save(tmp_path / "model", config)
    model.save(tmp_path / "model", config, "raw")
    for width in (0.05, 0.10):
        Snapshots(tmp_path / "snapshots" / "second").save(9, width, {k: torch.ones_like(p) for k, p in learnt.items()})
    return tmp_path


def test_an_average_of_any_width_takes_the_place_of_what_was_learnt(run):
    plain, other = (
        load(run, "average", None, CPU).state_dict(),
        load(run, "average", 0.08, CPU).state_dict(),
    )
    learnt = {name for name, _ in load(run, "raw", None, CPU).named_parameters() if not name.startswith("autoencoder")}
    for name, value in other.items():
        torch.testing.assert_close(value, plain[name] + 1 if name in learnt else plain[name])
    assert (named("average", None), named("raw", None), named("average", 0.08)) == ("averaged", "raw", "averaged:0.08")


def test_what_cannot_be_loaded_is_refused(run):
    with pytest.raises(ValueError, match="ema=0.08 is of averaged weights and weights=raw"):
        load(run, "raw", 0.08, CPU)
    with pytest.raises(ValueError, match="between 0 and 0.289, .* got 0.8"):
        load(run, "average", 0.8, CPU)
    Snapshots(run / "snapshots" / "second").save(9, 0.05, {"other.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="another model: it has no other.weight"):
        load(run, "average", 0.08, CPU)
    Snapshots(run / "snapshots" / "second").rewind(0)
    with pytest.raises(FileNotFoundError, match="no snapshots"):
        load(run, "average", 0.08, CPU)


# Other pieces


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    return saved(folder, tiny(folder))


@pytest.fixture(scope="module")
def base(one):
    return load(one, "average", None, CPU)


def changed(run, *words, entry="sample"):
    """The run's model by a command line of an entry point."""
    asked = compose(f"run={run}", *words, name=entry)
    fields = ("diffusion", "guidance", "steps", "guide", "guide_ema")
    return Drawing(**{name: asked[name] for name in fields}).load(str(run), "average", None, CPU)


def draw(model, n=2):
    batch = {"index": torch.arange(n), "caption": ["a small red circle"] * n}
    return model.sample_latents(batch, Random(0, 0, batch["index"]))


@pytest.fixture(scope="module")
def three(one):
    """What the run draws by itself in three steps."""
    return draw(Drawing(steps=3).load(str(one), "average", None, CPU))


def node(piece, word):
    return yaml.safe_load((CONF / "diffusion" / piece / f"{word}.yaml").read_text())


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("piece", "word"),
    [(piece, word) for piece in PIECES for word in words_of(f"diffusion/{piece}") if word != "autoguidance"],
)
def test_every_word_of_training_samples(base, three, piece, word):
    model = copy.deepcopy(base)
    Drawing({piece: node(piece, word)}, steps=3).put(model)
    z = draw(model)
    own = described(base.config["prior"][piece]) == described(node(piece, word))
    assert z.isfinite().all() and torch.equal(z, three) == own


@pytest.mark.parametrize("entry", ["sample", "apply", "evaluate"])
def test_five_words(one, base, entry):
    words = ("sampler=dpmpp_2m", "grid=karras", "guidance=interval", "schedule=shifted")
    model = changed(one, *(f"diffusion/{word}" for word in words), "steps=20", "guidance=3", entry=entry)
    prior = model.prior
    found = [type(each).__name__ for each in (prior.sampler, prior.grid, prior.sampling_schedule)]
    assert found == ["DPMpp", "Karras", "Shifted"] and prior.steps == 20
    guided = prior.guided()
    assert isinstance(guided, Interval) and guided.around.scale == 3 and isinstance(guided.plain, Rescheduled)
    assert prior.guidance.keywords["low"] == 0.4, "a scale is no other guidance"
    assert model.state_dict().keys() == base.state_dict().keys()


def test_the_runs_own_words_change_nothing(one, base):
    own = base.config["prior"]
    pieces = {name: own[name] for name in PIECES}
    model = Drawing(pieces, guidance=2.0, steps=own["steps"]).load(str(one), "average", None, CPU)
    assert model.prior.sampling_schedule is None and torch.equal(draw(model), draw(base))
    assert torch.equal(draw(changed(one)), draw(base))


def test_single_arguments(one, base):
    one_argument = changed(one, "++diffusion.guidance.scale=5.0")
    assert (type(one_argument.prior.guided()), one_argument.prior.guided().scale) == (type(base.prior.guided()), 5)
    inner = changed(
        one, "diffusion/guidance=interval", "++diffusion.guidance.guidance.scale=5", "++diffusion.guidance.low=0.1"
    )
    assert inner.prior.guided().around.scale == 5 and inner.prior.guidance.keywords["low"] == 0.1
    assert changed(one, "guidance=0").prior.guided().scale == 0


def test_a_single_argument_is_of_the_schedule_that_samples_already(base):
    own = base.config["prior"] | {"sampling_schedule": node("schedule", "shifted")}
    found = Drawing({"schedule": {"shift": 5.0}})._words(base.prior, own)
    assert found["sampling_schedule"] == node("schedule", "shifted") | {"shift": 5.0}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["steps=0"], "prior.steps: .*greater than 0; got 0"),
        (["guidance=-1"], "prior.guidance.scale: .*0; got -1"),
        (["diffusion/sampler=ddim", "++diffusion.sampler.etta=1"], "did you mean eta?"),
        (["++diffusion.sampler.eta=1"], "sampler.eta: UniPC has no such argument"),
        (["++diffusion.smapler.eta=1"], "diffusion/smapler is not of sampling; did you mean sampler?"),
        (["++diffusion.weighting={_target_: ldm.diffusion.weighting.SNR}"], "takes another schedule, sampler"),
        (["++diffusion.sampler={_target_: ldm.diffusion.grid.Uniform}"], "wants a Sampler"),
        (["++diffusion.sampler={_target_: os.system}"], "not allowed"),
        (["diffusion/guidance=autoguidance"], "give guide=DIR"),
        (["guide_ema=0.1"], "no snapshots"),
        (["guide=nowhere"], "nowhere"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(one, words, said):
    with pytest.raises((ValueError, OSError), match=said):
        changed(one, *words)


def test_other_priors_have_no_such_words(tmp_path):
    run = saved(tmp_path, tiny(tmp_path, "prior=normal"))
    with pytest.raises(ValueError, match="diffusion/sampler= is not of this run's prior, Normal"):
        changed(run, "diffusion/sampler=heun", "steps=3")
    assert changed(run).prior.sample


# Autoguidance


def test_a_run_that_is_its_own_guide_is_not_guided(one):
    plain = draw(changed(one, "guidance=1"))
    own = changed(one, "diffusion/guidance=autoguidance", f"guide={one}", "guidance=3")
    torch.testing.assert_close(draw(own), plain, rtol=1e-4, atol=1e-4)


def test_a_guide_reads_its_own_condition(one, base, tmp_path):
    """Even inside an interval; and on its own schedule, whatever the run's."""
    other = saved(tmp_path, tiny(tmp_path, "diffusion=v", "condition.width=16"), seed=1, model=base)
    away = node("guidance", "autoguidance") | {"scale": 3.0}
    changes = Drawing({"guidance": away}, guide=str(other))
    model, guide = changes.load(str(one), "average", None, CPU), load(other, "average", None, CPU)
    guided = model.prior.guided()
    assert isinstance(guided, Autoguidance)
    batch = {"index": torch.arange(2), "caption": ["a small red circle", "a large blue star"]}
    x, t = Random(0, 0, batch["index"]).normal("x", model.autoencoder.latent_shape), torch.tensor([0.3, 0.8])
    with torch.no_grad():
        plain = base.prior.denoiser(x, t, base.condition(batch))
        worse = Rescheduled(guide.prior.denoiser, base.prior.denoiser.schedule)(x, t, guide.condition(batch))
        found = guided(x, t, model.condition(batch))
    torch.testing.assert_close(found, worse + 3 * (plain - worse))
    assert changes.guide_named(str(one)) == f"{tmp_path.name}, averaged"
    within = Drawing({"guidance": {**INTERVAL, "guidance": away}}, guide=str(other)).load(
        str(one), "average", None, CPU
    )
    assert draw(within).isfinite().all() and not torch.equal(draw(within), draw(base))


INTERVAL = {"_target_": "ldm.diffusion.guidance.interval.Interval", "_partial_": True, "low": 0.3}


@pytest.mark.parametrize(
    ("words", "shared", "said"),
    [
        (["autoencoder.bottleneck.channels=2"], False, "the guide's latents are"),
        ([], False, "another autoencoder"),
        (["condition=label", "condition.classes=3"], True, "conditioned on label, which this run is not"),
        (["prior=normal"], True, "a guide is a diffusion; its prior is Normal"),
    ],
)
def test_a_guide_of_something_else_is_refused(one, base, tmp_path, words, shared, said):
    other = saved(tmp_path, tiny(tmp_path, *words), seed=1, model=base if shared else None)
    with pytest.raises(ValueError, match=said):
        changed(one, "diffusion/guidance=autoguidance", f"guide={other}")
    with pytest.raises(ValueError, match="guide= is of diffusion/guidance=autoguidance"):
        changed(one, f"guide={one}")


def test_training_has_no_guide(tmp_path):
    config = tiny(tmp_path, "diffusion/guidance=autoguidance")
    config["autoencoder"].pop("checkpoint")
    for guidance in (config["prior"]["guidance"], {**INTERVAL, "guidance": config["prior"]["guidance"]}):
        config["prior"]["guidance"] = guidance
        with pytest.raises(ValueError, match="train with diffusion/guidance=classifier_free, then .* guide=DIR"):
            LatentModel.build(config)


# Records


@pytest.mark.parametrize("group", PIECES)
def test_every_word_has_a_name_of_its_own(group):
    names = {word: described(node(group, word)) for word in words_of(f"diffusion/{group}")}
    assert len(set(names.values())) == len(names), names


def test_a_name_is_the_class_and_what_is_not_the_default():
    interval, sampler = node("guidance", "interval"), node("sampler", "dpmpp_3m_sde")
    assert described(interval) == "interval(guidance=classifierfree(scale=2), low=0.4, high=3)"
    assert described(interval, leave=("scale",)) == "interval(guidance=classifierfree, low=0.4, high=3)"
    assert described(sampler) == "dpmpp(points=3, sde=true)"
    assert described({"_target_": sampler["_target_"], "points": 2, "sde": False}) == "dpmpp"
    custom = {"_target_": "ldm.diffusion.grid.Custom", "times": [1, 0.5, 0.0]}
    assert described(custom) == "custom(times=[1, 0.5, 0])"


def test_records_tell_samplers_and_guidance_apart(one):
    words = [("sampler", "dpmpp_2m"), ("sampler", "dpmpp_2m_sde"), ("grid", "karras"), ("guidance", "interval")]
    words += [("schedule", "shifted")]
    asked = compose(f"run={one}", "samples=3", "device=cpu", name="evaluate")
    every = [asked, *(asked | {"diffusion": {piece: node(piece, word)}} for piece, word in words)]
    every.append(asked | {"diffusion": {"guidance": node("guidance", "autoguidance")}, "guide": str(one)})
    for each in every:
        measure_again(**each)
    found = [each for each in record.read(one / "records.jsonl") if each.metric == "fd_random_conv"]
    assert len(record.table(found)) == len(found) == len(every)
    plain, third, fifth, last = found[0], found[2], found[4], found[-1]
    way = {
        "prior": "diffusion",
        "sampler": "unipc",
        "grid": "uniform",
        "guidance": "classifierfree(scale=2)",
        "steps": 2,
    }
    assert plain.drawn == way
    assert found[5].drawn == way | {"sampling_schedule": "shifted(schedule=rectified)"}
    assert third.drawn == way | {"sampler": "dpmpp(sde=true)"}
    assert fifth.drawn == way | {"guidance": "interval(guidance=classifierfree(scale=2), low=0.4, high=3)"}
    assert last.drawn == way | {"guidance": "autoguidance(scale=2)", "guide": f"{one.name}, averaged"}
    assert (plain.evaluations, last.evaluations) == (4, 4), "two steps, two networks or one twice"
    assert "sampling_schedule shifted" in (one / "report.html").read_text()
