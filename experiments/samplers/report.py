"""How good the images of `study.py` are: tables, a plot and pictures.

    python experiments/samplers/report.py OUT [--checker FILE] [--title NAME] [--into FOLDER]

    shows_all    share of images read as captioned in all five attributes (ldm.metric.agreement); of `shapes` only
    fd           Fréchet distance in the features of an untrained network from the real images of the same captions
    ode_error    root mean square distance of 64 latents, which have unit variance, from the converged solution of the
                 probability-flow ODE from the same noise; of samplers of the ODE only

Errors of `fd`, and of its difference from the same of another setting, are the jackknife's over 16 groups of images
taken out of all sets at once: what all settings share (captions, noise, too few images) cancels in the difference.
Prints the tables; with --into writes NAME.png and NAME-pictures.png there. Needs matplotlib.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ldm.callback.grid import beside
from ldm.metric.attributes import AttributeChecker, agreement, train_checker
from ldm.metric.distance import frechet_distance
from ldm.metric.features import RandomConv
from ldm.tensors import read_tensors, write_tensors

GROUPS, RECIPE = 16, ("ddim", "uniform", "classifier_free", 2.0)


@dataclass(frozen=True)
class Judged:
    """A setting and its numbers; `fd` is of all images and then of all but each group."""

    facts: dict[str, Any]
    shows_all: float | None
    ode_error: float | None
    fd: Tensor

    @property
    def key(self) -> tuple[str, str, str, float]:
        name = self.facts["sampler"]
        if "tolerance" in self.facts:
            name += f" {self.facts['tolerance']:g}"
        return name, self.facts["grid"], self.facts["guidance"], self.facts["scale"]

    def distance(self, other: Judged | None = None) -> tuple[float, float]:
        """fd, or by how much it is above another's, and its error."""
        fd = self.fd if other is None else self.fd - other.fd
        return fd[0].item(), math.sqrt((GROUPS - 1) * fd[1:].var(unbiased=False).item())


class Judge:
    def __init__(self, out: Path, checker: AttributeChecker | None):
        self.out, self.checker, self.network = out, checker, RandomConv()
        self.captions = json.loads((out / "captions.json").read_text(encoding="utf-8"))
        self.real = self.network(self.images("real"))
        self.group = torch.arange(len(self.captions)) * GROUPS // len(self.captions)

    def images(self, name: str) -> Tensor:
        return read_tensors(self.out / f"{name}.safetensors")["pixels"].float() / 127.5 - 1

    def __call__(self, facts: dict[str, Any]) -> Judged:
        images = self.images(facts["name"])
        features, every = self.network(images), torch.ones(len(images), dtype=torch.bool)
        kept = [every, *(self.group != g for g in range(GROUPS))]
        fd = torch.tensor([frechet_distance(features[rows], self.real[rows]) for rows in kept])
        share = None if self.checker is None else agreement(self.checker, images, self.captions)["joint"]["share"]
        return Judged(facts, share, self._ode_error(facts), fd)

    def _ode_error(self, facts: dict[str, Any]) -> float | None:
        if facts.get("stochastic", True) or not (self.out / "converged.safetensors").exists():
            return None
        z, wanted = (read_tensors(self.out / f"{name}.safetensors")["z"] for name in (facts["name"], "converged"))
        return (z - wanted).square().mean().sqrt().item()


def checker_of(file: Path, size: int = 32) -> AttributeChecker:
    """The checker in a file; trained, for half a minute, where there is none."""
    if not file.exists():
        write_tensors(file, train_checker(size=size)[0].state_dict())
    checker = AttributeChecker(size)
    checker.load_state_dict(read_tensors(file))
    return checker.eval()


def _number(value: float | None, error: float | None = None) -> str:
    if value is None:
        return ""
    digits = 2 if abs(value) < 10 else 1
    return f"{value:.{digits}f}" + ("" if error is None else f" ± {error:.{digits}f}")


def table(title: str, judged: Sequence[Judged], budgets: Sequence[int], cell: Callable[[Judged], str]) -> str:
    """A row a setting but its steps, a column a budget: the evaluations that come nearest to it from below."""
    rows: dict[tuple, dict[int, str]] = {}
    for each in judged:
        budget = max((b for b in budgets if b <= each.facts["evaluations"] + 1), default=0)
        rows.setdefault(each.key, {})[budget] = cell(each)
    lines = [f"| {title} | " + " | ".join(map(str, budgets)) + " |", "| --- " * (len(budgets) + 1) + "|"]
    for (sampler, grid, _, _), cells in rows.items():
        lines.append(f"| {sampler}, {grid} | " + " | ".join(cells.get(b, "") for b in budgets) + " |")
    return "\n".join(lines)


def guidance_table(judged: Sequence[Judged]) -> str:
    lines = ["| unipc, 10 steps | all five | fd | above scale 2 | CPU s |", "| --- | --- | --- | --- | --- |"]
    one = next(each for each in judged if each.key[2:] == ("classifier_free", 2.0))
    for each in judged:
        share = "" if each.shows_all is None else f"{each.shows_all:.3f}"
        lines.append(
            f"| {each.key[2]} {each.key[3]:g} | {share} | {_number(*each.distance())} | "
            f"{_number(*each.distance(one))} | {each.facts['seconds']:.1f} |"
        )
    return "\n".join(lines)


def plot(judged: Sequence[Judged], floor: Judged, file: Path) -> None:
    """fd and the solver's own error against evaluations: of samplers on the uniform grid, and of grids."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7), layout="constrained")
    panels = figure.subplots(2, 2, sharey="row")
    uniform = [each for each in judged if each.key[1] == "uniform"]
    _lines(panels[:, 0], uniform, lambda each: each.key[0])
    grids = [each for each in judged if each.key[0] == "unipc" and 5 <= each.facts["evaluations"] <= 10]
    _lines(panels[:, 1], grids, lambda each: f"unipc, {each.key[1]}")
    grids = [each for each in judged if each.key[0] == "euler_ancestral" and 5 <= each.facts["evaluations"] <= 10]
    _lines(panels[:, 1], grids, lambda each: f"ancestral, {each.key[1]}")
    for panel, title in zip(panels[0], ("samplers on the uniform grid", "grids"), strict=True):
        panel.axhline(floor.distance()[0], color="0.6", lw=1, ls=":", label="reconstructions")
        panel.set_title(title)
        panel.legend(fontsize=7, ncols=2)
    for panel, ticks in zip(panels.T.flat, 2 * [(2, 3, 5, 10, 20, 40)] + 2 * [(5, 10)], strict=True):
        panel.set(xscale="log", yscale="log")
        panel.set_xticks(ticks, [str(tick) for tick in ticks])
        panel.minorticks_off()
    panels[0, 0].set_ylabel("Fréchet distance, untrained features")
    panels[1, 0].set_ylabel("rms distance from the ODE's solution")
    for panel in panels[1]:
        panel.set_xlabel("evaluations of the guided network")
    figure.savefig(file, dpi=80)


def _lines(panels: Any, members: Sequence[Judged], label: Callable[[Judged], str]) -> None:
    """Lines of the upper panel, dashed where noise is added, and of the lower, in the order of the members."""
    for name in dict.fromkeys(map(label, members)):
        line = sorted((each for each in members if label(each) == name), key=lambda each: each.facts["evaluations"])
        x, solver = [each.facts["evaluations"] for each in line], line[0].ode_error is not None
        values, errors = zip(*(each.distance() for each in line), strict=True)
        drawn = panels[0].errorbar(
            x, values, errors, marker="o", ms=3, capsize=2, ls="-" if solver else "--", label=name
        )
        if solver:
            colour = drawn[0].get_color()
            panels[1].plot(x, [each.ode_error for each in line], marker="o", ms=3, color=colour)


def pictures(judge: Judge, judged: Sequence[Judged], file: Path, budget: int = 10, count: int = 16) -> None:
    """Real images, and the same captions by the best and the worst at 10 evaluations."""
    near = [each for each in judged if budget - 1 <= each.facts["evaluations"] <= budget]
    near.sort(key=lambda each: each.distance()[0])
    rows = [("real", judge.images("real")[:count])]
    for word, each in (("best", near[0]), ("worst", near[-1])):
        rows.append((f"{word}: {each.key[0]}, {each.key[1]}", judge.images(each.facts["name"])[:count]))
    captions = [caption.removeprefix("a ") for caption in judge.captions[:count]]
    grid = beside(rows, captions, columns=8, cell=96)
    grid.picture.quantize(128).save(file, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--checker", type=Path)
    parser.add_argument("--title", default="shapes")
    parser.add_argument("--into", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    judge = Judge(arguments.out, checker_of(arguments.checker) if arguments.checker else None)
    lines = (arguments.out / "settings.jsonl").read_text(encoding="utf-8").splitlines()
    every = [judge(json.loads(line)) for line in lines]
    floor = judge({"name": "reconstruction", "sampler": "reconstructions", "grid": "", "guidance": "", "scale": 0})
    plain = [each for each in every if each.key[2:] == RECIPE[2:]]
    budgets = sorted({round(each.facts["evaluations"]) for each in plain if each.key[:2] == ("unipc", "uniform")})
    print(f"reconstructions: fd {_number(*floor.distance())}, all five {floor.shows_all}")
    print("\n" + table("fd", plain, budgets, lambda each: _number(*each.distance())))
    recipe = max((e for e in plain if e.key == RECIPE and e.facts["steps"] <= 20), key=lambda e: e.facts["steps"])
    print("\n" + table("fd above ddim, uniform, 20", plain, budgets, lambda each: _number(*each.distance(recipe))))
    print(
        "\n"
        + table(
            "ode_error", plain, budgets, lambda each: "" if each.ode_error is None else f"{each.facts['ode_error']:.4f}"
        )
    )
    if judge.checker is not None:
        print("\n" + table("all five", plain, budgets, lambda each: f"{each.shows_all:.3f}"))
    guided = [each for each in every if each.key[:2] == ("unipc", "uniform") and each.facts["steps"] == 10]
    if len(guided) > 1:
        print("\n" + guidance_table(guided))
    if arguments.into is not None:
        if any(each.ode_error is not None for each in plain):
            plot(plain, floor, arguments.into / f"{arguments.title}.png")
        pictures(judge, plain, arguments.into / f"{arguments.title}-pictures.png")


if __name__ == "__main__":
    main()
