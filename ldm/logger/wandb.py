"""Weights & Biases: online where this machine is logged in and the service answers, and offline otherwise.

Every stage has its own x axis, `first/images` and `second/images`. The numbers that runs are ranked by are in the summary, and
all fields of their records are in a table.

Under the agent of a sweep (`wandb agent`) a run has the id, project and entity that the agent puts into the environment
(WANDB_SWEEP_ID, WANDB_RUN_ID); WANDB_RUN_ID is also used without a sweep. A run that was stopped by a signal is marked as
preempted. The agent starts it again, and it is resumed: without name= its directory is named after the agent's run.
"""

from __future__ import annotations

import logging
import netrc
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from PIL import Image as Picture
from pydantic import PositiveFloat

from ldm.logger.sink import Sink, images_seen, ranked, rows
from ldm.run.record import Record
from ldm.run.signals import PREEMPTED

log = logging.getLogger(__name__)


class WandB(Sink):
    """Logging with Weights & Biases.

    Arguments:
        project, entity: of the run; None takes those of the environment (WANDB_PROJECT, WANDB_ENTITY), or the project `ldm`.
        timeout: seconds to wait for the service before the run is logged offline.
    """

    def __init__(self, project: str | None = None, entity: str | None = None, timeout: PositiveFloat = 10.0):
        self.project, self.entity, self.timeout = project, entity, timeout

    def open(self, folder: Path, name: str, config: dict[str, Any]) -> None:
        import wandb

        os.environ.setdefault("WANDB_SILENT", "true")
        arguments = {"name": name, "resume": "allow", "dir": str(folder), "config": config, **self._place(folder)}
        settings = wandb.Settings(init_timeout=self.timeout, console="off", x_disable_stats=True, silent=True)
        offline = os.environ.get("WANDB_MODE") or ("online" if _logged_in() else "offline")
        try:
            self.run = wandb.init(**arguments, mode=offline, settings=settings)
        except wandb.errors.Error as error:
            log.warning("W&B did not answer (%s); the run is logged offline", str(error).splitlines()[0])
            wandb.teardown()  # else its service still has the id of the run in use
            self.run = wandb.init(**arguments, mode="offline", settings=settings)
        if self.run.settings.mode == "offline":
            log.info("W&B is offline; upload later with: wandb sync %s", Path(self.run.dir).parent)
        for part in ("first", "second", "evaluation"):
            self.run.define_metric(f"{part}/*", step_metric=f"{part}/images")

    def _place(self, folder: Path) -> dict[str, str | None]:
        """Project, entity and id of the run; empty where the agent of a sweep has chosen them."""
        file, given = folder / "wandb_id", os.environ.get("WANDB_RUN_ID")
        if given or not file.exists():
            file.write_text(given or secrets.token_hex(4), encoding="utf-8")
        if os.environ.get("WANDB_SWEEP_ID"):
            return {}
        project = self.project or os.environ.get("WANDB_PROJECT", "ldm")
        return {"project": project, "entity": self.entity, "id": file.read_text(encoding="utf-8")}

    def scalars(self, stage: str, images: int, values: dict[str, float]) -> None:
        self.run.log({f"{stage}/{key}": value for key, value in values.items()} | {f"{stage}/images": images})

    def picture(self, stage: str, images: int, name: str, picture: Picture.Image) -> None:
        import wandb

        self.run.log({f"{stage}/{name}": wandb.Image(picture), f"{stage}/images": images})

    def conclude(self, records: Sequence[Record], report: Path) -> None:
        import wandb

        names, values = rows(records)
        along: dict[str, Any] = {
            "report": wandb.Html(str(report), inject=False),
            "evaluation/images": images_seen(records),
        }
        if records:
            along["evaluation/records"] = wandb.Table(columns=names, data=values)
        self.run.log(ranked(records) | along)  # the summary consists of the last values

    def close(self, code: int) -> None:
        if code == PREEMPTED:
            self.run.mark_preempting()
        self.run.finish(exit_code=code)


def swept() -> str | None:
    """A name for a run that the agent of a sweep has started, the same when it starts the run again; None without an agent."""
    sweep, run = os.environ.get("WANDB_SWEEP_ID"), os.environ.get("WANDB_RUN_ID")
    return f"{sweep}/{run}" if sweep and run else None


def _logged_in() -> bool:
    """Whether there is a key from `wandb login` or WANDB_API_KEY. It is looked for here, because wandb itself would ask for one
    on the terminal."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host or "") is not None
    except FileNotFoundError:
        return False
