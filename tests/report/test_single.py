import base64
import io
import json
import math
import re

import numpy
import PIL.Image
import pytest
import torch

from ldm.callback.image_grid import beside, save
from ldm.eight_bits import eight_bits
from ldm.report.curve import named
from ldm.report.single import _how, write
from ldm.report.words import count, duration, rounded
from ldm.run import record
from tests.report.page import Page

EVIL = '<script src="x">a & b</script>'


def images(n=6, size=16):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(size)) * 2 - 1


@pytest.fixture
def run(tmp_path):
    captions = [EVIL, *(f"caption {i}" for i in range(1, 6))]
    for step in (10, 30, 20):
        grid = beside([("generated", images()), ("real", -images())], captions)
        save(grid, tmp_path / f"samples/{step}.png", "samples", "second", step, step * 8, title=f"at step {step}")
    grid = beside([("original", images(3, 128)), ("reconstruction", images(3, 128))])
    save(grid, tmp_path / "samples/r.png", "reconstructions", "first", 10, 80)
    for value in (27.0, 28.431):
        record.write(
            tmp_path / "records.jsonl",
            record.Record(metric="psnr", value=value, standard_error=0.0612, n=512, split="test"),
        )
    with (tmp_path / "metrics.jsonl").open("w") as file:
        for step in range(1, 200):
            values = {"loss": 1 / step, "lr": 1e-3, "images_per_second": 100.0, "wait": math.nan if step == 3 else 0.1}
            values |= {"val_loss": 1 / step + 0.01} if step % 20 == 0 else {}
            file.write(
                json.dumps({"stage": "second", "step": step, "images": step * 8, "seconds": 1.0, **values}) + "\n"
            )
        file.write('{"stage": "sec')
    (tmp_path / "run.json").write_text(json.dumps({"name": EVIL, "seed": 0, "seconds": {"total": 3700}}))
    (tmp_path / "config.yaml").write_text(f"a: {EVIL}\n")
    (tmp_path / "bad_samples.jsonl").write_text('{"reason": "truncated"}\n{"reason": "truncated"}\n')
    return tmp_path


def test_the_page_is_whole_and_alone(run):
    path = write(run)
    html = path.read_text(encoding="utf-8")
    page = Page(html)
    assert "script" not in page.tags and EVIL in page.text
    for tag, name, value in page.attributes:
        if name in ("src", "href"):
            assert value.startswith("#" if tag == "use" else "data:image/"), (tag, name)
    assert (
        "url(" not in html.replace("url(#", "")
        and "@import" not in html
        and "http" not in re.sub(r'src="data:[^"]*"', "", html)
    )
    assert path.stat().st_size < 500_000


def test_it_holds_what_the_run_holds(run):
    text = Page(write(run).read_text(encoding="utf-8")).text
    for wanted in (
        "28.431",
        "± 0.061",
        "512",
        "PSNR",
        "caption 5",
        "From top to bottom: generated, real.",
        "2 refused",
    ):
        assert wanted in text
    for wanted in ("1 h 01 min", "At step 30.", "160 images", "validation", "Rates and gradients", "config.yaml"):
        assert wanted in text
    assert "27.0" not in text  # measured again since


def test_small_images_keep_every_pixel(run):
    page = Page(write(run).read_text(encoding="utf-8"))
    sources = [value for tag, name, value in page.attributes if (tag, name) == ("img", "src")]
    decoded = PIL.Image.open(io.BytesIO(base64.b64decode(sources[1].split(",")[1])))
    wanted = eight_bits(-images())[0].permute(1, 2, 0).numpy()
    assert (numpy.array(decoded.convert("RGB")) == wanted).all()
    alternatives = [value for tag, name, value in page.attributes if (tag, name) == ("img", "alt")]
    assert alternatives[3] == "real, caption 1"


def test_an_empty_directory_has_a_report(tmp_path):
    assert tmp_path.name in Page(write(tmp_path).read_text()).text


@pytest.mark.parametrize(
    ("status", "wanted"),
    [
        ("training", "under way, or was killed"),
        ("stopped", "the same command goes on"),
        ("failed", "This run failed"),
        ("diverged", "This run diverged"),
    ],
)
def test_a_run_that_is_not_finished_says_so_and_why_at_the_top(tmp_path, status, wanted):
    facts = {"name": "n", "status": status, "error": f"OSError: {EVIL}\nthe disk is full", "command": "python train.py"}
    (tmp_path / "run.json").write_text(json.dumps(facts))
    page = Page(write(tmp_path).read_text(encoding="utf-8"))
    top, rest = page.text.split("python train.py")
    assert wanted in top and f"OSError: {EVIL}\nthe disk is full" in top and "script" not in page.tags
    assert "Nothing was measured." in rest
    assert (("p", "class", "bad") in page.attributes) is (status in ("failed", "diverged"))


def test_a_finished_run_has_no_such_line(tmp_path):
    facts = {"name": "n", "status": "finished", "experiment": "shapes", "data": None, "error": None, "device": "CPU"}
    (tmp_path / "run.json").write_text(json.dumps(facts))
    text = Page(write(tmp_path).read_text(encoding="utf-8")).text
    assert "shapes, finished" in text and "This run" not in text and "None" not in text


def measured(value: float, config: str | None, metric: str = "psnr", weights: str = "averaged") -> record.Record:
    model = f"{config} {weights}"
    return record.Record(metric=metric, value=value, n=8, model=model, config=config, weights=weights, split="val")


def test_numbers_of_earlier_weights_are_folded_away(tmp_path):
    old, new = "a" * 32, "b" * 32
    told = [measured(21.5, old), measured(0.5, old, "ssim"), measured(22.5, old), measured(31.5, new)]
    record.write(tmp_path / "records.jsonl", *told)
    html = write(tmp_path).read_text(encoding="utf-8")
    shown, folded = html.split("<details><summary>Of earlier weights</summary>")
    assert "31.5" in shown and "22.5" not in shown and "0.5<" not in shown
    assert "22.5" in folded and "0.5<" in folded and "21.5" not in html and "31.5" not in folded
    record.write(tmp_path / "records.jsonl", measured(23.5, old))  # the newest is of the other weights again
    shown, folded = write(tmp_path).read_text(encoding="utf-8").split("Of earlier weights")
    assert "23.5" in shown and "31.5" in folded


@pytest.mark.parametrize("config", [None, "a" * 32])
def test_other_averages_of_one_training_are_not_folded(tmp_path, config):
    record.write(tmp_path / "records.jsonl", measured(21.5, config, weights="raw"), measured(22.5, config))
    html = write(tmp_path).read_text(encoding="utf-8")
    assert "21.5" in html and "22.5" in html and "Of earlier weights" not in html


def test_a_picture_that_is_not_finished_is_left_out(run):
    (run / "samples/30.png").unlink()
    (run / "samples/40.png").write_bytes(b"half")
    assert "At step 20." in Page(write(run).read_text()).text


@pytest.mark.parametrize(
    ("value", "error", "wanted"),
    [
        (28.4312, 0.0612, ("28.431", "0.061")),
        (0.98123, 0.006, ("0.9812", "0.0060")),
        (1234.5, 67.8, ("1234", "68")),
        (3.14159, None, ("3.142", "")),
        (1.0, 0.0, ("1", "0")),
        (2e-9, 3e-10, ("2e-09", "3e-10")),
        (math.nan, 0.1, ("nan", "")),
        (5.0, math.nan, ("5", "")),
    ],
)
def test_a_number_is_rounded_by_its_error(value, error, wanted):
    assert rounded(value, error) == wanted


def test_costs_are_read_at_a_glance(tmp_path):
    """What was counted once has no n; a rate with an error keeps the digits that it says."""
    numbers = {
        "parameters": 3462164.0,
        "training_flops": 3.0471e11,
        "peak_memory_process": 1291.4,
        "sequential_steps": 10.0,
    }
    costs = [record.Record(metric=name, value=value, n=1) for name, value in numbers.items()]
    rate = record.Record(metric="samples_per_second", value=1289.27, standard_error=45.2, n=64)
    record.write(tmp_path / "records.jsonl", *costs, rate)
    text = re.sub(r"<[^>]+>+", "|", write(tmp_path).read_text(encoding="utf-8"))
    for wanted in ("3.46 M", "305 G", "1.29 k", "10", "1289", "± 45"):
        assert f"|{wanted}|" in text
    assert "e+" not in text.partition("Numbers")[2] and "|1|" not in text and "|64|" in text
    assert [count(n) for n in (0.0, 0.034, 20.57, 999.6, 1.5e12, 2e15)] == ["0", "0.034", "20.6", "1 k", "1.5 T", "2 P"]


def test_times_are_read_at_a_glance():
    assert [duration(s) for s in (3.0, 12.34, 59.9, 200.0, 3720.0)] == [
        "3 s",
        "12.3 s",
        "1 min 00 s",
        "3 min 20 s",
        "1 h 02 min",
    ]


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("loss", ("loss", 0)),
        ("val loss", ("loss", 1)),
        ("val_loss", ("loss", 1)),
        ("val/loss/eps", ("loss/eps", 1)),
        ("val mse (average)", ("mse", 2)),
        ("value", ("value", 0)),
        ("moving average", ("moving average", 0)),
    ],
)
def test_a_validation_curve_finds_its_training_curve(name, wanted):
    assert named(name) == wanted


def test_how_a_number_was_made_is_said_in_words():
    made = record.Record(
        metric="fid",
        value=1.0,
        split="val",
        weights="raw",
        evaluations=100,
        drawn={"prior": "x", "sampler": "ddim", "steps": 50},
    )
    said = "val split, weights raw, x, sampler ddim, steps 50, 100 network evaluations a sample"
    assert _how(made) == said
