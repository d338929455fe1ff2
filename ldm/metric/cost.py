"""What a model costs: its training, and drawing samples of it.

    parameters, parameters_prior          of the whole model, and of the prior alone
    training_seconds, _images_per_second, _flops   of each stage (`training_seconds_first`), and of both together; seconds are of
                                          updates alone, without validation, pictures and saving
    samples_per_second                    images drawn and decoded a second, of all ranks; in batches of n on each
    sample_flops                          floating-point operations of one image, drawn alone, decoder and guidance included
    network_evaluations                   how often a network is asked for one image; twice a step where guidance asks twice
    sequential_steps                      how many calls of networks follow each other; guidance's two questions are one call
    peak_memory_device, peak_memory_process   MiB at most while a batch is drawn: of a GPU's allocator, or of the whole process
                                          on a CPU, its libraries included

Operations are 2 a multiply-add, of matrix products, convolutions and attention, by the formulas of torch's FlopCounterMode; those
of training are counted while it runs (ldm.stage.flops). FLOPs are of the mathematics and the same on every device, seconds are
not: between two numbers of seconds `device` has to agree, and a shared machine is slow. Sequential steps bound
the time of one image on a device that is not full; FLOPs and memory bound the rate of a full one. What the first stage has cost
is not known of one that was given by hand; then there is no sum.

The rate is that of the batches that this evaluation has drawn itself, the first one left out where there are several: it
compiles, chooses kernels and fills caches. What an earlier, stopped evaluation has left on the disk is not timed again.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ldm.cost import FlopCounter, counted, uncompiled
from ldm.metric.gather import gather_rows
from ldm.metric.measurement import Measurement
from ldm.metric.metric import Examples, Metric, leave_out
from ldm.model import LatentModel
from ldm.random import Random

_STAGES = ("first", "second")
_TRAINING = ("training_seconds", "training_flops")
_KNOWN = (
    *("parameters", "parameters_prior"),
    *(f"{name}{stage}" for name in _TRAINING for stage in ("_first", "_second", "")),
    *(f"training_images_per_second_{stage}" for stage in _STAGES),
    *("sample_flops", "network_evaluations", "sequential_steps"),
)
_MIB = 2**20


class Cost(Metric):
    """The numbers above, as far as they are known.

    Arguments:
        seed: of the image whose operations are counted.
    """

    names = (
        *("parameters*", "training_*", "sample_flops", "network_evaluations", "sequential_steps"),
        *("samples_per_second", "peak_memory_*"),
    )

    def __init__(self, seed: int = 0):
        self.seed = seed
        self._known = torch.zeros(0, len(_KNOWN), dtype=torch.float64)  # a row, once a batch has come; NaN is not known
        # Of each batch that was drawn here: images, seconds, bytes, whether on a GPU.
        self._drawn = [torch.zeros(0, 4, dtype=torch.float64)]

    @torch.no_grad()
    def add(self, examples: Examples) -> None:
        model, spent = examples.model, examples.drawing
        if model is None:
            return
        if not len(self._known):
            known = _of_model(model) | _of_training(model)
            if examples.generated is not None and examples.batch is not None:
                known |= self._of_one(model, examples)
            self._known = torch.tensor([[known.get(name, math.nan) for name in _KNOWN]], dtype=torch.float64)
        if spent is not None and examples.generated is not None:
            row = [len(examples.generated), spent.seconds, spent.memory, model.device.type == "cuda"]
            self._drawn.append(torch.tensor([row], dtype=torch.float64))

    def measure(self) -> list[Measurement]:
        known, ranks = gather_rows(self._known), gather_rows(self._speed())
        values = dict(zip(_KNOWN, known[0].tolist(), strict=True)) if len(known) else {}
        found = [_number(name, value) for name, value in values.items() if not math.isnan(value)]
        if len(ranks):
            return found + _of_drawing(ranks)
        if not math.isnan(values.get("sample_flops", math.nan)):
            leave_out("samples_per_second", "a batch that is drawn now", "those alone that were kept")
        return found

    def _speed(self) -> Float[Tensor, "r 5"]:
        """Of this rank: images a second and the variance of this mean, images of a batch, bytes, whether on a GPU; no row where
        nothing was drawn."""
        drawn = torch.cat(self._drawn)
        if not len(drawn):
            return drawn.new_zeros(0, 5)
        whole = drawn[drawn[:, 0] == drawn[:, 0].max()]
        timed = whole[1:] if len(whole) > 1 else whole
        rates = timed[:, 0] / timed[:, 1]
        variance = rates.var() / len(rates) if len(rates) > 1 else rates.new_tensor(math.nan)
        return torch.stack([rates.mean(), variance, *whole.amax(0)[[0, 2, 3]]])[None]

    def _of_one(self, model: LatentModel, examples: Examples) -> dict[str, int | float]:
        """Drawing the first image of a batch alone, for its caption or label."""
        batch = {name: values[:1] for name, values in examples.batch.items() if name in ("caption", "label", "index")}
        random = Random(self.seed, 0, torch.zeros(1, dtype=torch.long, device=model.device))
        with uncompiled([model]), FlopCounter() as counter, counted(model.prior.networks()) as calls:
            model.sample(batch, random)
        asked = {"network_evaluations": sum(calls), "sequential_steps": len(calls)} if calls else {}
        return {"sample_flops": counter.total, **asked}


def _of_drawing(ranks: Float[Tensor, "r 5"]) -> list[Measurement]:
    """The rate of all ranks together, and the most memory of any; of rows that `Cost._speed` gives."""
    rate, variance = ranks[:, :2].sum(0).tolist()
    batch, memory, gpu = ranks[:, 2:].amax(0).tolist()
    error = None if math.isnan(variance) else variance**0.5
    found = [Measurement(metric="samples_per_second", value=rate, standard_error=error, n=int(batch))]
    if memory:
        name = "peak_memory_device" if gpu else "peak_memory_process"
        found.append(Measurement(metric=name, value=memory / _MIB, standard_error=None, n=int(batch)))
    return found


def _of_model(model: LatentModel) -> dict[str, int | float]:
    return {"parameters": _parameters(model), "parameters_prior": _parameters(model.prior)}


def _of_training(model: LatentModel) -> dict[str, int | float]:
    """Of each stage, and of both where neither is missing that has weights."""
    known = {stage: model.cost[stage] for stage in _STAGES if model.cost.get(stage)}
    found = {}
    for name in ("seconds", "flops"):
        each = {stage: cost[name] for stage, cost in known.items() if cost.get(name) is not None}
        found |= {f"training_{name}_{stage}": value for stage, value in each.items()}
        learnt = {"first": _parameters(model.autoencoder) > 0, "second": _parameters(model.prior) > 0}
        if each and all(stage in each for stage in _STAGES if learnt[stage]):
            found[f"training_{name}"] = sum(each.values())
    for stage, cost in known.items():
        if cost.get("seconds"):
            found[f"training_images_per_second_{stage}"] = cost["images"] / cost["seconds"]
    return found


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _number(name: str, value: float) -> Measurement:
    return Measurement(metric=name, value=float(value), standard_error=None, n=1)
