"""What the entry points share: messages on the terminal, errors in a few lines, exit codes.

0 is finished, 1 an error, 3 diverged, 75 stopped by a signal with everything saved. A user's error is its message; the
traceback goes to `log.txt` where there is one, and to the terminal with HYDRA_FULL_ERROR=1. Of the ranks of a machine the first
that fails says why: mostly it is the same for all, or the others fail for want of it.
"""

from __future__ import annotations

import logging
import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape

from ldm.run.signals import DIVERGED, FAILED, FINISHED, Diverged

log = logging.getLogger("ldm")

_SCREEN = 15  # lines


class _Lines(logging.Handler):
    """What is said, a line each as long as it is, where standard output is a file or a pipe."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            print(self.format(record), flush=True)
        except (OSError, ValueError):  # a full disk, a closed pipe, letters that it has not: no reason to end a run
            self.handleError(record)


def guarded(work: Callable[[], int | None]) -> int:
    """Run `work` and turn how it ends into an exit code."""
    speak()
    try:
        return work() or FINISHED
    except Diverged as error:
        return _tell(error, DIVERGED)
    except Exception as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        return _tell(error, FAILED)


def _tell(error: Exception, code: int) -> int:
    quiet = _spoken()
    for handler in quiet:
        handler.setLevel(logging.CRITICAL)
    log.error("%s", error, exc_info=error)  # whole, into log.txt
    for handler in quiet:
        handler.setLevel(logging.INFO)
    if not _first_to_fail():
        return code
    rank = os.environ.get("RANK", "0")
    Console(stderr=True, highlight=False, soft_wrap=True).print(
        "" if rank == "0" else f"rank {rank}: ",
        f"[bold red]{type(error).__name__}[/]: ",
        escape(message(error)),
        "\n(HYDRA_FULL_ERROR=1 shows the traceback)",
        sep="",
        markup=True,
    )
    return code


def _first_to_fail() -> bool:
    """Whether no other rank that the same agent has started failed before this one; by a file beside those that torch's agent
    has for their errors."""
    own = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not own:
        return True
    try:
        Path(own).parents[1].joinpath("failed").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def message(error: BaseException) -> str:
    """What an error says, in one screen: of one in a data worker the last words and not its traceback."""
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)  # str() of a KeyError is a repr
    _, worker, traceback = text.partition("\nOriginal Traceback (most recent call last):\n")
    if worker:
        said = re.split(r"\n[\w.]+: ", traceback.rstrip())
        text = f"{said[-1]} (in a data worker)"
    lines = text.splitlines()
    return "\n".join([*lines[:_SCREEN], "..."] if len(lines) > _SCREEN else lines)


def _spoken() -> list[logging.Handler]:
    """The handlers that `speak` has set up."""
    return [handler for handler in logging.getLogger().handlers if isinstance(handler, RichHandler | _Lines)]


def screen() -> Console:
    """The terminal on which messages are shown, or what takes its place."""
    consoles = [handler.console for handler in _spoken() if isinstance(handler, RichHandler)]
    return consoles[0] if consoles else Console()


def speak() -> None:
    """Say what is logged on the terminal; once in a process."""
    root = logging.getLogger()
    if _spoken():
        return
    root.setLevel(logging.INFO)
    rank = int(os.environ.get("LOCAL_RANK", 0))
    console = Console()
    if console.is_terminal:
        handler = RichHandler(console=console, show_path=False, show_level=False, log_time_format="%H:%M:%S")
    else:
        handler = _Lines()
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    handler.setLevel(logging.INFO if rank == 0 else logging.ERROR)
    root.addHandler(handler)
    for name in ("lightning", "lightning.pytorch", "httpx", "fsspec", "matplotlib", "PIL", "filelock"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(True)
    logging.raiseExceptions = False  # of a full disk under log.txt the terminal need not hear at every line
    for category, text in (
        (UserWarning, ".*does not have many workers.*"),
        (UserWarning, ".*Checkpoint directory.*"),
        (UserWarning, ".*GPU available but not used.*"),
        (UserWarning, ".*module.* in eval mode.*"),
        (UserWarning, ".*val_dataloader.*"),
        (UserWarning, ".*validation_step.*"),
        (UserWarning, ".*across ranks is zero.*"),
        (FutureWarning, ".*"),
        (DeprecationWarning, ".*"),
    ):
        warnings.filterwarnings("ignore", text, category)
