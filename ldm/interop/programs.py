"""A model as programs that run without ldm: which they are, what goes in and what comes out.

    decoder     z (b, c, h, w), whitened, or code (b, h, w) -> image (b, 3, H, W) in [-1, 1], not clamped
    denoiser    x_t (b, c, h, w), t (b,) in [0, 1], tokens (b, n, d), mask (b, n) -> x = E[x | x_t, c]; of a diffusion
    generator   noise (b, ...), standard normal, tokens, mask -> z; of priors that draw a sample in one pass
    condition   label (b,) or ids (b, n) -> tokens (b, n, d)

Tokens and their mask, True where they count, are of models with a condition alone. Any batch may come, at the size of the
model's latents. `export.json` says all of this of a model, and of a diffusion the table of its schedule, alpha and sigma of
x_t = alpha x + sigma eps, and the times at which the run samples: all that a sampler has to know.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ldm.autoencoder.autoencoder import Autoencoder
from ldm.build import Config
from ldm.condition.conditioner import Conditioner
from ldm.condition.label import Label
from ldm.condition.none import Unconditional
from ldm.condition.padded import PaddedText
from ldm.condition.text import OURS, PAD, START, Text
from ldm.diffusion.denoiser import Denoiser
from ldm.diffusion.guidance.autoguidance import waits_for_guide
from ldm.diffusion.guidance.classifier_free import ClassifierFree
from ldm.diffusion.parameterization import Velocity
from ldm.diffusion.schedule import Rectified, Schedule
from ldm.files import whole_directory, write_json, write_text
from ldm.interop.folding import inverted
from ldm.interop.program_file import ProgramFile
from ldm.model import LatentModel
from ldm.prior.autoregressive_flow import AutoregressiveFlow
from ldm.prior.base import Prior
from ldm.prior.consistency import Consistency
from ldm.prior.diffusion import Diffusion
from ldm.prior.gan import GAN
from ldm.prior.mean_flow import MeanFlow
from ldm.prior.normalizing_flow import NormalizingFlow
from ldm.random import Random
from ldm.types import Codes, Context, Image, Latent, Time

_SIZES = {"batch": 2, "count": 4}  # of the example that is traced; any others may come
_TABLE = 1000  # equal steps of time


@dataclass(frozen=True)
class Port:
    """What goes into a program or comes out of it.

    Fields:
        name: as the program calls it.
        shape: sizes, and the names of those that are free.
        says: what the numbers are.
        kind: their type.
        value: of the example that is traced; None stands for normal numbers.
    """

    name: str
    shape: tuple[int | str, ...]
    says: str
    kind: torch.dtype = torch.float32
    value: int | float | None = None

    def example(self) -> Tensor:
        """Numbers of this kind."""
        shape = [_SIZES[size] if isinstance(size, str) else size for size in self.shape]
        return torch.randn(shape) if self.value is None else torch.full(shape, self.value, dtype=self.kind)

    def said(self) -> Config:
        """What `export.json` says of it."""
        return {"shape": list(self.shape), "type": str(self.kind).removeprefix("torch."), "is": self.says}


@dataclass(frozen=True)
class Program:
    """A part of a model that runs by itself."""

    name: str
    module: nn.Module
    inputs: tuple[Port, ...]
    output: Port

    @torch.no_grad()
    def exported(self) -> torch.export.ExportedProgram:
        """The program, for any sizes that are free."""
        free = {name: torch.export.Dim(name, min=1) for name in _SIZES}
        shapes = tuple(
            {place: free[size] for place, size in enumerate(port.shape) if isinstance(size, str)}
            for port in self.inputs
        )
        given = tuple(port.example() for port in self.inputs)
        return torch.export.export(self.module.eval(), given, dynamic_shapes=shapes)

    def said(self, file: str) -> Config:
        """What `export.json` says of it."""
        inputs = {port.name: port.said() for port in self.inputs}
        return {"file": file, "inputs": inputs, "outputs": {self.output.name: self.output.said()}}


@dataclass(frozen=True)
class Programs:
    """The programs of a model.

    Fields:
        programs: themselves.
        facts: what else a sampler has to know, for `export.json`.
        condition: the model's, whose tokenizer is written beside.
        left_out: parts of the model that are no program, with the reason.
    """

    programs: list[Program]
    facts: Config
    condition: Conditioner
    left_out: dict[str, str] = field(default_factory=dict)

    def write(self, folder: Path, kind: ProgramFile, facts: dict[str, Any]) -> None:
        """Write the directory: whole or not at all."""
        with whole_directory(folder) as made:
            said = {}
            for program in self.programs:
                file = f"{program.name}.{kind.suffix}"
                names = [port.name for port in program.inputs], [program.output.name]
                kind.write(program.exported(), *names, made / file)
                said[program.name] = program.said(file)
            if isinstance(self.condition, Text):
                write_text(made / "tokenizer.json", bytes(self.condition.get_extra_state().tolist()).decode())
            elif isinstance(self.condition, PaddedText):
                self.condition.tokenizer.save_pretrained(made / "tokenizer")
            write_json(made / "export.json", facts | kind.facts() | self.facts | {"programs": said} | self._left_out())

    def _left_out(self) -> Config:
        return {"left_out": self.left_out} if self.left_out else {}


def programs_of(model: LatentModel, trained: bool = True) -> Programs:
    """The programs of a model, of which the decoder is always one; ValueError where its denoiser can be none.

    Arguments:
        trained: whether its prior is; of a first stage alone the decoder goes out.
    """
    prior, left_out, found = model.prior, {}, [_decoder(model)]
    if not trained:
        left_out["prior"] = "it was not trained, the run is a first stage alone"
    else:
        found += _drawing(model, left_out)
    facts: Config = {"image_shape": list(model.autoencoder.image_shape), "latent_shape": list(prior.latents.shape)}
    facts |= _facts_of(model.condition)
    if trained and isinstance(prior, Diffusion):
        facts |= _sampling(prior, model.config)
    return Programs(found, facts, model.condition, left_out)


def _drawing(model: LatentModel, left_out: dict[str, str]) -> list[Program]:
    """The programs that draw latents. Of a part that is none the reason is told to `left_out`."""
    prior, context = model.prior, model.prior.context
    if context.spatial is not None:
        raise ValueError(
            f"condition {type(model.condition).__name__} is a map made of parts of images, and programs are given tokens; what "
            "goes out is a model of labels, captions or without a condition"
        )
    tokens = () if context.tokens is None else _tokens(context.tokens)
    drawing = _of_prior(prior, tokens)
    if drawing is None:
        left_out["prior"] = f"samples of {type(prior).__name__} are not drawn by one pass of one network"
        return []
    told = _condition(model.condition, tokens)
    if told is None and tokens:
        left_out["condition"] = f"{type(model.condition).__name__}: its tokens are made by ldm"
    return [drawing] if told is None else [drawing, told]


def _decoder(model: LatentModel) -> Program:
    own, (channels, height, width) = model.autoencoder, model.prior.latents.shape
    image = Port("image", ("batch", *own.image_shape), "an image in [-1, 1], not clamped")
    if model.prior.reads == "codes":
        says = f"codes from 0 to {own.code_count - 1}"
        code = Port("code", ("batch", height, width), says, torch.long, 0)
        return Program("decoder", _OfCodes(own), (code,), image)
    says = "a whitened latent: mean 0 and variance 1 a channel, as the prior draws them; the decoder undoes it"
    return Program("decoder", _OfLatents(own), (Port("z", ("batch", channels, height, width), says),), image)


def _tokens(width: int) -> tuple[Port, ...]:
    says = "what a sample is conditioned on, by the program `condition`"
    mask = Port("mask", ("batch", "count"), "true for tokens that count", torch.bool, 1)
    return Port("tokens", ("batch", "count", width), says), mask


def _of_prior(prior: Prior, tokens: tuple[Port, ...]) -> Program | None:
    """The program that draws samples; None where no single one does."""
    shape = ("batch", *prior.latents.shape)
    z = Port("z", shape, "a latent for the decoder")
    if isinstance(prior, Diffusion):
        _check_traced(prior.denoiser)
        x_t = Port("x_t", shape, "alpha(t) x + sigma(t) eps, with x whitened and eps standard normal")
        t = Port("t", ("batch",), "the time in [0, 1], 0 of data and 1 of noise", value=0.5)
        x = Port("x", shape, "E[x | x_t, c], the expected clean latent, whitened, without guidance")
        return Program("denoiser", _Denoised(prior.denoiser), (x_t, t, *tokens), x)
    noise = Port("noise", shape, "standard normal numbers")
    if isinstance(prior, GAN):
        noise = Port("noise", ("batch", prior.noise), noise.says)
    elif not isinstance(prior, Consistency | MeanFlow | NormalizingFlow) or _draws_again(prior):
        return None
    return Program("generator", _Drawn(inverted(prior)), (noise, *tokens), z)


def _draws_again(prior: Prior) -> bool:
    return isinstance(prior, AutoregressiveFlow) or (isinstance(prior, Consistency) and prior.steps > 1)


def _check_traced(denoiser: Denoiser) -> None:
    if isinstance(denoiser.parameterization, Velocity) and not isinstance(denoiser.schedule, Rectified):
        raise ValueError(
            f"velocity prediction on the schedule {type(denoiser.schedule).__name__} asks for the schedule's derivative, which "
            "torch.export cannot trace for any batch; it can on rectified, and other predictions on all schedules"
        )


def _condition(condition: Conditioner, tokens: tuple[Port, ...]) -> Program | None:
    """The program of a condition's tokens; None where there is none."""
    if isinstance(condition, Label):
        says = f"from 0 to {condition.classes - 1}, or -1 for no condition; its mask is true"
        label = Port("label", ("batch",), says, torch.long, 0)
        return Program(
            "condition", _OfLabels(condition), (label,), replace(tokens[0], shape=("batch", 1, *tokens[0].shape[2:]))
        )
    if isinstance(condition, Text):
        says = (
            f"{START}, then the numbers of tokenizer.json each raised by {OURS}, then {PAD} as padding to this length; {START} "
            f"without more is no condition. The mask is true where they are not {PAD}"
        )
        return _of_ids(_OfIds(condition), condition.length, says, tokens[0])
    if isinstance(condition, PaddedText):
        says = (
            "of tokenizer/, padded to this length; those of an empty caption are no condition. The mask is true for all"
        )
        return _of_ids(_OfEncoder(condition), condition.length, says, tokens[0])
    return None


def _of_ids(module: nn.Module, length: int, says: str, tokens: Port) -> Program:
    ids = Port("ids", ("batch", length), says, torch.long, START)
    return Program("condition", module, (ids,), replace(tokens, shape=("batch", length, *tokens.shape[2:])))


def _facts_of(condition: Conditioner) -> Config:
    if isinstance(condition, Label):
        return {"classes": list(condition.names) or condition.classes}
    return {} if isinstance(condition, Unconditional) else {"captions": type(condition).__name__}


def _sampling(prior: Diffusion, config: Config | None) -> Config:
    """What a diffusion's sampler has to know: the schedule, and the times at which the run samples."""
    schedule, network = prior.denoiser.schedule, type(prior.denoiser.parameterization).__name__.lower()
    times = prior.grid(schedule, prior.steps, prior.lowest(schedule)).double()
    scale = 1.0
    if not waits_for_guide(prior.guidance):
        scale = next((each.scale for each in prior.guided().modules() if isinstance(each, ClassifierFree)), 1.0)
    return {
        "trained_on": {"schedule": type(schedule).__name__.lower(), "prediction": network},
        "schedule": _rows(schedule, torch.linspace(0, 1, _TABLE + 1, dtype=torch.float64)),
        "sampling": _rows(schedule, times) | {"guidance": scale},
        "drawn": prior.drawn((config or {}).get("prior")),
    }


def _rows(schedule: Schedule, times: Tensor) -> Config:
    alpha, sigma = schedule.alpha_sigma(times)
    return {"times": times.tolist(), "alpha": alpha.tolist(), "sigma": sigma.tolist()}


class _OfLatents(nn.Module):
    def __init__(self, autoencoder: Autoencoder):
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, z: Latent) -> Image:
        return self.autoencoder.decode(z)


class _OfCodes(_OfLatents):
    def forward(self, code: Codes) -> Image:
        return self.autoencoder.decode_codes(code)


class _Denoised(nn.Module):
    def __init__(self, denoiser: Denoiser):
        super().__init__()
        self.denoiser = denoiser

    def forward(self, x_t: Latent, t: Time, tokens: Tensor | None = None, mask: Tensor | None = None) -> Latent:
        return self.denoiser(x_t, t, Context(tokens, mask))


class _Given(Random):
    """A batch's random numbers of which the first that are drawn are given."""

    def __init__(self, noise: Tensor):
        super().__init__(0, 0, torch.arange(1).expand(noise.shape[0]), total=1)  # len(noise) would be a constant
        self.noise = noise

    def normal(self, stream: str, shape: tuple[int, ...] = ()) -> Tensor:
        return self.noise


class _Drawn(nn.Module):
    def __init__(self, prior: Prior):
        super().__init__()
        self.prior = prior

    def forward(self, noise: Tensor, tokens: Tensor | None = None, mask: Tensor | None = None) -> Latent:
        shape = self.prior.latents.batch(
            1
        )  # of which a prior reads all but the batch, which is that of its random numbers
        return self.prior.sample(shape, Context(tokens, mask), _Given(noise))


class _OfLabels(nn.Module):
    def __init__(self, condition: Label):
        super().__init__()
        self.condition = condition

    def forward(self, label: Tensor) -> Tensor:
        return self.condition.embedded(label)


class _OfIds(nn.Module):
    def __init__(self, condition: Text):
        super().__init__()
        self.condition = condition

    def forward(self, ids: Tensor) -> Tensor:
        return self.condition.embedded(ids).tokens


class _OfEncoder(nn.Module):
    def __init__(self, condition: PaddedText):
        super().__init__()
        self.encoder = condition.encoder

    def forward(self, ids: Tensor) -> Tensor:
        return self.encoder(input_ids=ids).last_hidden_state
