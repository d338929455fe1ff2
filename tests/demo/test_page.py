"""The page as visitors have it: opened, clicked and looked at in a browser, asked for files, and by two at once."""

import contextlib
import http.client
import json
import threading
from urllib.parse import urlsplit

import numpy as np
import PIL.Image
import pytest

from ldm.command.demo import samplers
from ldm.demo.held_out import examples
from ldm.demo.limits import Limits
from ldm.demo.offer import offered
from ldm.demo.studio import Studio
from tests.demo.browser import CHROMIUM, Browser
from tests.runs import saved, tiny

pytest.importorskip("gradio", reason="the page needs Gradio: pip install -e '.[demo]'")

LIMITS = Limits(images=6, steps=20)
OPEN = "[...document.querySelectorAll('.view')].find(e => e.offsetParent)"
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    return saved(folder, tiny(folder))


@pytest.fixture(scope="module")
def site(run, tmp_path_factory):
    """The address of a page of a diffusion beside a GAN, on a port of its own; and what it asked of other machines."""
    from ldm.demo.page import window

    folder = tmp_path_factory.mktemp("gan")
    other = saved(folder, tiny(folder, "prior=gan"))
    words = ("average", "cpu", (), samplers(), LIMITS)
    studios = [Studio(offered(str(each), *words), LIMITS, pause=0) for each in (run, other)]
    with pytest.MonkeyPatch.context() as patch:
        for name in ("GRADIO_ANALYTICS_ENABLED", "GRADIO_TEMP_DIR"):
            patch.setenv(name, "")  # put back afterwards
        window.quiet()
        page = window.window(*studios, examples(str(run), None, (3, 32, 32)))
        address = window.serve(page, LIMITS, "127.0.0.1", None)
        yield address
        page.close()


@pytest.fixture
def browser(site, tmp_path):
    own = Browser(tmp_path / "profile")
    own.open(site)
    own.wait("!!document.querySelector('.bench .frame')", 120)
    for tab in ("Walk", "Draw"):  # a page that opens a tab is awake, and hears a click
        own.tab(tab)
    yield own
    own.close()


def ask(site, path, method="GET", body=None):
    """The status and the text of an answer, of a path that is not tidied up on its way."""
    place = urlsplit(site)
    connection = http.client.HTTPConnection(place.hostname, place.port, timeout=60)
    connection.request(method, path, body, {"content-type": "application/json"} if body else {})
    answer = connection.getresponse()
    return answer.status, answer.read().decode(errors="replace"), dict(answer.getheaders())


def test_no_file_is_served(site, run):
    secret = run / "config.yaml"
    for path in (secret, "/etc/passwd", "tests/demo/test_page.py", f"{run}/model/model.safetensors"):
        for route in (
            "/gradio_api/file=",
            "/file=",
            "/static/../../../../..",
            "/gradio_api/file%3D",
            "/assets/../../../..",
        ):
            status, text, _ = ask(site, f"{route}{path}")
            assert status in (403, 404) and "ldm.prior" not in text and "root:" not in text, (route, path)
    assert ask(site, "/gradio_api/proxy=http://127.0.0.1:1/config")[0] in (400, 403, 404)
    assert ask(site, "/docs")[0] == ask(site, "/openapi.json")[0] == 404
    assert json.loads(ask(site, "/gradio_api/info")[1]) == {"named_endpoints": {}, "unnamed_endpoints": {}}
    assert str(run) not in ask(site, "/config")[1]


def test_a_picture_that_was_not_uploaded_is_not_read(site, run):
    """A request that names a file of this machine as the picture to be filled in, as a page never sends it."""
    config = json.loads(ask(site, "/config")[1])
    editor = next(each["id"] for each in config["components"] if each["type"] == "imageeditor")
    call = next(each for each in config["dependencies"] if editor in each["inputs"])
    file = {"path": str(run / "config.yaml"), "meta": {"_type": "gradio.FileData"}}
    data = [{"background": file, "layers": [file], "composite": file}, *[None] * (len(call["inputs"]) - 1)]
    body = json.dumps({"data": data, "fn_index": call["id"], "session_hash": "here"})
    for route in ("/gradio_api/run/predict", "/gradio_api/api/predict"):
        status, text, _ = ask(site, route, "POST", body)
        assert status >= 400 and "ldm.prior" not in text
    assert ask(site, "/gradio_api/queue/join", "POST", body)[0] == 200
    status, text, _ = ask(site, "/gradio_api/queue/data?session_hash=here")
    assert status == 200 and '"success":false' in text and "ldm.prior" not in text


def test_a_browser_is_told_to_ask_nobody_else(site):
    policy = ask(site, "/")[2]["content-security-policy"]
    assert "default-src 'self'" in policy and "connect-src 'self' data: blob:;" in policy and "http" not in policy


@needs_browser
def test_images_are_drawn_at_a_click(browser, tmp_path):
    browser.write("document.querySelector('.ask textarea')", "a large blue star")
    browser.press("Draw")
    browser.wait(f"{OPEN}.querySelector('.note')")
    assert browser.value(f"{OPEN}.querySelectorAll('.pictures img').length") == 4
    loaded = f"[...{OPEN}.querySelectorAll('img')].every(e => e.complete && e.naturalWidth === 32)"
    assert browser.wait(loaded)
    browser.picture(tmp_path / "page.png")
    box = browser.box(f"{OPEN}.querySelector('img')")
    seen = np.array(PIL.Image.open(tmp_path / "page.png").convert("RGB"))
    assert box["width"] > 150 and seen.std() > 10
    browser.write("document.querySelector('.ask textarea')", "zq " * 200)
    browser.press("Draw")
    assert "The caption is too long" in browser.wait(f"{OPEN}.querySelector('.refused')?.innerText")
    home = browser.value("location.origin")
    assert browser.errors == [] and [each for each in browser.asked if not each.startswith(home)] == []


@needs_browser
def test_what_is_painted_over_is_filled_in(browser):
    browser.tab("Fill in")
    browser.press("Fill in")
    assert "There is no picture yet" in browser.wait(f"{OPEN}.querySelector('.refused')?.innerText")
    browser.press("Take a held-out image")
    browser.wait("!!document.querySelector('.editor canvas')")
    browser.wait("!document.querySelector('.editor').innerText.includes('Upload an image')")
    for _ in range(8):  # until the brush is there
        box = browser.box("[...document.querySelectorAll('.editor canvas')].find(e => e.offsetParent)")
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        browser.drag((x - 40, y - 40), (x - 20, y - 20), (x, y), (x + 20, y + 20), (x + 40, y + 40))
        browser.press("Fill in")
        with contextlib.suppress(AssertionError):
            browser.wait(f"{OPEN}.querySelector('.note')", 5)
            break
    assert browser.wait(f"{OPEN}.querySelector('.note')?.innerText").startswith("4 images in")
    assert browser.value(f"{OPEN}.querySelectorAll('.pictures img').length") == 2 + 4 and browser.errors == []


@needs_browser
def test_walks_and_comparisons(browser):
    browser.tab("Walk")
    browser.press("Walk")
    assert browser.wait(f"{OPEN}.querySelector('.note')?.innerText").startswith("6 frames in")
    assert browser.value(f"{OPEN}.querySelectorAll('.film img, .strip img').length") == 1 + 6
    browser.tab("Compare")
    browser.press("Draw both")
    browser.wait(f"{OPEN}.querySelector('.note')")
    assert browser.value(f"{OPEN}.querySelectorAll('.pictures').length") == 2 and browser.errors == []


@needs_browser
@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_shows_it_without_a_scroll_sideways(site, tmp_path, dark):
    own = Browser(tmp_path / "profile", 390, 844, phone=True, dark=dark)
    try:
        own.open(site)
        own.wait("!!document.querySelector('.bench .frame')", 120)
        for tab in ("Draw", "Fill in", "Walk", "Compare"):
            own.tab(tab)
            assert own.value("document.documentElement.scrollWidth") <= 390
        colour = own.value("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, colour.strip("rgba()").split(",")[:3])) < 200) is dark
    finally:
        own.close()


def test_two_visitors_are_served_one_after_the_other(site):
    """Both ask at once, without a browser; each gets all of its frames, whole."""
    config = json.loads(ask(site, "/config")[1])
    call = next(each for each in config["dependencies"] if len(each["outputs"]) == 1 and len(each["inputs"]) == 6)
    found = {}

    def visit(name):
        data = ["a star", 2, 0, "", 4, 2]
        body = json.dumps({"data": data, "fn_index": call["id"], "session_hash": name})
        assert ask(site, "/gradio_api/queue/join", "POST", body)[0] == 200
        found[name] = ask(site, f"/gradio_api/queue/data?session_hash={name}")[1]

    threads = [threading.Thread(target=visit, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    for name in ("one", "two"):
        assert '"process_completed"' in found[name] and '"success":true' in found[name]
        assert "2 images in" in found[name] and "4 steps" in found[name]
