"""A finished run's model in a form that other programs load.

to=diffusers   out=DIR is a pipeline of diffusers; what no pipeline can be is told before anything is written
to=torch       out=DIR holds decoder.pt2, denoiser.pt2, ..., which `torch.export.load` reads, and export.json
to=onnx        out=DIR holds decoder.onnx, denoiser.onnx, ..., which onnxruntime runs, and export.json
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from ldm.condition.label import Label
from ldm.files import folder
from ldm.interop.diffusers_pipeline import Pipeline, pipeline_of
from ldm.interop.program_file import Onnx, ProgramFile, Torch
from ldm.interop.programs import Programs, programs_of
from ldm.model import LatentModel, Weights
from ldm.plugins import name as name_plugins
from ldm.run.load import check_trained, is_trained, load, named
from ldm.run.machine import device_of

log = logging.getLogger(__name__)

_PROGRAMS: dict[str, ProgramFile] = {"torch": Torch(), "onnx": Onnx()}


def export(
    run: str,
    out: str,
    to: Literal["diffusers", "torch", "onnx"],
    weights: Weights,
    ema: float | None,
    plugins: Sequence[str] = (),
) -> None:
    """Write the model of a run to a directory that is not there yet."""
    name_plugins(plugins)
    place = folder(Path(out))
    if place.exists():
        raise FileExistsError(f"out={out} is there already; name a directory that is not, or remove it")
    kind = _PROGRAMS.get(to)
    if kind is not None:
        kind.check()
    model = load(run, weights, ema, device_of("cpu"))
    if kind is not None:
        programs = programs_of(model, is_trained(model, run))
        _write(programs, place, kind, {"run": str(run), "weights": named(weights, ema, model)})
        return
    check_trained(model, run)
    pipeline = pipeline_of(model)
    pipeline.write(place)
    _tell(pipeline, model, place)


def _write(programs: Programs, place: Path, kind: ProgramFile, facts: dict[str, Any]) -> None:
    programs.write(place, kind, facts)
    files = ", ".join(f"{each.name}.{kind.suffix}" for each in programs.programs)
    log.info("%s and export.json, which says what goes in and out, are in %s", files, place)
    for part, why in programs.left_out.items():
        log.info("the %s is not among them: %s", part, why)


def _tell(pipeline: Pipeline, model: LatentModel, place: Path) -> None:
    """Say what was written and how to use it."""
    steps, first, last = len(pipeline.log_snr), pipeline.log_snr[0].item(), pipeline.log_snr[-1].item()
    log.info("a %s is in %s: DiffusionPipeline.from_pretrained(%r) loads it", pipeline.kind, place, str(place))
    log.info(
        "its table has %d steps over log-SNR %.2f to %.2f; it samples by DDIM, and not as the run does",
        steps,
        first,
        last,
    )
    if pipeline.autoencoder is not model.autoencoder:
        log.info("the whitening of latents, a mean and a deviation a channel, is in quant_conv and post_quant_conv")
    if isinstance(model.condition, Label):
        log.info("a prompt is the name of a class, or its number where classes have no names; '' is no condition")
    elif pipeline.kind == "StableDiffusionPipeline" and not model.condition.needs:
        log.info("its prompt is '', and its guidance_scale 1: the model has no condition")
