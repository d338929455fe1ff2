"""Weights & Biases: online where this machine is logged in and the service answers, offline otherwise.

Every stage has its own x axis, `first/images` and `second/images`. Numbers that runs are ranked by are in the summary, all
fields of their records in a table beside it.

Under a sweep's agent (`wandb agent`) a run is the agent's: it has the id, project and entity that the agent puts into the
environment (WANDB_SWEEP_ID, WANDB_RUN_ID), and so has any run that is started with WANDB_RUN_ID. A run that a signal stopped is
marked as preempted, which the sweep's agent starts again, and it goes on: without a name= its directory is named by the agent.
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
    """
    Arguments:
        project, entity: where the run is to be found; None is what the environment says (WANDB_PROJECT, WANDB_ENTITY), or the
            project `ldm`.
        timeout: seconds to wait for the service before going on offline.
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
            wandb.teardown()  # its service still holds the run's id
            self.run = wandb.init(**arguments, mode="offline", settings=settings)
        if self.run.settings.mode == "offline":
            log.info("W&B is offline; upload later with: wandb sync %s", Path(self.run.dir).parent)
        for part in ("first", "second", "evaluation"):
            self.run.define_metric(f"{part}/*", step_metric=f"{part}/images")

    def _place(self, folder: Path) -> dict[str, str | None]:
        """Project, entity and id of the run; none of them where an agent has chosen all."""
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
        self.run.log(ranked(records) | along)  # whose last values are the summary

    def close(self, code: int) -> None:
        if code == PREEMPTED:
            self.run.mark_preempting()
        self.run.finish(exit_code=code)


def swept() -> str | None:
    """A name for the run of a sweep's agent, the same whenever the agent starts it again; None where there is no agent."""
    sweep, run = os.environ.get("WANDB_SWEEP_ID"), os.environ.get("WANDB_RUN_ID")
    return f"{sweep}/{run}" if sweep and run else None


def _logged_in() -> bool:
    """Whether `wandb login` or WANDB_API_KEY left a key; asked here, as wandb itself would ask the terminal."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host or "") is not None
    except FileNotFoundError:
        return False
