"""How good the images of `study.py` are: tables, a plot and pictures.

    python experiments/samplers/report.py OUT [--checker FILE] [--title NAME] [--into FOLDER]

    shows_all    share of images read as captioned in all five attributes (ldm.metric.shapes.agreement); of `shapes` only
    fd           Fréchet distance in the features of an untrained network from the real images of the same captions
    ode_error    root mean square distance of 64 latents, which have unit variance, from the converged solution of the
                 probability-flow ODE from the same noise; of samplers of the ODE only

Errors of `fd`, and of its difference from the same of another setting, are the jackknife's over 16 groups of images
taken out of all sets at once: what all settings share (captions, noise, too few images) cancels in the difference.
`rows` are what the network is asked for an image, two where it is guided. Prints the tables; with --into writes NAME.png
and NAME-pictures.png there. Needs matplotlib.
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

from ldm.callback.image_grid import beside
from ldm.metric.distance import frechet_distance
from ldm.metric.features import RandomConv
from ldm.metric.shapes.attributes import AttributeChecker, agreement, train_checker
from ldm.tensors import read_tensors, write_tensors

GROUPS, RECIPE = 16, ("ddim", "uniform", "classifier_free", 2.0)


@dataclass(frozen=True)
class Judged:
    """A setting and its numbers: which images are right, fd of all images and then of all but each group."""

    facts: dict[str, Any]
    right: Tensor | None
    ode_error: float | None
    fd: Tensor

    @property
    def key(self) -> tuple[str, str, str, float]:
        name = self.facts["sampler"]
        if "tolerance" in self.facts:
            name += f" {self.facts['tolerance']:g}"
        return name, self.facts["grid"], self.facts["guidance"], self.facts["scale"]

    def shows_all(self, other: Judged | None = None) -> tuple[float, float] | None:
        """The share of right images, or by how much it is above another's of the same captions, and its error."""
        if self.right is None:
            return None
        right = self.right.float() if other is None else self.right.float() - other.right.float()
        return right.mean().item(), right.std(unbiased=False).item() / math.sqrt(len(right))

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
        right = None if self.checker is None else agreement(self.checker, images, self.captions)["joint"]["right"]
        return Judged(facts, right, self._ode_error(facts), fd)

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


def _number(found: tuple[float, float] | None) -> str:
    """A value and its error."""
    if found is None:
        return ""
    digits = 1 if abs(found[0]) >= 10 else 2 if found[1] >= 0.015 else 3
    return f"{found[0]:.{digits}f} ± {found[1]:.{digits}f}"


def table(title: str, judged: Sequence[Judged], budgets: Sequence[int], cell: Callable[[Judged], str]) -> str:
    """A row a setting but its steps, a column a budget: as many evaluations, or one fewer."""
    rows: dict[tuple, dict[int, str]] = {}
    for each in sorted(judged, key=lambda each: (each.key[1] != "uniform", each.key)):
        budget = min(budgets, key=lambda b: abs(b - each.facts["evaluations"]))
        if abs(budget - each.facts["evaluations"]) <= 1:
            rows.setdefault(each.key, {})[budget] = cell(each)
    lines = [f"| {title} | " + " | ".join(map(str, budgets)) + " |", "| --- " * (len(budgets) + 1) + "|"]
    for (sampler, grid, _, _), cells in rows.items():
        lines.append(f"| {sampler}, {grid} | " + " | ".join(cells.get(b, "") for b in budgets) + " |")
    return "\n".join(lines)


def guidance_table(judged: Sequence[Judged]) -> str:
    title = "| unipc, uniform, 10 | all five | above scale 2 | fd | above scale 2 | rows | CPU s |"
    lines = [title, "| --- " * 7 + "|"]
    one = next(each for each in judged if each.key[2:] == ("classifier_free", 2.0))
    for each in sorted(judged, key=lambda each: each.key[2:]):
        numbers = (each.shows_all(), each.shows_all(one), each.distance(), each.distance(one))
        name, cost = f"{each.key[2]}, scale {each.key[3]:g}", f"{each.facts['rows']:g} | {each.facts['seconds']:.1f}"
        lines.append(f"| {' | '.join((name, *map(_number, numbers), cost))} |")
    return "\n".join(lines)


def plot(judged: Sequence[Judged], floor: Judged, file: Path) -> None:
    """fd and the solver's own error: of samplers on the uniform grid against evaluations, and of grids."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7), layout="constrained")
    panels = figure.subplots(2, 2, sharey="row")
    _samplers(panels[:, 0], [each for each in judged if each.key[1] == "uniform"])
    _grids(panels[:, 1], [each for each in judged if each.key[0] in ("unipc", "euler_ancestral")])
    for panel in panels[0]:
        panel.axhline(floor.distance()[0], color="0.5", lw=1, ls=":", label="reconstructions")
        panel.legend(fontsize=7, ncols=3, loc="upper left")
    for row, ticks, title in (
        (panels[0], (0.2, 0.5, 1, 2, 5, 10, 20, 50), "Fréchet distance, untrained features"),
        (panels[1], (0.02, 0.05, 0.1, 0.2, 0.5), "rms distance from the ODE's solution"),
    ):
        row[0].set(yscale="log", ylabel=title)
        row[0].set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        for panel in row:
            panel.grid(alpha=0.3)
            panel.minorticks_off()
    panels[0, 0].set_ylim(top=400)  # room for the legends
    figure.savefig(file, dpi=80)


def _samplers(panels: Any, members: Sequence[Judged]) -> None:
    """Lines, dashed where noise is added on the way."""
    for i, name in enumerate(sorted({each.key[0] for each in members})):
        line = sorted((each for each in members if each.key[0] == name), key=lambda each: each.facts["evaluations"])
        x, solver = [each.facts["evaluations"] for each in line], line[0].ode_error is not None
        values, errors = zip(*(each.distance() for each in line), strict=True)
        style = {"color": f"C{i}", "marker": "o", "ms": 4, "lw": 1.2, "ls": "-" if solver else "--"}
        panels[0].errorbar(x, values, errors, capsize=2, label=name, **style)
        if solver:
            panels[1].plot(x, [each.ode_error for each in line], **style)
    panels[0].set_title("samplers, uniform grid (dashed: with noise)")
    for panel in panels:
        panel.set(xscale="log", xlabel="evaluations of the guided network")
        panel.set_xticks((2, 3, 5, 10, 20, 40), ("2", "3", "5", "10", "20", "40"))
        panel.minorticks_off()


def _grids(panels: Any, members: Sequence[Judged]) -> None:
    """Dots a grid, of two samplers at two budgets."""
    names = sorted({each.key[1] for each in members})
    for i, (sampler, steps) in enumerate((s, n) for s in ("unipc", "euler_ancestral") for n in (5, 10)):
        found = [each for each in members if each.key[0] == sampler and each.facts["steps"] == steps]
        x = [names.index(each.key[1]) + 0.12 * (i - 1.5) for each in found]
        values, errors = zip(*(each.distance() for each in found), strict=True)
        style = {"ls": "", "marker": "os"[i // 2], "ms": 5, "color": ("C0", "C9", "C3", "C1")[i]}
        panels[0].errorbar(x, values, errors, capsize=2, label=f"{sampler}, {steps}", **style)
        if sampler == "unipc":
            panels[1].plot(x, [each.ode_error for each in found], **style)
    panels[0].set_title("grids")
    for panel in panels:
        panel.set_xticks(range(len(names)), names)


def pictures(judge: Judge, judged: Sequence[Judged], file: Path, budget: int = 10, count: int = 16) -> None:
    """Real images, and the same captions by the best, the recipe's and the worst at 10 evaluations."""
    near = [each for each in judged if budget - 1 <= each.facts["evaluations"] <= budget]
    near.sort(key=lambda each: each.distance()[0])
    recipe = next(each for each in near if each.key == RECIPE)
    rows = [("real", judge.images("real")[:count])]
    for word, each in (("best", near[0]), ("recipe", recipe), ("worst", near[-1])):
        rows.append((f"{word}: {each.key[0]}, {each.key[1]}", judge.images(each.facts["name"])[:count]))
    captions = [caption.removeprefix("a ") for caption in judge.captions[:count]]
    grid = beside(rows, captions, columns=8, cell=96)
    grid.picture.save(file, optimize=True)


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
    print(f"reconstructions: fd {_number(floor.distance())}; all five {_number(floor.shows_all())}")
    default = max((e for e in plain if e.key == RECIPE and e.facts["steps"] <= 20), key=lambda e: e.facts["steps"])
    above = f"fd above ddim, uniform, {default.facts['steps']}"
    print("\n" + table("fd", plain, budgets, lambda each: _number(each.distance())))
    print("\n" + table(above, plain, budgets, lambda each: _number(each.distance(default))))
    solvers = [each for each in plain if each.ode_error is not None]
    print("\n" + table("distance from the ODE's solution", solvers, budgets, lambda each: f"{each.ode_error:.3f}"))
    print("\n" + table("all five", plain, budgets, lambda each: _number(each.shows_all())))
    for each in plain:
        if "tolerance" in each.facts:
            found, calls = _number(each.distance(default)), each.facts["evaluations"]
            print(f"\n{each.key[0]}: {calls:g} evaluations, {above} {found}, from the ODE {each.ode_error:.3f}")
    guided = [each for each in every if each.key[:2] == ("unipc", "uniform") and each.facts["steps"] == 10]
    if len(guided) > 1:
        print("\n" + guidance_table(guided))
    if arguments.into is not None:
        if solvers:
            plot(plain, floor, arguments.into / f"{arguments.title}.png")
        pictures(judge, plain, arguments.into / f"{arguments.title}-pictures.png")


if __name__ == "__main__":
    main()
