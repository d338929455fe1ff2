"""The scheduler_config.json of diffusers: what a network was trained on, and what only concerns sampling.

The table of betas (and whether it was rescaled to zero terminal SNR, Lin et al. 2023) and what the network predicts belong to
training. They become a schedule and a parameterization, or are refused with their name. All other known keys say how a
sampler of diffusers steps, clips or draws noise. They do not change the network, and our samples are made by our own sampler
and grid, so they are returned to the caller unchanged.

Some schedulers divide by alpha, and so take alpha^2 = 2^-24 at the end of a table with zero terminal SNR, where it is 0. This
only concerns their sampling.

Sources:
    Lin et al., Common Diffusion Noise Schedules and Sample Steps Are Flawed (2023), arXiv 2305.08891
    Nichol and Dhariwal, Improved Denoising Diffusion Probabilistic Models (2021), arXiv 2102.09672
    Xu et al., GeoDiff: A Geometric Diffusion Model for Molecular Conformation Generation (2022), arXiv 2203.02923
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
from ldm.diffusion.schedule import Betas, Linear, ScaledLinear, Table, ZeroTerminalSNR
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
"""The keys that concern training, with the defaults of most classes."""

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
"""The same keys with the defaults of each class that has a table of betas."""

NEUTRAL: Config = {
    "timestep_type": "discrete",  # with "continuous" the network is conditioned on log(sigma) / 4
    "use_flow_sigmas": False,  # True for a network that was trained on straight paths
}
"""Keys that have to have these values, because no network of ours equals one with others."""

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
"""Keys that concern sampling only."""

PREDICTIONS: dict[str, type[Parameterization]] = {"epsilon": Noise, "v_prediction": V, "sample": Data}
"""Their words for what a network predicts, and our classes for it."""


@dataclass(frozen=True)
class Scheduler:
    """What a scheduler_config.json says.

    Fields:
        schedule, parameterization: those that the network beside it was trained with.
        sampling: the keys that concern sampling, with their values; they are not used here.
    """

    schedule: Table | ZeroTerminalSNR
    parameterization: Parameterization
    sampling: Config


def read_scheduler(theirs: Mapping[str, Any]) -> Scheduler:
    """Read the content of a scheduler_config.json; ForeignModelError where something in it cannot be represented."""
    kind = theirs.get("_class_name", "DDIMScheduler")
    if kind not in DEFAULTS:
        raise ForeignModelError(f"{kind} is none of the schedulers over a table of betas: {', '.join(DEFAULTS)}")
    given = {key: value for key, value in theirs.items() if not key.startswith("_")}
    _refuse(kind, given)
    training = DEFAULTS[kind] | {key: value for key, value in given.items() if key in TRAINING}
    if training["prediction_type"] not in PREDICTIONS:
        raise ForeignModelError(
            f"prediction_type is {training['prediction_type']}; {', '.join(PREDICTIONS)} can be read"
        )
    table = _table(training)
    schedule = ZeroTerminalSNR(table, 1 / table.steps) if training["rescale_betas_zero_snr"] else table
    parameterization = PREDICTIONS[training["prediction_type"]]()
    parameterization.check(schedule)
    return Scheduler(schedule, parameterization, {key: given[key] for key in sorted(given.keys() & SAMPLING)})


def config_of_scheduler(log_snr: Tensor, parameterization: Parameterization) -> Config:
    """The scheduler_config.json of a `DDIMScheduler` on a table with this log SNR at its steps 0, 1, ..., for a network of this
    parameterization. Its pipelines take steps from the table's end on (`trailing`); any other of their samplers can be made of it
    by `from_config`."""
    log_alpha2 = torch.nn.functional.logsigmoid(log_snr.double())
    betas = -torch.expm1(torch.diff(log_alpha2, prepend=log_alpha2.new_zeros(1)))
    said = {kind: word for word, kind in PREDICTIONS.items()}
    return {
        "_class_name": "DDIMScheduler",
        **TRAINING,
        "num_train_timesteps": len(betas),
        "trained_betas": betas.tolist(),
        "prediction_type": said[type(parameterization)],
        "clip_sample": False,
        "set_alpha_to_one": True,
        "steps_offset": 1,  # has no effect on this spacing, and any other number is reported as outdated
        "timestep_spacing": "trailing",
    }


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
        return Betas(tuple(training["trained_betas"]))
    tables = {
        "linear": lambda: Linear(*ends, steps),
        "scaled_linear": lambda: ScaledLinear(*ends, steps),
        "squaredcos_cap_v2": lambda: Betas(tuple(_squared_cosine(steps).tolist())),
        "sigmoid": lambda: Betas(tuple(_sigmoid(*ends, steps).tolist())),
    }
    if kind not in tables:
        raise ForeignModelError(f"beta_schedule is {kind}; {', '.join(tables)} can be read, and trained_betas")
    return tables[kind]()


def _squared_cosine(steps: int) -> Tensor:
    """alpha^2 = cos^2((t + 0.008) / 1.008 pi / 2), with betas of at most 0.999 (Nichol and Dhariwal 2021, equation 17)."""
    alpha = torch.cos((torch.linspace(0, 1, steps + 1, dtype=torch.float64) + 0.008) / 1.008 * math.pi / 2)
    return (1 - (alpha[1:] / alpha[:-1]).square()).clamp(max=0.999)


def _sigmoid(start: float, end: float, steps: int) -> Tensor:
    """Betas that follow a sigmoid on [-6, 6] (GeoDiff, Xu et al. 2022)."""
    return torch.sigmoid(torch.linspace(-6, 6, steps, dtype=torch.float64)) * (end - start) + start
