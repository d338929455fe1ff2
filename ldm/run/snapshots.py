"""Snapshots of power-function averages, and any other such average rebuilt from them after training (arXiv 2312.02696).

The average of relative width s at update t weighs the weights at update u in proportion to u^g (section 3.1),

    p(u; t, g) = (g + 1) u^g / t^(g+1),    s = (g + 1)^(1/2) (g + 2)^-1 (g + 3)^-1/2,

so that s is the profile's standard deviation as a share of the training: wide averages are smoother and older. A few
snapshots of two averages span almost every other one: coefficients x of least |sum_i x_i p_i - p|^2 solve A x = b with
(appendix C.2)

    A_ij = <p_i, p_j>,  b_i = <p_i, p>,  <p(t, g), p(t', g')> = (g + 1)(g' + 1) (t / t')^g' / ((g + g' + 1) t')  for t <= t'.

Here the x_i sum to one besides, so that a weight that has not moved stays what it is however few the snapshots.

All but the last are kept in float16. Their x_i are small or cancel, so its rounding (2e-4 of a weight) is below what
a rebuilt average is off anyway; the last, whose x_i is near 1, stays as it is (measured: experiments/LOG.md).
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ldm.files import write_json
from ldm.model import write_weights
from ldm.tensors import read_tensors

log = logging.getLogger(__name__)

WIDEST = 12**-0.5  # of g = 0, the mean of all updates


def exponent(width: float) -> float:
    """g of a relative width; ValueError where there is none that is positive."""
    if not 0 < width < WIDEST:
        raise ValueError(f"a relative width lies between 0 and {WIDEST:.3f}, the plain mean's; got {width:g}")
    s = width**-2
    return float(np.roots([1, 7, 16 - s, 12 - s]).real.max())


def coefficients(profiles: list[tuple[int, float]], wanted: tuple[int, float]) -> tuple[np.ndarray, float]:
    """How much of each profile (t, g) makes the one wanted, and the distance left, as a share of the latter's norm."""
    own, one = np.array(profiles, dtype=float), np.array([wanted], dtype=float)
    count = len(own)
    system = np.ones((count + 1, count + 1))  # with a multiplier for the sum
    system[:count, :count], system[count, count] = _products(own, own), 0
    overlap, norm = _products(own, one)[:, 0], _products(one, one).item()
    x = np.linalg.lstsq(system, np.append(overlap, 1), rcond=None)[0][:count]
    left = norm - 2 * overlap @ x + x @ system[:count, :count] @ x
    return x, float(np.sqrt(max(left, 0) / norm))


def halved(value: Tensor) -> Tensor:
    """In float16 where it is of a wider type whose numbers all fit, as those of a network do."""
    if not value.is_floating_point() or value.element_size() <= 2:
        return value
    half = value.to(torch.float16)
    return half if half.is_meta or bool(half.isfinite().all()) else value


def _products(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """<p_i, p_j> of profiles (n, 2) and (m, 2)."""
    (t, g), (u, h) = one.T[:, :, None], other.T[:, None, :]
    shorter = np.minimum(t / u, u / t) ** np.where(t < u, h, g)
    return (g + 1) * (h + 1) * shorter / ((g + h + 1) * np.maximum(t, u))


class Snapshots:
    """The snapshots of one stage of a run: `<updates>-<width>.safetensors` in `folder`, each whole or not there."""

    def __init__(self, folder: Path):
        self.folder = folder

    def files(self) -> dict[tuple[int, float], Path]:
        """(updates, relative width) -> file, in order."""
        found = {}
        for file in sorted(self.folder.glob("*.safetensors")):
            updates, _, width = file.name.removesuffix(".safetensors").partition("-")
            found[int(updates), float(width)] = file
        return found

    def save(self, updates: int, width: float, weights: Mapping[str, Tensor], last: bool = False) -> None:
        """Write a snapshot: of the training's end as it is, of one before in float16."""
        self.folder.mkdir(parents=True, exist_ok=True)
        kept = weights if last else {name: halved(value) for name, value in weights.items()}
        write_weights(kept, self.folder / f"{updates:08d}-{width:g}.safetensors")

    def describe(self, history: Any) -> None:
        """Say of what training the snapshots are, in plain data."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / "history.json", history)

    def history(self) -> Any:
        """What `describe` was told; None where it was not."""
        file = self.folder / "history.json"
        return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None

    def clear(self) -> None:
        """Remove them all."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def rewind(self, updates: int) -> None:
        """Drop those of later updates, which a run that goes on from `updates` comes to again."""
        for (made, _), file in self.files().items():
            if made > updates:
                file.unlink()

    def rebuild(self, width: float) -> dict[str, Tensor]:
        """The average of any relative width at the newest snapshot's update, in float32.

        Raises FileNotFoundError without snapshots and ValueError for a width that cannot be.
        """
        files = self.files()
        if not files:
            raise FileNotFoundError(
                f"no snapshots in {self.folder}: averages of other widths are rebuilt from a second stage that was "
                "trained with second.snapshots=8 or so and finished with keep=all"
            )
        last = max(updates for updates, _ in files)
        x, left = coefficients([(t, exponent(w)) for t, w in files], (last, exponent(width)))
        log.info("average of relative width %g from %d snapshots: %.2g of its profile is off", width, len(files), left)
        total: dict[str, Tensor] = {}
        for share, file in zip(x.tolist(), files.values(), strict=True):
            for name, value in read_tensors(file).items():
                part = share * value.double()
                total[name] = total[name] + part if name in total else part
        return {name: value.to(torch.float32) for name, value in total.items()}
