"""The areas of the bench, each a file of faults beside this one."""

from __future__ import annotations

from tests.mutants import (
    autoencoder,
    backbone,
    bijection,
    callback,
    condition,
    cost,
    data,
    demo,
    diffusion,
    foundation,
    game,
    interop,
    loss,
    metric,
    ode,
    plugins,
    prior,
    report,
    run,
    sampling,
    stage,
    task,
)
from tests.mutants.fault import Fault

AREAS: dict[str, list[Fault]] = {
    "foundation": foundation.FAULTS,
    "loss": loss.FAULTS,
    "autoencoder": autoencoder.FAULTS,
    "diffusion": diffusion.FAULTS,
    "backbone": backbone.FAULTS,
    "bijection": bijection.FAULTS,
    "condition": condition.FAULTS,
    "data": data.FAULTS,
    "metric": metric.FAULTS,
    "cost": cost.FAULTS,
    "prior": prior.FAULTS,
    "game": game.FAULTS,
    "ode": ode.FAULTS,
    "run": run.FAULTS,
    "report": report.FAULTS,
    "stage": stage.FAULTS,
    "sampling": sampling.FAULTS,
    "interop": interop.FAULTS,
    "callback": callback.FAULTS,
    "plugins": plugins.FAULTS,
    "task": task.FAULTS,
    "demo": demo.FAULTS,
}
