"""What the page does with a model: draw, fill in, walk, and draw beside another, each as frames that form before one's eyes.

A request is checked whole before anything is computed. What is wrong with it is a ValueError of one sentence.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import PIL.Image
import torch

from ldm.data.inputs import Inputs
from ldm.demo.frame import Frame, Pictures, Row
from ldm.demo.limits import SEEDS, Limits, real, whole
from ldm.demo.offer import Offer, alike
from ldm.demo.picture import film, fitted, hole
from ldm.demo.turn import Turn
from ldm.demo.walk import walk
from ldm.run.load import Drawing
from ldm.task.inpaint import Inpaint
from ldm.task.tools.done import pictures
from ldm.task.tools.glimpse import Glimpse, watched
from ldm.task.tools.hole import painted
from ldm.types import Image

Tell = Callable[[Frame], None]


@dataclass(frozen=True)
class Request:
    """What a visitor asks for, as a page sends it: nothing of it is checked yet.

    Fields:
        given: a caption or the name of a class; empty for no condition.
        n: how many images, or frames of a walk.
        sampler: a word; empty for the run's own.
        steps, guidance: None for the run's own.
        seed: of the images.
    """

    given: Any = ""
    n: Any = 1
    sampler: Any = ""
    steps: Any = None
    guidance: Any = None
    seed: Any = 0


class Studio:
    """A model at work for visitors, one at a time.

    Arguments:
        offer: what it can do.
        limits: of a request.
        pause: least seconds between two looks at a sample that forms, for each is decoded.
    """

    def __init__(self, offer: Offer, limits: Limits, pause: float | int = 0.15):
        self.offer, self.limits, self.pause, self.free = offer, limits, pause, threading.Lock()

    def check(self, request: Request) -> tuple[dict[str, Any], int]:
        """What a model is asked, and how many images; ValueError where something of it is wrong."""
        return self._words(request), whole(request.n, 1, self.limits.images, "The number of images")

    def draw(self, request: Request) -> Iterator[Frame]:
        """Images of one condition, from noise."""
        words, n = self.check(request)
        yield from self._turn(lambda tell: self._drawn(words, n, tell))

    def fill(self, request: Request, picture: PIL.Image.Image | None, layers: list[PIL.Image.Image]) -> Iterator[Frame]:
        """A picture with what is painted over filled in, several times."""
        if self.offer.no_fill:
            raise ValueError(self.offer.no_fill)
        if picture is None:
            raise ValueError("There is no picture yet: upload one, or take an example.")
        shape, (words, n) = self.offer.model.image_shape, self.check(request)
        own, said = fitted(picture, shape)
        mask = hole(layers, shape)
        yield from self._turn(lambda tell: self._filled(words, n, own, mask, said, tell))

    def walk(self, request: Request, given: Any, seed: Any) -> Iterator[Frame]:
        """Frames from the request's seed and condition to another seed and condition."""
        if self.offer.no_walk:
            raise ValueError(self.offer.no_walk)
        words, other = self._words(request), self._words(replace(request, given=given, seed=seed))
        n = whole(request.n, 2, self.limits.images, "The number of frames")
        yield from self._turn(lambda tell: self._walked(words, other, n, tell))

    # Checks

    def _words(self, request: Request) -> dict[str, Any]:
        """The request as `ldm.api.Model.sample` takes it."""
        offer = self.offer
        words: dict[str, Any] = {"seed": whole(request.seed, 0, SEEDS, "The seed"), **self._condition(request.given)}
        if offer.steps is not None and request.steps is not None:
            words["steps"] = whole(request.steps, 1, int(offer.steps.high), "The number of steps")
        if offer.guidance is not None and request.guidance is not None:
            words["guidance"] = real(request.guidance, offer.guidance.low, offer.guidance.high, "Guidance")
        if offer.samplers and request.sampler:
            if request.sampler not in offer.samplers:
                raise ValueError(f"There is no sampler {str(request.sampler)[:40]}.")
            words["prior"] = {"sampler": offer.samplers[request.sampler]}
        return words

    def _condition(self, given: Any) -> dict[str, Any]:
        """One caption or one label, where one is asked for and given."""
        text = "" if given is None else str(given).strip()
        if self.offer.asks == "nothing" or not text:
            return {}
        if self.offer.asks == "label":
            self.offer.model.model.condition.number(text)  # refused before anything is drawn
            return {"labels": [text]}
        if len(text) > self.limits.caption:
            raise ValueError(
                f"The caption has {len(text)} characters, and {self.limits.caption} are the most here: shorten it."
            )
        unread = self.offer.model.model.condition.unread(text)
        if unread:
            raise ValueError(
                f"The caption is too long: the model would not read its last {_counted(unread, 'token')}. Shorten it."
            )
        return {"captions": [text]}

    # Work

    def _turn(self, work: Callable[[Tell], Frame]) -> Iterator[Frame]:
        return iter(Turn(work, self.limits.seconds, self.offer.model.model.prior.networks(), self.free))

    def _watching(self, tell: Tell, shown: Callable[[Image], Frame]) -> Callable[[Glimpse], None]:
        """Tells frames of what forms, not more often than is worth decoding."""
        last = -self.pause

        def watch(glimpse: Glimpse) -> None:
            nonlocal last
            if time.monotonic() - last >= self.pause:
                tell(replace(shown(glimpse.images()), left=glimpse.t))
                last = time.monotonic()

        return watch

    def _drawn(self, words: dict[str, Any], n: int, tell: Tell) -> Frame:
        start = time.monotonic()
        watch = self._watching(tell, lambda x: Frame([Row(pictures(x))]))
        found = self.offer.model.sample(**words, n=n, batch=n, tensors=True, watch=watch)
        _check_finite(found)
        return Frame([Row(pictures(found))], note=self._note(words, _counted(n, "image"), start))

    def _filled(
        self, words: dict[str, Any], n: int, picture: PIL.Image.Image, mask: PIL.Image.Image, said: str, tell: Tell
    ) -> Frame:
        start, drawn, model = time.monotonic(), painted(mask), self.offer.model
        where = (drawn.hole > 0).to(model.model.device)
        given = Inputs([picture], model.image_shape).batch([0]).to(model.model.device)
        first = Row(pictures(torch.cat([given, torch.where(where, 0.0, given)])), ("given", "kept"))

        def frame(found: Pictures, note: str = "") -> Frame:
            return Frame([first, Row(found, title="Filled in")], note=note)

        watch = self._watching(tell, lambda x: frame(pictures(torch.where(where, x, given))))
        one = {"caption": words.get("captions", [None])[0], "label": words.get("labels", [None])[0]}
        rest = {name: words[name] for name in ("guidance", "steps", "seed") if name in words}
        done = model.apply(Inpaint(drawn), [picture] * n, **one, **rest, batch=n, watch=watch)
        note = self._note(words, _counted(n, "image"), start)
        return frame(done.pictures["filled"], " ".join(filter(None, [note, said])))

    def _walked(self, words: dict[str, Any], other: dict[str, Any], n: int, tell: Tell) -> Frame:
        start, own, asks = time.monotonic(), self.offer.model.model, self.offer.asks
        ends = [(each.get("captions") or each.get("labels") or [None])[0] for each in (words, other)]
        captions = ["" if end is None else end for end in ends] if asks == "caption" else None
        labels = [-1 if end is None else end for end in ends] if asks == "label" else None
        watch = self._watching(tell, lambda x: Frame([Row(pictures(x))], strip=True))
        drawing = Drawing(None, words.get("guidance"), words.get("steps"), words.get("prior"))
        with drawing.applied(own), watched(own, watch):
            found = walk(own, (words["seed"], other["seed"]), captions, labels, n)
        _check_finite(found)
        frames = pictures(found)
        note = self._note(words, _counted(n, "frame"), start)
        return Frame([Row(frames)], note=note, strip=True, film=film(frames))

    def _note(self, words: dict[str, Any], what: str, start: float) -> str:
        """What was done, in a line."""
        offer, parts = self.offer, [f"{what} in {time.monotonic() - start:.1f} s", f"seed {words['seed']}"]
        if offer.steps is not None:
            parts.append(_counted(int(words.get("steps", offer.steps.value)), "step"))
        if offer.guidance is not None:
            parts.append(f"guidance {words.get('guidance', offer.guidance.value):g}")
        return " · ".join(parts) + "."


def beside(first: Studio, second: Studio, request: Request) -> Iterator[Frame]:
    """Images of the same condition and seed by two models, the first's and then the second's below."""
    why = alike(first.offer, second.offer)
    if why:
        raise ValueError(why)
    for each in (first, second):  # both are checked before either is asked
        each.check(request)
    done: list[Row] = []
    for each in (first, second):
        title = f"{each.offer.name} · {each.offer.about}"
        for frame in each.draw(request):
            shown = replace(frame, rows=[*done, replace(frame.rows[0], title=title)])
            yield replace(shown, note="") if each is first else shown
        done.append(shown.rows[-1])


def _check_finite(x: Image) -> None:
    if not x.isfinite().all():
        raise ValueError("The images are not finite numbers: take less guidance or more steps.")


def _counted(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"
