"""Sampling by our loop beside diffusers' pipeline and a bare loop over its scheduler, of the same U-Net.

    python benchmarks/sample.py [--steps 20 50] [--rounds 5] [--batch 8] [--threads 2] [--clock wall|cpu] [--compile]

DDIM and DPM-Solver++ 2M on Stable Diffusion's table at trailing steps, classifier-free guidance in one batched call. All
contestants have the same weights, noise and tokens, give the same latents (checked before anything is timed), live in
one process and take turns; ratios are medians over rounds. `overhead` is what a loop spends outside of its network, as a
share of what it spends inside, both measured in the same run. The interval of guidance is that of conf/diffusion/guidance;
whether images are as good with it is measured in experiments/samplers.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DPMSolverMultistepScheduler, StableDiffusionPipeline
from diffusers import UNet2DConditionModel as TheirUNet
from torch import Tensor, nn
from train_step import CLOCKS

from ldm.diffusion.denoiser import NetworkDenoiser
from ldm.diffusion.grid import Trailing
from ldm.diffusion.guidance.classifier_free import ClassifierFree
from ldm.diffusion.guidance.interval import Interval
from ldm.diffusion.parameterization import Noise
from ldm.diffusion.sampler.base import Sampler
from ldm.diffusion.sampler.ddim import DDIM
from ldm.diffusion.sampler.dpmpp import DPMpp
from ldm.diffusion.schedule import ScaledLinear
from ldm.interop.diffusers import unet_from_diffusers
from ldm.random import Random
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
    seconds: float = 0.0
    rows: int = 0

    def watch(self, network: nn.Module, compiled: bool) -> None:
        forward = torch.compile(network.forward) if compiled else network.forward

        @functools.wraps(network.forward)
        def watched(x: Tensor, *others: Any, **named: Any) -> Any:
            start = self.clock()
            found = forward(x, *others, **named)
            self.seconds += self.clock() - start
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
        start = self.inside.clock()
        z = self.sample()
        self.seconds.append(self.inside.clock() - start)
        self.overheads.append(self.seconds[-1] / self.inside.seconds - 1)
        self.rows = self.inside.rows
        return z


class Pair:
    """The two U-Nets with one's weights: latents of 4x16x16, 64 and 128 channels, one block a level, cross-attention of
    width 128 at both; noise, tokens and the tokens of no condition."""

    def __init__(self, batch: int, clock: Callable[[], float], compiled: bool):
        theirs = TheirUNet(
            sample_size=16, in_channels=4, out_channels=4, block_out_channels=(64, 128), layers_per_block=1,
            cross_attention_dim=128, down_block_types=("CrossAttnDownBlock2D",) * 2,
            up_block_types=("CrossAttnUpBlock2D",) * 2,
        )  # fmt: skip
        folder = Path(tempfile.mkdtemp())
        theirs.save_pretrained(folder)
        self.theirs, self.ours = theirs.eval(), unet_from_diffusers(folder)
        self.noise, self.tokens = torch.randn(batch, 4, 16, 16), torch.randn(batch, 16, 128)
        self.null = torch.zeros(batch, 16, 128)
        self.their_time, self.our_time = Inside(clock), Inside(clock)
        self.their_time.watch(self.theirs, compiled)
        self.our_time.watch(self.ours, compiled)
        vae = AutoencoderKL(block_out_channels=(32,), norm_num_groups=32)  # a pipeline has one; nothing is decoded
        self.pipeline = StableDiffusionPipeline(
            vae, None, None, self.theirs, DDIMScheduler(**TABLE, clip_sample=False, steps_offset=1), None, None,
            requires_safety_checker=False,
        )  # fmt: skip
        self.pipeline.set_progress_bar_config(disable=True)

    def our_loop(self, sampler: Sampler, steps: int, interval: bool) -> Callable[[], Tensor]:
        mask = torch.ones(len(self.noise), 16, dtype=torch.bool)
        c = Context(self.tokens, mask, empty=Context(self.null, mask))
        denoiser, rows = NetworkDenoiser(self.ours, ScaledLinear(), Noise()), torch.arange(len(self.noise))
        guidance = functools.partial(ClassifierFree, scale=SCALE)

        def sample() -> Tensor:
            guided = Interval(denoiser, guidance, LOW, HIGH) if interval else guidance(denoiser)
            return sampler(guided, self.noise, Trailing()(denoiser.schedule, steps), c, Random(0, 0, rows))

        return sample

    def their_pipeline(self, scheduler: Any, steps: int) -> Callable[[], Tensor]:
        def sample() -> Tensor:
            self.pipeline.scheduler = scheduler
            return self.pipeline(
                prompt_embeds=self.tokens, negative_prompt_embeds=self.null, latents=self.noise, height=16, width=16,
                num_inference_steps=steps, guidance_scale=SCALE, output_type="latent",
            ).images  # fmt: skip

        return sample

    def their_loop(self, scheduler: Any, steps: int) -> Callable[[], Tensor]:
        """The shortest loop that one writes over a scheduler, as in diffusers' tutorials."""
        tokens = torch.cat([self.null, self.tokens])

        @torch.no_grad()
        def sample() -> Tensor:
            scheduler.set_timesteps(steps)
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


def race(contestants: list[Contestant], rounds: int, batch: int, steps: int) -> None:
    """Everyone in turn, in turned order in every second round; the first time is not counted."""
    first = [contestant.run() for contestant in contestants]
    for other in first[1:3]:
        difference = (other - first[0]).abs().max() / first[0].abs().max()
        assert difference < 1e-3, f"not the same latents: {difference:.2g}"
    for round_ in range(rounds):
        for contestant in contestants if round_ % 2 else reversed(contestants):
            contestant.run()
    print("| | time / pipeline | time / ldm | seconds | overhead | rows of the network an image and step |")
    print("| --- | --- | --- | --- | --- | --- |")
    for contestant in contestants:
        against = [
            statistics.median(a / b for a, b in zip(contestant.seconds[1:], other.seconds[1:], strict=True))
            for other in (contestants[0], contestants[2])
        ]
        print(
            f"| {contestant.name} | {against[0]:.3f} | {against[1]:.3f} | {statistics.median(contestant.seconds[1:]):.3f} "
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
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    diffusers.logging.set_verbosity_error()
    pair = Pair(arguments.batch, CLOCKS[arguments.clock], arguments.compile)
    for steps in arguments.steps:
        for solver in SOLVERS:
            mode = "compiled" if arguments.compile else "eager"
            where = f"{torch.get_num_threads()} threads, {arguments.rounds} rounds, {arguments.clock} time"
            print(f"\n{solver}, {steps} steps, batch {arguments.batch}, {mode}, {where}\n")
            race(pair.contestants(solver, steps), arguments.rounds, arguments.batch, steps)


if __name__ == "__main__":
    main()
