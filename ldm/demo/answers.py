"""What a page answers: frames as they come, and what went wrong in one sentence in their place."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace

from ldm.demo.frame import Frame
from ldm.demo.turn import Ended
from ldm.demo.view import html, refused

log = logging.getLogger(__name__)


def answers(frames: Callable[[], Iterator[Frame]]) -> Iterator[str]:
    """Pieces of a page, one for each frame. A visitor's mistake is told to the visitor; a fault of ours to the log, with its
    traceback, and to the visitor that there was one. What was there when a turn ended stays."""
    last: Frame | None = None
    try:
        for last in frames():
            yield html(last)
    except Ended as error:
        yield refused(str(error)) if last is None else html(replace(last, note=str(error)))
    except (ValueError, ArithmeticError) as error:
        yield refused(str(error))
    except Exception as error:  # of one drawing: the page goes on for its other visitors
        log.exception("a drawing failed")
        yield refused(
            f"That failed by a fault of the program ({type(error).__name__}) and not by what was asked: the terminal that serves "
            "this page says why. Draw again, with fewer images or steps where memory was short."
        )
