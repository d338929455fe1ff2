"""Sampling by our loop beside diffusers' pipeline and a bare loop over its scheduler, of the same U-Net.

    python benchmarks/sample.py [--steps 20 50] [--rounds 5] [--batch 8] [--threads 2] [--clock wall|cpu] [--compile]
    python benchmarks/sample.py --device cuda --size ldm_coco --precision bf16-mixed --batch 64 --steps 20

DDIM and DPM-Solver++ 2M on Stable Diffusion's table at trailing steps, classifier-free guidance in one batched call. All
contestants have the same weights, noise and tokens, give the same latents (checked before anything is timed), live in
one process and take turns; ratios are medians over rounds. `overhead` is what a loop spends outside of its network, as a
share of what it spends inside, both measured in the same run; on a GPU every call of the network is waited for. The interval
of guidance is that of conf/diffusion/guidance; whether images are as good with it is measured in experiments/samplers.
"""

from __future__ import annotations

import argparse
import functools
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DPMSolverMultistepScheduler, StableDiffusionPipeline
from networks import PRECISIONS, SIZES, Size, Unets, autocast, synchronize
from torch import Tensor, nn
from turns import CLOCKS

from ldm.diffusion.denoiser import NetworkDenoiser
from ldm.diffusion.grid import Trailing
from ldm.diffusion.guidance.classifier_free import ClassifierFree
from ldm.diffusion.guidance.interval import Interval
from ldm.diffusion.parameterization import Noise
from ldm.diffusion.sampler.base import Sampler
from ldm.diffusion.sampler.ddim import DDIM
from ldm.diffusion.sampler.dpmpp import DPMpp
from ldm.diffusion.schedule import ScaledLinear
from ldm.random import Random
from ldm.run.machine import device_name
from ldm.types import Context

SCALE, LOW, HIGH = 2.0, 0.4, 3.0
TABLE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "timestep_spacing": "trailing"}
SOLVERS: dict[str, tuple[Callable[[], Sampler], Callable[[], Any]]] = {
    "ddim": (DDIM, lambda: DDIMScheduler(**TABLE, clip_sample=False, steps_offset=1)),
    "dpm++ 2m": (DPMpp, lambda: DPMSolverMultistepScheduler(**TABLE, steps_offset=1)),
}


@dataclass
class Inside:
    """Seconds that a network took, all calls together."""

    clock: Callable[[], float]
    device: torch.device
    seconds: float = 0.0
    rows: int = 0

    def now(self) -> float:
        synchronize(self.device)
        return self.clock()

    def watch(self, network: nn.Module, compiled: bool) -> None:
        forward = torch.compile(network.forward) if compiled else network.forward

        @functools.wraps(network.forward)
        def watched(x: Tensor, *others: Any, **named: Any) -> Any:
            start = self.now()
            found = forward(x, *others, **named)
            self.seconds += self.now() - start
            self.rows += len(x)
            return found

        network.forward = watched


@dataclass
class Contestant:
    name: str
    sample: Callable[[], Tensor]
    inside: Inside
    seconds: list[float] = field(default_factory=list)
    overheads: list[float] = field(default_factory=list)
    rows: int = 0

    def run(self) -> Tensor:
        self.inside.seconds, self.inside.rows = 0.0, 0
        start = self.inside.now()
        z = self.sample()
        self.seconds.append(self.inside.now() - start)
        self.overheads.append(self.seconds[-1] / self.inside.seconds - 1)
        self.rows = self.inside.rows
        return z


class Pair:
    """The two U-Nets with one's weights; noise, tokens and the tokens of no condition."""

    def __init__(self, size: Size, batch: int, device: torch.device, clock: Callable[[], float], compiled: bool):
        nets = Unets(size)
        self.device, self.side, self.length = device, size.side, size.tokens
        self.theirs, self.ours = nets.theirs().eval().to(device), nets.ours().eval().to(device)
        self.noise = torch.randn(batch, 4, size.side, size.side, device=device)
        self.tokens = torch.randn(batch, size.tokens, size.width, device=device)
        self.null = torch.zeros_like(self.tokens)
        self.their_time, self.our_time = Inside(clock, device), Inside(clock, device)
        self.their_time.watch(self.theirs, compiled)
        self.our_time.watch(self.ours, compiled)
        vae = AutoencoderKL(block_out_channels=(32,), norm_num_groups=32)  # a pipeline has one; nothing is decoded
        self.pipeline = StableDiffusionPipeline(
            vae, None, None, self.theirs, DDIMScheduler(**TABLE, clip_sample=False, steps_offset=1), None, None,
            requires_safety_checker=False,
        )  # fmt: skip
        self.pipeline.to(device)
        self.pipeline.set_progress_bar_config(disable=True)

    def our_loop(self, sampler: Sampler, steps: int, interval: bool) -> Callable[[], Tensor]:
        mask = torch.ones(len(self.noise), self.length, dtype=torch.bool, device=self.device)
        c = Context(self.tokens, mask, empty=Context(self.null, mask))
        denoiser, rows = NetworkDenoiser(self.ours, ScaledLinear(), Noise()), torch.arange(len(self.noise))
        denoiser.to(self.device)
        guidance = functools.partial(ClassifierFree, scale=SCALE)

        def sample() -> Tensor:
            guided = Interval(denoiser, guidance, LOW, HIGH) if interval else guidance(denoiser)
            return sampler(guided, self.noise, Trailing()(denoiser.schedule, steps), c, Random(0, 0, rows))

        return sample

    def their_pipeline(self, scheduler: Any, steps: int) -> Callable[[], Tensor]:
        def sample() -> Tensor:
            self.pipeline.scheduler = scheduler
            return self.pipeline(
                prompt_embeds=self.tokens, negative_prompt_embeds=self.null, latents=self.noise,
                height=self.side, width=self.side,
                num_inference_steps=steps, guidance_scale=SCALE, output_type="latent",
            ).images  # fmt: skip

        return sample

    def their_loop(self, scheduler: Any, steps: int) -> Callable[[], Tensor]:
        """The shortest loop that one writes over a scheduler, as in diffusers' tutorials."""
        tokens = torch.cat([self.null, self.tokens])

        @torch.no_grad()
        def sample() -> Tensor:
            scheduler.set_timesteps(steps, device=self.device)
            x = self.noise * scheduler.init_noise_sigma
            for k in scheduler.timesteps:
                both = scheduler.scale_model_input(torch.cat([x, x]), k)
                null, plain = self.theirs(both, k, encoder_hidden_states=tokens).sample.chunk(2)
                x = scheduler.step(null + SCALE * (plain - null), k, x).prev_sample
            return x

        return sample

    def contestants(self, solver: str, steps: int) -> list[Contestant]:
        ours, theirs = SOLVERS[solver]
        return [
            Contestant("diffusers' pipeline", self.their_pipeline(theirs(), steps), self.their_time),
            Contestant("a loop over its scheduler", self.their_loop(theirs(), steps), self.their_time),
            Contestant("ldm", self.our_loop(ours(), steps, False), self.our_time),
            Contestant("ldm, guided in an interval", self.our_loop(ours(), steps, True), self.our_time),
        ]


def race(contestants: list[Contestant], rounds: int, batch: int, steps: int, tolerance: float) -> None:
    """Everyone in turn, in turned order in every second round; the first time is not counted."""
    first = [contestant.run() for contestant in contestants]
    for other in first[1:3]:
        difference = (other - first[0]).abs().max() / first[0].abs().max()
        assert difference < tolerance, f"not the same latents: {difference:.2g}"
    for round_ in range(rounds):
        for contestant in contestants if round_ % 2 else reversed(contestants):
            contestant.run()
    print("| | time / pipeline | time / ldm | seconds | images/s | overhead | rows of the network an image and step |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for contestant in contestants:
        against = [
            statistics.median(a / b for a, b in zip(contestant.seconds[1:], other.seconds[1:], strict=True))
            for other in (contestants[0], contestants[2])
        ]
        seconds = statistics.median(contestant.seconds[1:])
        print(
            f"| {contestant.name} | {against[0]:.3f} | {against[1]:.3f} | {seconds:.3f} | {batch / seconds:.2f} "
            f"| {100 * statistics.median(contestant.overheads[1:]):.2f} % | {contestant.rows / batch / steps:.2f} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="+", default=[20, 50])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--compile", action="store_true", help="compile both U-Nets; takes minutes on a CPU")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--precision", choices=PRECISIONS, default="32-true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    diffusers.logging.set_verbosity_error()
    device, mode = torch.device(arguments.device), "compiled" if arguments.compile else "eager"
    pair = Pair(SIZES[arguments.size], arguments.batch, device, CLOCKS[arguments.clock], arguments.compile)
    tolerance = 1e-3 if arguments.precision == "32-true" and device.type == "cpu" else 0.2  # of matrix units that round
    where = f"{device_name(device)}, {arguments.precision}, {arguments.rounds} rounds, {arguments.clock} time"
    for steps in arguments.steps:
        for solver in SOLVERS:
            print(f"\n{solver}, {steps} steps, batch {arguments.batch}, {mode}, {where}\n")
            with autocast(device, arguments.precision):
                race(pair.contestants(solver, steps), arguments.rounds, arguments.batch, steps, tolerance)


if __name__ == "__main__":
    main()
