"""Snapshots of power-function averages of weights, from which averages of other widths are rebuilt after training (Karras et
al. 2023).

The power-function average at update t counts the weights at update u in proportion to u^g (section 3.1). Its profile p and its
relative width s are

    p(u; t, g) = (g + 1) u^g / t^(g+1),    s = (g + 1)^(1/2) (g + 2)^-1 (g + 3)^-1/2.

s is the standard deviation of the profile as a share of the training, so wider averages are smoother and older. Almost every
other average of this kind is close to a linear combination of a few snapshots of two of them. The coefficients x that minimise
|sum_i x_i p_i - p|^2 solve A x = b with (appendix C.2)

    A_ij = <p_i, p_j>,  b_i = <p_i, p>,  <p(t, g), p(t', g')> = (g + 1)(g' + 1) (t / t')^g' / ((g + g' + 1) t')  for t <= t'.

Here the x_i have to sum to one in addition, so that a weight that did not change in training is rebuilt exactly, also from few
snapshots.

All snapshots but the last are stored in float16. Their coefficients are small or cancel, so that the rounding error (2e-4 of a
weight) is below the error of the rebuilt average. The coefficient of the last one is near 1, and it is stored as it is
(measured: experiments/LOG.md).

Sources:
    Karras et al., Analyzing and Improving the Training Dynamics of Diffusion Models (2023), arXiv 2312.02696
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

WIDEST = 12**-0.5  # the relative width for g = 0, the mean over all updates


def exponent(width: float) -> float:
    """The exponent g for a relative width; ValueError where there is none that is positive."""
    if not 0 < width < WIDEST:
        raise ValueError(f"a relative width lies between 0 and {WIDEST:.3f}, the plain mean's; got {width:g}")
    s = width**-2
    return float(np.roots([1, 7, 16 - s, 12 - s]).real.max())


def coefficients(profiles: list[tuple[int, float]], wanted: tuple[int, float]) -> tuple[np.ndarray, float]:
    """The coefficients of the profiles, each given as (t, g), whose linear combination is nearest to the wanted profile, and
    the remaining distance as a share of the norm of the wanted one."""
    own, one = np.array(profiles, dtype=float), np.array([wanted], dtype=float)
    count = len(own)
    system = np.ones((count + 1, count + 1))  # with a multiplier for the sum
    system[:count, :count], system[count, count] = _products(own, own), 0
    overlap, norm = _products(own, one)[:, 0], _products(one, one).item()
    x = np.linalg.lstsq(system, np.append(overlap, 1), rcond=None)[0][:count]
    left = norm - 2 * overlap @ x + x @ system[:count, :count] @ x
    return x, float(np.sqrt(max(left, 0) / norm))


def halved(value: Tensor) -> Tensor:
    """A tensor in float16, if it is of a wider floating-point type and all its numbers are in the range of float16; else the
    tensor itself."""
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
    """The snapshots of one stage of a run: files `<updates>-<width>.safetensors` in a folder, each complete or absent.

    Arguments:
        folder: the folder.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def files(self) -> dict[tuple[int, float], Path]:
        """The files by (updates, relative width), in increasing order."""
        found = {}
        for file in sorted(self.folder.glob("*.safetensors")):
            updates, _, width = file.name.removesuffix(".safetensors").partition("-")
            found[int(updates), float(width)] = file
        return found

    def save(self, updates: int, width: float, weights: Mapping[str, Tensor], last: bool = False) -> None:
        """Write a snapshot, in float16 unless it is the `last` one, that of the end of the training."""
        self.folder.mkdir(parents=True, exist_ok=True)
        kept = weights if last else {name: halved(value) for name, value in weights.items()}
        write_weights(kept, self.folder / f"{updates:08d}-{width:g}.safetensors")

    def describe(self, history: Any) -> None:
        """Store the history of the training that the snapshots are of, as plain data."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / "history.json", history)

    def history(self) -> Any:
        """What `describe` has stored; None where there is nothing."""
        file = self.folder / "history.json"
        return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None

    def clear(self) -> None:
        """Remove them all."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def rewind(self, updates: int) -> None:
        """Remove the snapshots of updates after `updates`; a run that is resumed there will make them again."""
        for (made, _), file in self.files().items():
            if made > updates:
                file.unlink()

    def rebuild(self, width: float) -> dict[str, Tensor]:
        """The average with a given relative width at the update of the newest snapshot, in float32.

        Raises FileNotFoundError where there are no snapshots, and ValueError for an impossible width.
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
