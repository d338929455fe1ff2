"""Jobs of images: interrupted ones go on to the same files, wrong words are told before anything is written."""

import functools
import hashlib
import json
import logging

import numpy
import pytest
import torch
import yaml
from PIL import Image

from ldm.command import sample as sampling
from ldm.command.sample import sample
from ldm.diffusion.guidance.classifier_free import ClassifierFree
from ldm.model import LatentModel
from ldm.random import Random
from tests.runs import compose, saved, tiny

ASKED = compose("run=absent", "n=5", "batch=2", "device=cpu", "steps=3", name="sample")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return saved(folder, tiny(folder))


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labelled")
    return saved(folder, tiny(folder, "condition=label", "condition.classes=3"))


def job(run, out=None, **words):
    sample(**ASKED | {"run": str(run), "out": None if out is None else str(out)} | words)


def files(folder):
    return {each.name: hashlib.sha256(each.read_bytes()).hexdigest() for each in folder.iterdir()}


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory):
    """What a job leaves that nobody interrupted."""
    out = tmp_path_factory.mktemp("whole")
    job(run, out, prompt="a red circle")
    return files(out)


@pytest.mark.parametrize("cut", [0, 1, 4])
def test_an_interrupted_job_goes_on_to_the_same_files(run, whole, tmp_path, monkeypatch, cut):
    write, done = sampling._write, []

    def interrupted(picture, path):
        if len(done) == cut:
            raise KeyboardInterrupt
        done.append(path)
        write(picture, path)

    with monkeypatch.context() as patch:
        patch.setattr(sampling, "_write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            job(run, tmp_path, prompt="a red circle")
    assert len(list(tmp_path.glob("*.png"))) == cut
    kept = {path: path.stat().st_mtime_ns for path in done}
    job(run, tmp_path, prompt="a red circle", batch=3)
    assert files(tmp_path) == whole and len(whole) == 5 + 3  # the grid with its facts, and the job's
    assert kept == {path: path.stat().st_mtime_ns for path in done}, "what is there is left alone"


@pytest.mark.parametrize(
    "other",
    [
        {"prompt": "a blue star"},
        {"prompt": "a red circle", "seed": 1},
        {"prompt": "a red circle", "diffusion": {"guidance": {"scale": 4.0}}},
        {"prompt": "a red circle", "weights": "raw"},
    ],
)
def test_a_folder_holds_one_job(run, tmp_path, other):
    job(run, tmp_path, prompt="a red circle", n=1)
    before = files(tmp_path)
    with pytest.raises(ValueError, match="holds images of other words .*take another out="):
        job(run, tmp_path, n=1, **other)
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"n": 0}, "n=0"),
        ({"batch": 0}, "batch=0"),
        ({"steps": 0}, "steps.*greater than 0"),
        ({"guidance": -1}, "scale.*got -1"),
        ({"label": 1}, "label= is given, but this model is conditioned on caption"),
        ({"prompt": "a", "prompts": "b"}, "one kind of condition at a time"),
        ({"prompts": "/dev/null"}, "holds no caption"),
        (
            {"prompts": "/nowhere/captions.txt"},
            "prompts=/nowhere/captions.txt: no such file; wanted one with a caption a line",
        ),
        ({"negative": "blur", "guidance": 1}, "negative= is what guidance above 1 moves away from; here guidance=1"),
        ({"run": "/nowhere"}, "nowhere"),
        ({"ema": 0.1}, "no snapshots"),
    ],
)
def test_wrong_words_are_told_before_anything_is_written(run, tmp_path, words, said):
    with pytest.raises((ValueError, OSError), match=said):
        job(**{"run": run, "out": tmp_path} | words)
    assert list(tmp_path.iterdir()) == []


def test_labels(labelled, tmp_path):
    for label in (3, -2):
        with pytest.raises(ValueError, match=f"label={label}: this model's are 0 to 2, or -1 for none"):
            job(labelled, tmp_path, label=label)
    with pytest.raises(ValueError, match="prompt= is given, but this model is conditioned on label"):
        job(labelled, tmp_path, prompt="a")
    assert list(tmp_path.iterdir()) == []
    for label in ("cat", "2.5"):
        with pytest.raises(ValueError, match=f"label={label}: this model's are 0 to 2, .* its classes have no names"):
            job(labelled, tmp_path, label=label)
    names = []
    for label in (2, -1, None):
        job(labelled, tmp_path / str(label), label=label, n=1)
        names.append(files(tmp_path / str(label))["0000.png"])
    assert names[1] == names[2] != names[0]


def test_a_class_by_its_name(tmp_path):
    config = tiny(tmp_path, "condition=label")
    config["condition"]["names"] = ["cat", "0", "dog"]
    named = saved(tmp_path / "named", config)
    for label, number, said in (
        ("cat", 0, "cat"),
        ("dog", 2, "dog"),
        ("0", 1, "0"),
        (2, 2, "dog"),
        ("-1", -1, "class -1"),
    ):
        job(named, tmp_path / str(label), label=label, n=1)
        assert json.loads((tmp_path / str(label) / "samples.json").read_text())["labels"] == [number]
        [cell] = json.loads((tmp_path / str(label) / "grid.json").read_text())["cells"]
        assert cell["caption"] == said
    assert files(tmp_path / "dog")["0000.png"] == files(tmp_path / "2")["0000.png"] != files(tmp_path / "0")["0000.png"]
    with pytest.raises(ValueError, match="label=dgo: no such class. There are dog, cat, 0; or by number 0 to 2"):
        job(named, tmp_path / "none", label="dgo")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_file_of_captions_in_whatever_unicode(run, tmp_path, encoding):
    (tmp_path / "captions.txt").write_text("Grüße\n\n星 \n", encoding=encoding)
    job(run, tmp_path / "out", prompts=str(tmp_path / "captions.txt"), n=1)
    assert json.loads((tmp_path / "out" / "samples.json").read_text())["captions"] == ["Grüße", "星"]


def test_a_negative_prompt_is_recorded_and_moved_away_from(run, tmp_path):
    job(run, tmp_path / "plain", prompt="a red circle", n=1, guidance=3)
    job(run, tmp_path / "away", prompt="a red circle", n=1, guidance=3, negative="blur")
    assert json.loads((tmp_path / "away" / "samples.json").read_text())["negative"] == "blur"
    assert "negative" not in json.loads((tmp_path / "plain" / "samples.json").read_text())
    assert files(tmp_path / "plain")["0000.png"] != files(tmp_path / "away")["0000.png"]


def test_images_of_other_weights_are_not_taken_for_these(tmp_path):
    """The same words after more training: another folder, and a given one is refused."""
    run = saved(tmp_path / "run", tiny(tmp_path))
    job(run, prompt="a red circle", n=1)
    job(run, tmp_path / "out", prompt="a red circle", n=1)
    saved(run, tiny(tmp_path), seed=1)
    job(run, prompt="a red circle", n=1)
    first, second = sorted((run / "samples").iterdir())
    assert files(first)["0000.png"] != files(second)["0000.png"]
    with pytest.raises(ValueError, match="holds images of other words or weights"):
        job(run, tmp_path / "out", prompt="a red circle", n=1)


def test_a_first_stage_alone_has_nothing_to_sample_from(tmp_path):
    run = saved(tmp_path, tiny(tmp_path))
    settings = yaml.safe_load((run / "config.yaml").read_text()) | {"second": {}}
    (run / "config.yaml").write_text(yaml.safe_dump(settings))
    for place in (run, run / "model"):
        with pytest.raises(ValueError, match="a first stage alone.*autoencoder.checkpoint="):
            job(place, tmp_path / "out", prompt="a")
    assert not (tmp_path / "out").exists()


def pixels(images):
    """As eight bits, (n, h, w, c)."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().permute(0, 2, 3, 1)


def shown(folder, count):
    return torch.stack(
        [torch.from_numpy(numpy.array(Image.open(folder / f"{i:04d}.png"))) for i in range(count)]
    ).float()


@pytest.mark.parametrize("seed", [0, 5])
def test_an_image_is_the_models_sample_of_its_seed_number_and_words(run, tmp_path, seed):
    """Line by line of the file, `n` of each; at the guidance and in the steps that were asked for."""
    (tmp_path / "words").write_text("a small red circle\n\n  a large blue star \n", encoding="utf-8")
    job(run, tmp_path / "out", prompts=str(tmp_path / "words"), n=2, seed=seed, guidance=3.0, steps=2, batch=3)
    model = LatentModel.load(run)
    model.prior.steps, model.prior.guidance = 2, lambda denoiser: ClassifierFree(denoiser, 3.0)
    batch = {"caption": ["a small red circle"] * 2 + ["a large blue star"] * 2, "index": torch.arange(4)}
    wanted = pixels(model.sample(batch, Random(seed, 0, torch.arange(4))))
    assert (shown(tmp_path / "out", 4) - wanted).abs().max() <= 1
    assert (wanted[0] - wanted[1]).abs().max() > 5 and (wanted[1] - wanted[2]).abs().max() > 5
    grid = json.loads((tmp_path / "out" / "grid.json").read_text())
    assert [cell["caption"] for cell in grid["cells"]] == batch["caption"]
    picture = Image.open(tmp_path / "out" / "grid.png").convert("RGB")
    for cell, image in zip(grid["cells"], wanted, strict=True):
        left, top = cell["box"][:2]
        corner = torch.tensor(picture.getpixel((left + grid["scale"] * 5, top + grid["scale"] * 3)))
        assert (corner - image[3, 5]).abs().max() <= 1


@pytest.mark.parametrize("label", [2, -1])
def test_an_image_of_a_label_is_the_models(labelled, tmp_path, label):
    job(labelled, tmp_path, label=label, n=3, seed=4)
    model = LatentModel.load(labelled)
    model.prior.steps = 3
    batch = {"label": torch.full((3,), label), "index": torch.arange(3)}
    assert (shown(tmp_path, 3) - pixels(model.sample(batch, Random(4, 0, torch.arange(3))))).abs().max() <= 1


def test_the_weights_are_those_asked_for(tmp_path):
    config = tiny(tmp_path)
    saved(tmp_path, config)
    model = LatentModel.load(tmp_path)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(0.5)
    model.save(tmp_path / "model", config, "raw")
    for weights in ("raw", "average"):
        job(tmp_path, tmp_path / weights, prompt="a", n=2, weights=weights)
        own = LatentModel.load(tmp_path, weights)
        own.prior.steps = 3
        wanted = own.sample({"caption": ["a"] * 2, "index": torch.arange(2)}, Random(0, 0, torch.arange(2)))
        assert (shown(tmp_path / weights, 2) - pixels(wanted)).abs().max() <= 1


def test_without_an_out_each_job_has_its_folder(run):
    """Below the run, named by the seed and by what was asked for."""
    words = ({}, {"seed": 1}, {"prompt": "b"}, {"guidance": 3.0}, {"steps": 2}, {"weights": "raw"})
    for each in words:
        job(run, **{"prompt": "a", "n": 1} | each)
    found = sorted(path.name for path in (run / "samples").iterdir() if path.is_dir())
    assert len(found) == len(words) and sum(name.startswith("seed1-") for name in found) == 1


def test_a_long_prompt_is_cut_with_one_warning(run, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        job(run, tmp_path / "long", prompt="a red circle " * 50)
    warnings = [each for each in caplog.messages if "tokens is cut to" in each]
    assert len(warnings) == 1 and len(caplog.messages) == 1
    caplog.clear()
    job(run, tmp_path / "cut", prompt="a red circle " * 60)
    long, cut = files(tmp_path / "long"), files(tmp_path / "cut")
    assert all(long[f"{i:04d}.png"] == cut[f"{i:04d}.png"] for i in range(5)), "the rest is not looked at"


def test_huge_guidance_is_finite_or_refused(run, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(sampling, "eight_bits", lambda x, own=sampling.eight_bits: seen.append(x) or own(x))
    job(run, tmp_path / "huge", prompt="a", guidance=1e4, n=2)
    assert all(x.isfinite().all() and x.abs().max() <= 1 for x in seen)
    with pytest.raises(ArithmeticError, match="guidance= is too great"):
        job(run, tmp_path / "endless", prompt="a", guidance=1e38, n=2)
    assert not list((tmp_path / "endless").glob("*.png"))


def test_a_single_number_that_is_not_finite_is_refused(run, tmp_path, monkeypatch):
    def sample(model, batch, random):
        images = torch.zeros(len(random.rows), 3, 32, 32)
        images[-1, 0, 0, 0] = torch.nan
        return images

    monkeypatch.setattr(LatentModel, "sample", sample)
    with pytest.raises(ArithmeticError, match="not finite numbers"):
        job(run, tmp_path, prompt="a", n=2)


@pytest.mark.usefixtures("unchecked")
def test_the_network_is_compiled_where_this_is_asked_for(run, tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: compiled.append(type(module).__name__))
    for compile in (False, True):
        job(run, tmp_path / str(compile), prompt="a", n=1, compile=compile)
        assert compiled == ["UNet"] * compile


def test_compiled_networks_draw_the_same_images(run, tmp_path, monkeypatch):
    """Traced by torch.compile and run by its plain backend: what inductor makes of a graph is torch's affair, and takes a
    minute."""
    monkeypatch.setattr(torch.nn.Module, "compile", functools.partialmethod(torch.nn.Module.compile, backend="eager"))
    drawn = {}
    for compiled in (False, True):
        keep = drawn.setdefault(compiled, [])
        with monkeypatch.context() as patch:
            patch.setattr(
                sampling, "eight_bits", lambda x, own=sampling.eight_bits, keep=keep: keep.append(x) or own(x)
            )
            job(run, tmp_path / str(compiled), prompt="a", compile=compiled, n=3, batch=3, guidance=3)
    torch.testing.assert_close(torch.cat(drawn[True]), torch.cat(drawn[False]), rtol=1e-4, atol=1e-4)


def test_what_cannot_be_compiled_says_so(tmp_path):
    with pytest.raises(ValueError, match="this run's prior,? Normal"):
        job(saved(tmp_path, tiny(tmp_path, "prior=normal")), compile=True)
