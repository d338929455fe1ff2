"""Draw the same images with every sampler, grid and guidance from one trained run; `report.py` says how good they are.

    python experiments/samplers/study.py RUN OUT [--n 256] [--small]

Every setting draws images for the same held-out captions from the same noise. They go to OUT/<setting>.safetensors,
with the first 64 latents, and a line to OUT/settings.jsonl as soon as they are drawn; what is there is not drawn again.
OUT/converged.safetensors has the latents to which the probability-flow ODE leads from the same noise. `--small` draws with
three samplers on one grid, to see whether a second run says the same.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from ldm.build import build
from ldm.data.module import DataModule
from ldm.diffusion.grid import Custom
from ldm.eight_bits import eight_bits
from ldm.model import LatentModel
from ldm.prior.diffusion import Diffusion
from ldm.random import Random
from ldm.tensors import write_tensors

CONF = Path(__file__).parents[2] / "conf" / "diffusion"
BATCH, FOLLOWED = 64, 64

# The budgets of a sampler, and how many steps make about so many evaluations; the last step of every sampler is one
# evaluation. `euler` on straight paths is `ddim`, and `ddpm` is `euler_ancestral` (see ldm/diffusion/sampler/ddim.py).
FEW, MANY = (3, 5, 10, 20), (2, 3, 5, 10, 20)
SAMPLERS: dict[str, tuple[tuple[int, ...], Callable[[int], int]]] = {
    **dict.fromkeys(("ddim", "unipc"), (MANY, lambda n: n)),
    **dict.fromkeys(("dpmpp_2m", "euler_ancestral", "dpmpp_2m_sde", "dpmpp_3m_sde"), (FEW, lambda n: n)),
    "heun": (FEW[:3], lambda n: (n + 1) // 2),
    "predictor_corrector": (FEW[:3], lambda n: (n + 1) // 2),
    "langevin": ((10,), lambda n: (n + 3) // 4),
}
# `trailing` is `uniform` where the steps divide 1000.
GRIDS = ("karras", "log_snr", "shifted", "leading", "linspace", "custom")
OF_GRIDS = ("unipc", "euler_ancestral")


@dataclass(frozen=True)
class Setting:
    """Words of conf/diffusion, and changes to their yamls."""

    sampler: str
    steps: int
    grid: str = "uniform"
    guidance: str = "classifier_free"
    scale: float = 2.0
    borders: tuple[float, float] | None = None  # of the interval, where they are not those of its yaml
    changes: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        changes = "".join(f"-{key}{value:g}" for key, value in self.changes.items())
        return f"{self.sampler}{changes}-{self.grid}-{self.guided}{self.scale:g}-{self.steps}"

    @property
    def guided(self) -> str:
        return self.guidance if self.borders is None else f"{self.guidance} {self.borders[0]:g} to {self.borders[1]:g}"

    @property
    def facts(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in ("name", "sampler", "grid", "scale", "steps")}
        return own | {"guidance": self.guided} | self.changes

    def put(self, prior: Diffusion) -> None:
        prior.sampler, prior.steps = build(_node("sampler", self.sampler) | self.changes, "sampler"), self.steps
        # To a tolerance the grid says only where to begin and to end.
        given = self.sampler == "adaptive"
        prior.grid = Custom((1.0, 0.01, 0.0)) if given else build(_node("grid", self.grid), "grid")
        guidance = _node("guidance", self.guidance)
        # The scale stands in the node itself or in the one that it is wrapped around.
        guidance.get("guidance", guidance)["scale"] = self.scale
        if self.borders is not None:
            guidance |= dict(zip(("low", "high"), self.borders, strict=True))
        prior.guidance = build(guidance, "guidance")


def _node(group: str, word: str) -> dict[str, Any]:
    return yaml.safe_load((CONF / group / f"{word}.yaml").read_text(encoding="utf-8"))


def settings(small: bool) -> Iterator[Setting]:
    if small:
        for sampler, steps in itertools.product(("ddim", "unipc", "euler_ancestral"), (5, 10)):
            yield Setting(sampler, steps)
        return
    for sampler, (budgets, steps) in SAMPLERS.items():
        yield from (Setting(sampler, steps(budget)) for budget in budgets)
    for scale in (1.0, 1.5, 2.0, 3.0):
        yield Setting("unipc", 10, scale=scale)
    for borders, scale in (
        (None, 2.0),
        (None, 3.0),
        ((1.0, 10.0), 2.0),
        ((1.0, math.inf), 2.0),
        ((0.4, math.inf), 2.0),
    ):
        yield Setting("unipc", 10, guidance="interval", scale=scale, borders=borders)
    for grid, sampler, steps in itertools.product(GRIDS, OF_GRIDS, (5, 10)):
        yield Setting(sampler, steps, grid)
    yield from (Setting("ddim", steps, "shifted") for steps in (5, 10))
    yield Setting("adaptive", 2, changes={"tolerance": 1e-2})


class Study:
    def __init__(self, run: Path, out: Path, n: int):
        config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
        self.model, self.out, self.n = LatentModel.load(run), out, n
        data: DataModule = build(config["data"], "data")
        self.batches = [data.items("val", rows.tolist()) for rows in torch.arange(n).split(BATCH)]
        self.calls = self.rows = 0
        self.model.prior.denoiser.backbone.register_forward_pre_hook(self._called)

    def _called(self, network: nn.Module, arguments: tuple[Any, ...]) -> None:
        self.calls, self.rows = self.calls + 1, self.rows + len(arguments[0])

    def latents(self, n: int) -> Tensor:
        """The first n, in whole batches."""
        few = self.batches[: math.ceil(n / BATCH)]
        return torch.cat([self.model.sample_latents(batch, Random(0, 0, batch["index"])) for batch in few])

    def _keep(self, name: str, images: Tensor, **others: Tensor) -> None:
        write_tensors(self.out / f"{name}.safetensors", {"pixels": eight_bits(images).contiguous(), **others})

    def truth(self) -> list[str]:
        """Keep the real images and their reconstructions; their captions."""
        real = torch.cat([batch["image"] for batch in self.batches])
        self._keep("real", real)
        self._keep("reconstruction", torch.cat([self.model.reconstruct(part) for part in real.split(BATCH)]))
        return [caption for batch in self.batches for caption in batch["caption"]]

    def converge(self) -> None:
        """The ODE's solution, by a method of second order in 120 steps that become short towards the data, where the
        last one is of first order."""
        file = self.out / "converged.safetensors"
        if file.exists():
            return
        Setting("heun", 120).put(self.model.prior)
        self.model.prior.grid = Custom((1, 0.9, 0.75, 0.6, 0.45, 0.3, 0.2, 0.1, 0.05, 0.02, 0.005, 0.001, 0))
        write_tensors(file, {"z": self.latents(FOLLOWED)})

    @torch.no_grad()
    def draw(self, setting: Setting) -> dict[str, Any]:
        setting.put(self.model.prior)
        self.calls, self.rows, start = 0, 0, time.process_time()
        z = self.latents(self.n)
        seconds = time.process_time() - start
        images = torch.cat([self.model.autoencoder.decode(part) for part in z.split(BATCH)])
        self._keep(setting.name, images, z=z[:FOLLOWED].clone())
        return setting.facts | {
            "stochastic": self.model.prior.sampler.stochastic,
            "evaluations": self.calls / len(self.batches),
            "rows": self.rows / self.n,
            "seconds": round(seconds, 2),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--n", type=int, default=256)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.out.mkdir(parents=True, exist_ok=True)
    file, study = arguments.out / "settings.jsonl", Study(arguments.run, arguments.out, arguments.n)
    (arguments.out / "captions.json").write_text(json.dumps(study.truth()), encoding="utf-8")
    known = {json.loads(line)["name"] for line in file.read_text("utf-8").splitlines()} if file.exists() else set()
    if not arguments.small:
        study.converge()
    for setting in settings(arguments.small):
        if setting.name not in known:
            line = study.draw(setting)
            with file.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(line) + "\n")
            print(line, flush=True)
            known.add(setting.name)


if __name__ == "__main__":
    main()
