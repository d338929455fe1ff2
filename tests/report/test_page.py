"""The page of several runs: whole, alone, and as a browser shows it."""

import json
import re
import shutil
import subprocess

import pytest

from ldm.report.collection import collect
from ldm.report.several import several
from ldm.report.written import write
from tests.report.page import Page
from tests.report.runs import curves, pictures, record, run

EVIL = "<script>alert(1)</script>"
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    """Of two settings of two seeds with numbers, curves and pictures, and a third whose files are broken."""
    tmp_path = tmp_path_factory.mktemp("runs")
    for name, words in (("ours", {}), ("theirs", {"prior___target_": "ldm.prior.glow.Glow"})):
        for seed in (0, 1):
            told = [record(value=1.0 + seed + len(name), parameters=10 * len(name)), record("psnr", 20.0)]
            path = run(tmp_path / f"{name}-{seed}", *told, seed=seed, **words)
            curves(path, *(10.0 / (i + 1 + seed) for i in range(20)))
            pictures(path)
    broken = run(tmp_path / "broken", record(value=9.0), facts={"status": EVIL, "command": EVIL}, prior__steps=EVIL)
    pictures(broken, ["other"] * 4)
    (broken / "samples" / "second-0000100.png").write_bytes(b"no picture")
    (broken / "metrics.jsonl").write_text('{"stage": "second", "step": 1\n[1]\n{"stage": 3, "loss": "high"}\n')
    page = write(several(collect([str(tmp_path)])), tmp_path / "out")
    return page.read_text(encoding="utf-8")


def test_it_is_whole_and_alone(page):
    found = Page(page)
    assert "script" not in found.tags and EVIL in found.text
    assert all(value.startswith(("data:image/", "#")) for _, name, value in found.attributes if name in ("src", "href"))
    assert "http" not in re.sub(r'src="data:[^"]*"', "", page) and "@import" not in page
    ids = [value for _, name, value in found.attributes if name == "id"]
    assert len(set(ids)) == len(ids), "a name that two charts have"


def test_it_shows_what_there_is(page):
    text = Page(page).text
    for wanted in (
        "5 runs, 3 settings",
        "Curves",
        "updates",
        "images",
        "seconds",
        "Quality against cost",
        "Their commands",
    ):
        assert wanted in text
    assert "FLOPs" not in text and text.count("caption 0") == 1
    assert page.count("<img") == 3 * 4  # real, ours, theirs


def test_curves_are_averaged_over_seeds(page):
    """At 800 images the curves of both seeds are at 10 / 20 and 10 / 21; a band is filled in the colour of its curve."""
    assert re.search(r'class="key [a-h]">Glow <b>0.[45]\d+</b>', page)
    assert len(re.findall(r"fill: var\(--[a-h]\); fill-opacity: 0.18", page)) >= 2 * 3


def test_losses_of_different_priors_are_said_to_be_no_comparison(page, tmp_path):
    assert "trained by different losses" in Page(page).text
    for name, rate in (("a", 0.1), ("b", 0.2)):
        curves(run(tmp_path / name, record(), second__optimizer__lr=rate), 3.0, 2.0)
    alike = write(several(collect([str(tmp_path)])), tmp_path / "out").read_text(encoding="utf-8")
    assert "Curves" in Page(alike).text and "different losses" not in Page(alike).text


def test_a_long_name_beside_pictures_is_broken_where_its_words_end(tmp_path):
    pictures(run(tmp_path / "a", record(), experiment="fashion_mnist_consistency"))
    found = write(several(collect([str(tmp_path / "a")])), tmp_path / "out").read_text(encoding="utf-8")
    assert "<span>fashion_<wbr>mnist_<wbr>consistency</span>" in found


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
def test_a_browser_shows_it_without_an_error_or_a_scroll_sideways(page, tmp_path):
    """It writes what it has measured into its title, which is dumped with the page. Chromium has no window narrower than 500."""
    paths = "document.querySelectorAll('svg path').length"
    measured = f"document.title = JSON.stringify([document.body.scrollWidth, innerWidth, {paths}])"
    probe = f"<script>onerror = () => document.title = 'error'; onload = () => {{ {measured} }}</script></body>"
    (tmp_path / "probe.html").write_text(page.replace("</body>", probe), encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    options += ["--window-size=500,900", f"--user-data-dir={tmp_path / 'own'}"]
    command = [CHROMIUM, *options, "--dump-dom", (tmp_path / "probe.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    across, window, paths = json.loads(re.search(r"<title>(.*?)</title>", done.stdout)[1])
    assert across <= window == 500 and paths > 20


def test_channels_of_latents_are_folded_and_costs_are_named_as_they_are(tmp_path):
    """Where each channel has two numbers, nothing else would be seen; what was counted once has no n."""
    for name, steps in (("a", 1), ("b", 2)):
        told = [record(f"latent_mean_{i}", 0.1, features=None) for i in range(3)]
        flops = record("training_flops", 1e9 * steps, n=1, standard_error=None)
        run(tmp_path / name, record(value=float(steps)), flops, *told, seed=0, prior__steps=steps)
    found = several(collect([str(tmp_path)]))
    page = write(found, tmp_path / "out").read_text(encoding="utf-8")
    assert re.search(r"<details><summary>Channels of latents</summary>.*Latent mean 2", page, re.DOTALL)
    assert "<h2>Channels of latents" not in page and not any("Latent mean" in line for line in found.remarks)
    assert "over training FLOPs" in Page(page).text and "Training FLOPs (1)" not in Page(page).text
