"""Images from a finished run: a grid and a PNG for each, the same for the same seed whatever the batch.

Image i is a function of (seed, i) and its caption, so a job that was interrupted goes on with the numbers that are not
there yet.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
import torch
from einops import rearrange
from PIL import Image

from ldm.callback.image_grid import image_grid, save
from ldm.command.asked import asked_for
from ldm.eight_bits import eight_bits
from ldm.files import folder, whole_file, write_json
from ldm.model import LatentModel, Weights
from ldm.plugins import name as name_plugins
from ldm.random import seed_of
from ldm.run.load import Drawing, check_trained, named, weights_hash
from ldm.run.machine import device_of
from ldm.task.tools.conditions import check_whole, draw

log = logging.getLogger(__name__)

_SHOWN = 256  # images in the grid


def sample(
    run: str,
    prompt: str | None,
    prompts: str | None,
    label: str | int | None,
    n: int,
    guidance: float | int | None,
    steps: int | None,
    seed: int,
    weights: Weights,
    ema: float | None,
    batch: int,
    device: str,
    out: str | None,
    diffusion: dict[str, Any] | None = None,
    prior: dict[str, Any] | None = None,
    guide: str | None = None,
    guide_ema: float | None = None,
    compile: bool = False,
    negative: str | None = None,
    plugins: Sequence[str] = (),
) -> None:
    """Write `grid.png`, `0000.png`, ... and what they were made from, `samples.json`."""
    name_plugins(plugins)
    if n < 1 or batch < 1:
        raise ValueError(f"n={n}, batch={batch}: both are at least 1")
    drawing = Drawing(diffusion, guidance, steps, prior, guide, guide_ema)
    model = drawing.load(run, weights, ema, device_of(device))
    check_trained(model, run)
    check_whole(model)
    if compile:
        _compile(model)
    asked = asked_for(model, prompt, prompts, label, n, negative)
    count = asked.count
    made_from = {"captions": asked.captions, "labels": asked.labels, "guidance": guidance, "steps": steps, "seed": seed}
    made_from |= {} if negative is None else {"negative": negative}
    made_from |= drawing.facts() | {"weights": named(weights, ema, model), "weights_hash": weights_hash(model)}
    name = f"seed{seed}-{seed_of(json.dumps(made_from), str(run)) % 16**6:06x}"
    place = folder(Path(out)) if out else Path(run) / "samples" / name
    missing = _begin(place, made_from | {"run": str(run)}, count)
    pictures: dict[int, torch.Tensor] = {}  # those of the grid
    for start in range(0, len(missing), batch):
        rows = missing[start : start + batch]
        for row, picture in zip(rows, eight_bits(draw(model, asked, rows, seed).cpu()), strict=True):
            _write(picture, place / _name(row))
            pictures |= {row: picture} if row < _SHOWN else {}
        log.info("%d of %d images", count - len(missing) + start + len(rows), count)
    words = asked.words(model)
    rows = range(min(count, _SHOWN))
    shown = torch.stack([pictures[row] if row in pictures else _read(place / _name(row)) for row in rows])
    grid = image_grid(shown / 127.5 - 1, words and words[:_SHOWN])
    save(grid, place / "grid.png", kind="samples", stage="second", step=0, images=0)
    log.info("%d images and grid.png are in %s", count, place)


def _compile(model: LatentModel) -> None:
    networks = model.prior.networks()
    if not networks:
        raise ValueError(f"compile=true: this run's prior {type(model.prior).__name__} has no network")
    for network in networks:
        network.compile()


def _begin(folder: Path, facts: dict[str, Any], count: int) -> list[int]:
    """The numbers of the images that are not there yet; ValueError where the folder holds another job's."""
    file = folder / "samples.json"
    folder.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        write_json(file, facts)
    elif json.loads(file.read_text(encoding="utf-8")) != facts:
        raise ValueError(f"{folder} holds images of other words or weights ({file.name} says which); take another out=")
    missing = [row for row in range(count) if not (folder / _name(row)).exists()]
    if len(missing) < count:
        log.info("%d of %d images are there already", count - len(missing), count)
    return missing


def _name(row: int) -> str:
    return f"{row:04d}.png"


def _write(picture: torch.Tensor, path: Path) -> None:
    with whole_file(path) as temporary:
        Image.fromarray(rearrange(picture, "c h w -> h w c").cpu().numpy()).save(temporary, "PNG")


def _read(path: Path) -> torch.Tensor:
    """An image that an earlier call has drawn, uint8 (c, h, w)."""
    pixels = torch.from_numpy(numpy.array(Image.open(path).convert("RGB")))
    return rearrange(pixels, "h w c -> c h w")
