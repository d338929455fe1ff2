"""Loggers that cannot end a run: Weights & Biases and TensorBoard behind one narrow door.

A curve on a web page is a convenience; whatever goes wrong with it (no login, no network, a full or read-only disk, its
service killed) becomes one warning and the run goes on. The record itself is `metrics.jsonl`, which needs none of them.
"""

from __future__ import annotations

import logging
import netrc
import os
import secrets
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from PIL import Image as Picture
from pydantic import PositiveFloat

log = logging.getLogger(__name__)


class Sink(ABC):
    """Where curves and pictures go besides the run directory."""

    @abstractmethod
    def open(self, folder: Path, name: str, config: dict[str, Any]) -> None:
        """Begin or go on with the run `name`, whose directory is `folder`."""

    @abstractmethod
    def scalars(self, stage: str, images: int, values: dict[str, float]) -> None:
        """Named numbers of a stage after so many images."""

    @abstractmethod
    def picture(self, stage: str, images: int, name: str, picture: Picture.Image) -> None:
        """A picture of a stage after so many images."""

    @abstractmethod
    def close(self) -> None:
        """Flush; the run has ended or stopped."""


class WandB(Sink):
    """Weights & Biases: online where this machine is logged in and the service answers, offline otherwise.

    Arguments:
        timeout: seconds to wait for the service before going on offline.
        project, entity: where the run is shown; entity is a user or a team, None for the one that is logged in.
    """

    def __init__(self, project: str = "ldm", entity: str | None = None, timeout: PositiveFloat = 10.0):
        self.project, self.entity, self.timeout = project, entity, timeout

    def open(self, folder: Path, name: str, config: dict[str, Any]) -> None:
        import wandb

        os.environ.setdefault("WANDB_SILENT", "true")
        place = folder / "wandb_id"
        if not place.exists():
            place.write_text(secrets.token_hex(4), encoding="utf-8")
        arguments = {
            "project": self.project,
            "entity": self.entity,
            "name": name,
            "id": place.read_text(encoding="utf-8"),
            "resume": "allow",
            "dir": str(folder),
            "config": config,
        }
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
        for stage in ("first", "second"):
            self.run.define_metric(f"{stage}/*", step_metric=f"{stage}/images")

    def scalars(self, stage: str, images: int, values: dict[str, float]) -> None:
        self.run.log({f"{stage}/{key}": value for key, value in values.items()} | {f"{stage}/images": images})

    def picture(self, stage: str, images: int, name: str, picture: Picture.Image) -> None:
        import wandb

        self.run.log({f"{stage}/{name}": wandb.Image(picture), f"{stage}/images": images})

    def close(self) -> None:
        self.run.finish()


def _logged_in() -> bool:
    """Whether `wandb login` or WANDB_API_KEY left a key; asked here, as wandb itself would ask the terminal."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host or "") is not None
    except FileNotFoundError:
        return False


class TensorBoard(Sink):
    """TensorBoard event files in the run directory; `tensorboard --logdir runs` shows them."""

    def open(self, folder: Path, name: str, config: dict[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder / "tensorboard"))

    def scalars(self, stage: str, images: int, values: dict[str, float]) -> None:
        for key, value in values.items():
            self.writer.add_scalar(f"{stage}/{key}", value, images)

    def picture(self, stage: str, images: int, name: str, picture: Picture.Image) -> None:
        import numpy

        self.writer.add_image(f"{stage}/{name}", numpy.asarray(picture.convert("RGB")), images, dataformats="HWC")

    def close(self) -> None:
        self.writer.close()


class Guarded(Sink):
    """A sink whose first failure is a warning and whose last act it is."""

    def __init__(self, sink: Sink):
        self.sink, self.alive = sink, True

    def _try(self, act: str, *arguments: Any) -> None:
        if not self.alive:
            return
        try:
            getattr(self.sink, act)(*arguments)
        except Exception as error:  # whatever a third party raises here must not cost a training
            self.alive = False
            log.warning("%s is out (%s: %s); the run goes on without it", type(self.sink).__name__, act, error)

    def open(self, folder: Path, name: str, config: dict[str, Any]) -> None:
        self._try("open", folder, name, config)

    def scalars(self, stage: str, images: int, values: dict[str, float]) -> None:
        self._try("scalars", stage, images, values)

    def picture(self, stage: str, images: int, name: str, picture: Picture.Image) -> None:
        self._try("picture", stage, images, name, picture)

    def close(self) -> None:
        self._try("close")
