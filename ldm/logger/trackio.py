"""trackio: curves on this machine or on a Space of Hugging Face; `trackio show --project ldm` shows them.

It stores them in a database of its own (TRACKIO_DIR), in which runs are found by their names. When a run is opened for the
first time it becomes a new one there; later it is the newest of that name. As with W&B every stage has its own x axis,
`first/images` and `second/images`.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image as Picture

from ldm.logger.sink import Sink, images_seen, ranked, rows
from ldm.run.record import Record


class Trackio(Sink):
    """Logging with trackio.

    Arguments:
        project: the project in which runs are shown together.
        space: the Space of Hugging Face that stores them, as `user/space`; None is this machine.
    """

    def __init__(self, project: str = "ldm", space: str | None = None):
        self.project, self.space = project, space

    def open(self, folder: Path, name: str, config: dict[str, Any]) -> None:
        try:
            import trackio
        except ImportError as error:
            raise ImportError("trackio is not installed: pip install 'ldm[trackio]'") from error

        mark = folder / "trackio"
        quiet = {"embed": False, "auto_log_gpu": False, "auto_log_cpu": False}
        with contextlib.redirect_stdout(io.StringIO()):  # it prints a greeting
            self.run = trackio.init(
                project=self.project,
                name=name,
                space_id=self.space,
                config=config,
                resume="allow" if mark.exists() else "never",
                **quiet,
            )
        mark.touch()

    def scalars(self, stage: str, images: int, values: dict[str, float]) -> None:
        self.run.log({f"{stage}/{key}": value for key, value in values.items()} | {f"{stage}/images": images})

    def picture(self, stage: str, images: int, name: str, picture: Picture.Image) -> None:
        import trackio

        self.run.log({f"{stage}/{name}": trackio.Image(picture), f"{stage}/images": images})

    def conclude(self, records: Sequence[Record], report: Path) -> None:
        import trackio

        names, values = rows(records)
        along: dict[str, Any] = {"report": trackio.Html(str(report)), "evaluation/images": images_seen(records)}
        if records:
            along["evaluation/records"] = trackio.Table(columns=names, data=values)
        self.run.log(ranked(records) | along)

    def close(self, code: int) -> None:
        import trackio

        with contextlib.redirect_stdout(io.StringIO()):
            trackio.finish()
