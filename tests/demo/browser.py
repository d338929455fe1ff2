"""A headless Chromium, driven by the DevTools protocol over a pipe, so that no port and no package is needed."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
_OPTIONS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
_OPTIONS += ["--disable-background-networking", "--disable-component-update", "--remote-debugging-pipe"]
# The protocol speaks on the descriptors 3 and 4, which a process can be given only by itself.
_ON_3_AND_4 = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
)


class Browser:
    """One page in a browser of its own.

    Arguments:
        folder: of its profile.
        width, height: of its window.
        phone: whether it says that it is one.
        dark: whether its user likes dark pages.

    Attributes:
        asked: the addresses that the page has asked for, but for those that hold all of what they name.
        errors: what went wrong in its scripts.
    """

    def __init__(self, folder: Path, width: int = 1280, height: int = 900, phone: bool = False, dark: bool = False):
        read, theirs = os.pipe()
        mine, write = os.pipe()
        words = [sys.executable, "-c", _ON_3_AND_4, str(mine), str(theirs), CHROMIUM, *_OPTIONS]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(
            [*words, f"--user-data-dir={folder}"], pass_fds=(mine, theirs), start_new_session=True, **quiet
        )
        os.close(mine)
        os.close(theirs)
        self._read, self._write, self._rest, self._number = read, write, b"", 0
        self._answers: dict[int, dict[str, Any]] = {}
        self._session: str | None = None
        self.asked: list[str] = []
        self.errors: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network"):
            self.call(f"{domain}.enable")
        size = {"width": width, "height": height, "deviceScaleFactor": 2 if phone else 1, "mobile": phone}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self._read)
        os.close(self._write)

    def call(self, method: str, **words: Any) -> dict[str, Any]:
        """What the browser answers to a method of the protocol."""
        self._number += 1
        own = self._number
        message = {"id": own, "method": method, "params": words}
        message |= {} if self._session is None else {"sessionId": self._session}
        os.write(self._write, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + 60
        while own not in self._answers:
            assert time.monotonic() < end, f"no answer to {method}"
            self._hear(1.0)
        answer = self._answers.pop(own)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def _hear(self, seconds: float) -> None:
        """Take what the browser says, waiting so long for a word."""
        if not select.select([self._read], [], [], seconds)[0]:
            return
        some = os.read(self._read, 1 << 20)
        assert some, "the browser has ended"
        *whole, self._rest = (self._rest + some).split(b"\0")
        for each in map(json.loads, whole):
            if "id" in each:
                self._answers[each["id"]] = each
            elif each["method"] == "Network.requestWillBeSent":
                url = each["params"]["request"]["url"]
                self.asked += [] if url.startswith(("data:", "blob:")) else [url]
            elif each["method"] == "Runtime.exceptionThrown":
                self.errors.append(json.dumps(each["params"]["exceptionDetails"])[:500])

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)

    def value(self, script: str) -> Any:
        """What an expression of JavaScript is in the page."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, script: str, seconds: float = 60) -> Any:
        """The value of an expression once it is true."""
        end = time.monotonic() + seconds
        while not (found := self.value(f"(e => e instanceof Element || e)(document.body && ({script}))")):
            assert time.monotonic() < end, (
                f"never true: {script}; the page says {self.value('document.body.innerText')[:2000]}"
            )
            self._hear(0.1)
        return found

    def box(self, element: str) -> dict[str, float]:
        """Where an element is, given as an expression, once it is in sight and lies still: a field that grows with its text
        moves what is below it."""
        script = f"""(() => {{ const e = {element}; if (!e) return null; e.scrollIntoView({{block: 'center'}});
            const r = e.getBoundingClientRect(); return {{x: r.x, y: r.y, width: r.width, height: r.height}}; }})()"""
        before, now = None, self.wait(script)
        while now != before:
            self._hear(0.3)
            before, now = now, self.wait(script)
        return now

    def mouse(self, kind: str, x: float, y: float, buttons: int = 1) -> None:
        words = {"type": kind, "x": x, "y": y, "button": "left", "clickCount": 1, "buttons": buttons}
        self.call("Input.dispatchMouseEvent", **words)

    def click(self, element: str) -> None:
        """Click in the middle of an element."""
        box = self.box(element)
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        self.mouse("mouseMoved", x, y, 0)
        self.mouse("mousePressed", x, y)
        self.mouse("mouseReleased", x, y, 0)

    def press(self, word: str) -> None:
        """Click the button of the open tab that has a word."""
        own = "[...document.querySelectorAll('[role=tabpanel] button')]"
        self.click(f"{own}.find(b => b.innerText.trim() === '{word}' && b.offsetParent)")

    def tab(self, word: str) -> None:
        """Open a tab; a click on a page that is not awake yet is not heard, and is made again."""
        own, end = (
            f"[...document.querySelectorAll('[role=tab]')].find(b => b.innerText.trim() === '{word}')",
            time.monotonic() + 60,
        )
        while self.value(f"{own}.getAttribute('aria-selected')") != "true":
            assert time.monotonic() < end, f"the tab {word} does not open"
            self.click(own)
            self._hear(0.5)

    def write(self, element: str, text: str) -> None:
        """Click into a field and replace what it holds."""
        self.click(element)
        self.value(f"{element}.select()")
        self.call("Input.insertText", text=text)

    def drag(self, *points: tuple[float, float]) -> None:
        """With the button held, from point to point."""
        self.mouse("mouseMoved", *points[0], 0)
        self.mouse("mousePressed", *points[0])
        for point in points[1:]:
            self.mouse("mouseMoved", *point)
        self.mouse("mouseReleased", *points[-1], 0)

    def picture(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))
