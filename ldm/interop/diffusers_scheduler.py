"""diffusers' scheduler_config.json as ours: what a network was trained on, and what is only a choice of sampling.

Of training are the table of betas (and whether it was rescaled to zero terminal SNR, arXiv 2305.08891) and what the
network predicts: they become a schedule and a parameterization, or are refused by name. All other known keys say how a
sampler of theirs walks, clips or draws. They change no network; a sample of ours is made by our own sampler and grid, so
they are handed to the caller as they stand.

Schedulers that divide by alpha put 2^-24 for the zero of such a table at its end; that is theirs to sample with.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ldm.build import Config
from ldm.diffusion.parameterization import Data, Noise, Parameterization, V
from ldm.diffusion.schedule import Linear, ScaledLinear, Table, ZeroTerminalSNR
from ldm.interop.diffusers_config import ForeignModelError

TRAINING: Config = {
    "num_train_timesteps": 1000,
    "beta_schedule": "linear",
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "trained_betas": None,
    "rescale_betas_zero_snr": False,
    "prediction_type": "epsilon",
}
"""Keys of the network's training, as most classes mean them where a config does not say."""

_LATENT_BETAS: Config = {"beta_start": 0.00085, "beta_end": 0.012}
DEFAULTS: dict[str, Config] = {
    **{
        name: TRAINING
        for name in (
            "DDIMInverseScheduler",
            "DDIMParallelScheduler",
            "DDIMScheduler",
            "DDPMParallelScheduler",
            "DDPMScheduler",
            "DEISMultistepScheduler",
            "DPMSolverMultistepInverseScheduler",
            "DPMSolverMultistepScheduler",
            "DPMSolverSinglestepScheduler",
            "EulerAncestralDiscreteScheduler",
            "EulerDiscreteScheduler",
            "LMSDiscreteScheduler",
            "PNDMScheduler",
            "SASolverScheduler",
            "UniPCMultistepScheduler",
        )
    },
    **{
        name: TRAINING | _LATENT_BETAS
        for name in ("HeunDiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "KDPM2DiscreteScheduler")
    },
    **{
        name: TRAINING | _LATENT_BETAS | {"beta_schedule": "scaled_linear"} for name in ("LCMScheduler", "TCDScheduler")
    },
}
"""The same for each class over a table of betas."""

NEUTRAL: Config = {
    "timestep_type": "discrete",  # continuous: the network is told log(sigma) / 4
    "use_flow_sigmas": False,  # of a network trained on straight paths
}
"""Keys that have to be so: otherwise the network is of a model that ours is not."""

SAMPLING = frozenset(
    {
        *("algorithm_type", "clip_sample", "clip_sample_range", "corrector_order", "disable_corrector"),
        *("dynamic_thresholding_ratio", "euler_at_final", "final_sigmas_type", "flow_shift", "interpolation_type"),
        *("lambda_min_clipped", "lower_order_final", "original_inference_steps", "predict_x0", "predictor_order"),
        *("sample_max_value", "set_alpha_to_one", "shift_terminal", "sigma_max", "sigma_min", "skip_prk_steps"),
        *("solver_order", "solver_p", "solver_type", "steps_offset", "tau_func", "thresholding", "time_shift_type"),
        *("timestep_scaling", "timestep_spacing", "use_beta_sigmas", "use_dynamic_shifting", "use_exponential_sigmas"),
        *("use_karras_sigmas", "use_lu_lambdas", "variance_type"),
    }
)
"""Keys of their samplers alone."""


@dataclass(frozen=True)
class Scheduler:
    """
    Fields:
        schedule, parameterization: of the training of the network beside it.
        sampling: the config's choices of sampling, by their names; nothing here follows them.
    """

    schedule: Table | ZeroTerminalSNR
    parameterization: Parameterization
    sampling: Config


def read_scheduler(theirs: Mapping[str, Any]) -> Scheduler:
    """A scheduler_config.json; ForeignModelError names what in it cannot be honoured."""
    kind = theirs.get("_class_name", "DDIMScheduler")
    if kind not in DEFAULTS:
        raise ForeignModelError(f"{kind} is none of the schedulers over a table of betas: {', '.join(DEFAULTS)}")
    given = {key: value for key, value in theirs.items() if not key.startswith("_")}
    _refuse(kind, given)
    training = DEFAULTS[kind] | {key: value for key, value in given.items() if key in TRAINING}
    parameterizations = {"epsilon": Noise, "v_prediction": V, "sample": Data}
    if training["prediction_type"] not in parameterizations:
        raise ForeignModelError(
            f"prediction_type is {training['prediction_type']}; {', '.join(parameterizations)} can be read"
        )
    table = _table(training)
    schedule = ZeroTerminalSNR(table, 1 / table.steps) if training["rescale_betas_zero_snr"] else table
    parameterization = parameterizations[training["prediction_type"]]()
    parameterization.check(schedule)
    return Scheduler(schedule, parameterization, {key: given[key] for key in sorted(given.keys() & SAMPLING)})


def _refuse(kind: str, given: Mapping[str, Any]) -> None:
    wrong = [f"{key} is {given[key]}" for key, value in NEUTRAL.items() if given.get(key, value) != value]
    if str(given.get("variance_type", "")).startswith("learned"):
        wrong.append(f"variance_type is {given['variance_type']}, an output that ours does not have")
    unknown = given.keys() - TRAINING.keys() - SAMPLING - NEUTRAL.keys()
    wrong += [f"{key} is {given[key]}, and not known" for key in sorted(unknown)]
    if wrong:
        raise ForeignModelError(f"ours cannot be equal to this {kind}: {'; '.join(wrong)}")


def _table(training: Mapping[str, Any]) -> Table:
    kind, steps = training["beta_schedule"], training["num_train_timesteps"]
    ends = training["beta_start"], training["beta_end"]
    if training["trained_betas"] is not None:
        return Table(torch.tensor(training["trained_betas"], dtype=torch.float64))
    tables = {
        "linear": lambda: Linear(*ends, steps),
        "scaled_linear": lambda: ScaledLinear(*ends, steps),
        "squaredcos_cap_v2": lambda: Table(_squared_cosine(steps)),
        "sigmoid": lambda: Table(_sigmoid(*ends, steps)),
    }
    if kind not in tables:
        raise ForeignModelError(f"beta_schedule is {kind}; {', '.join(tables)} can be read, and trained_betas")
    return tables[kind]()


def _squared_cosine(steps: int) -> Tensor:
    """alpha^2 = cos^2((t + 0.008) / 1.008 pi / 2), with betas of at most 0.999 (arXiv 2102.09672, equation 17)."""
    alpha = torch.cos((torch.linspace(0, 1, steps + 1, dtype=torch.float64) + 0.008) / 1.008 * math.pi / 2)
    return (1 - (alpha[1:] / alpha[:-1]).square()).clamp(max=0.999)


def _sigmoid(start: float, end: float, steps: int) -> Tensor:
    """betas along a sigmoid from -6 to 6 (GeoDiff, arXiv 2203.02923)."""
    return torch.sigmoid(torch.linspace(-6, 6, steps, dtype=torch.float64)) * (end - start) + start
