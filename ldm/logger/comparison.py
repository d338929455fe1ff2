"""A report of several runs on the pages of Weights & Biases: the page itself, its table, and the verdicts as text."""

from __future__ import annotations

from pathlib import Path

from ldm.logger.wandb import WandB
from ldm.report import numbers
from ldm.report.several import Several


def send(found: Several, folder: Path) -> None:
    """Log a report that was written into `folder`; offline where this machine is not logged in, as a training is."""
    import wandb

    sink = WandB()
    sink.open(folder, found.title, {"runs": [str(run.path) for run in found.collection.runs]})
    table = numbers.every(found.comparison)
    values = [[cell.text for cell in row] for row in table.rows]
    said = wandb.Table(columns=["verdict"], data=[[line] for line in (*found.pair_verdicts, *found.verdicts)])
    page = wandb.Html(str(folder / "report.html"), inject=False)
    sink.run.log({"report": page, "numbers": wandb.Table(columns=table.names, data=values), "verdicts": said})
    sink.close(0)
