"""Mean flow against normal data, whose mean velocity is known."""

from functools import partial
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from torch import nn

from ldm.backbone.dit import DiT
from ldm.backbone.mlp import MLP
from ldm.backbone.unet import UNet
from ldm.diffusion.time import LogitNormal
from ldm.prior.base import Latents
from ldm.prior.mean_flow import MeanFlow
from ldm.random import Random
from ldm.types import Context, ContextShape

DEVIATION = 0.5


def of_path(t):
    """Deviation of z_t where the data have that of DEVIATION."""
    return ((1 - t) ** 2 * DEVIATION**2 + t**2).sqrt()


class Exact(nn.Module):
    """u(z, r, t) = z (1 - S(r) / S(t)) / (t - r) of normal data: along a path, z is proportional to its deviation S."""

    def __init__(self, channels, context, time):
        super().__init__()

    def forward(self, z, log_snr, c):
        t, r = torch.sigmoid(-log_snr / 2).unbind(1)
        slope = (t - (1 - t) * DEVIATION**2) / of_path(t) ** 2
        mean = (1 - of_path(r) / of_path(t)) / torch.where(t == r, 1, t - r)
        return torch.where(t == r, slope, mean)[:, None, None, None] * z


def exact(**options) -> MeanFlow:
    return MeanFlow(Latents((2, 3, 3)), ContextShape(), Exact, LogitNormal(), **options).double()


def test_the_mean_velocity_is_the_target_of_itself():
    prior, random = exact(), Random(0, 0, torch.arange(64))
    t, r = (value.double() for value in prior.times(random))
    assert (t > r).any() and (t == r).any() and (t >= r).all()
    z = random.normal("z", (2, 3, 3)).double()
    prior.velocity = lambda z, t, r, c: prior.backbone(z, torch.stack([*map(prior.schedule.log_snr, (t, r))], 1), c)
    v = prior.velocity(z, t, t, Context())
    torch.testing.assert_close(
        prior.target(z, v, t, r, Context()), prior.velocity(z, t, r, Context()), rtol=1e-6, atol=1e-8
    )


def test_the_derivative_along_the_networks_own_velocity_does_not_know_the_pair():
    """u = z (1 - S(r) / S(t)) / (t - r) of the exact network is the target at u(z, t, t); another pair moves the target by the
    velocity alone where the derivative does not hear of it, and by a slope more where it does."""
    random = Random(0, 0, torch.arange(64))
    z, other = (random.normal(name, (2, 3, 3)).double() for name in ("z", "other"))
    for marginal in (True, False):
        prior = exact(marginal=marginal, equal=0.0)
        prior.velocity = lambda z, t, r, c, prior=prior: prior.backbone(
            z, torch.stack([*map(prior.schedule.log_snr, (t, r))], 1), c
        )
        t, r = (value.double() for value in prior.times(random))
        v, u = prior.velocity(z, t, t, Context()), prior.velocity(z, t, r, Context())
        torch.testing.assert_close(prior.target(z, v, t, r, Context()), u, rtol=1e-6, atol=1e-8)
        moved = prior.target(z, v + other, t, r, Context()) - prior.target(z, v, t, r, Context())
        slope = 0 if marginal else (1 - of_path(r) / of_path(t))[:, None, None, None]  # (t - r) du/dz
        torch.testing.assert_close(moved, (1 - slope) * other, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_any_number_of_steps_of_the_mean_velocity_is_the_whole_flow(steps):
    random = Random(0, 0, torch.arange(5))
    z = exact(steps=steps).sample((5, 2, 3, 3), Context(), random)
    torch.testing.assert_close(z, DEVIATION * random.normal("prior", (2, 3, 3)))


def test_intervals_are_shared_out_as_asked():
    for equal in (0.0, 0.3, 1.0):
        t, r = exact(equal=equal).times(Random(0, 0, torch.arange(4000)))
        assert abs((t == r).float().mean() - equal) < 0.03


NETWORKS = {
    "unet": partial(UNet, width=8, multipliers=(1, 2), blocks=1, attention=(False, True), scale_shift=True),
    "dit": partial(DiT, width=16, depth=2, heads=2, patch=1, qk_norm=True),
    "mlp": partial(MLP, width=16, depth=2, sides=(4, 4)),
}


def small(kind: str, **options) -> MeanFlow:
    torch.manual_seed(0)
    made = MeanFlow(Latents((2, 4, 4)), ContextShape(6), NETWORKS[kind], LogitNormal(), **options)
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return made


def context(rows: int) -> Context:
    generator = torch.Generator().manual_seed(3)
    return Context(
        torch.randn(rows, 1, 6, generator=generator), empty=Context(torch.randn(1, 1, 6, generator=generator))
    )


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_derivative_is_the_finite_difference_along_the_path(kind):
    prior, c, random = small(kind).double(), context(5), Random(0, 0, torch.arange(5))
    c = Context(c.tokens.double())
    prior.velocity = lambda z, t, r, c: prior.backbone(z, torch.stack([*map(prior.schedule.log_snr, (t, r))], 1), c)
    z, v = (random.normal(name, (2, 4, 4)).double() for name in ("z", "v"))
    z, v = (each.to(memory_format=torch.channels_last) for each in (z, v))  # as they may come from an encoder
    t, r = torch.tensor([0.01, 0.3, 0.5, 0.9, 0.999]).double(), torch.tensor([0.0, 0.2, 0.5, 0.1, 0.0]).double()
    h = 1e-4
    # The embedding of time is in float32, so the step is not smaller.
    ahead, behind = (prior.velocity(z + s * h * v, t + s * h, r, c) for s in (1, -1))
    derivative = (v - prior.target(z, v, t, r, c)) / (t - r).clamp(min=1e-9)[:, None, None, None]
    wanted = torch.where((t > r)[:, None, None, None], (ahead - behind) / (2 * h), 0)
    torch.testing.assert_close(derivative, wanted, rtol=1e-2, atol=1e-2)


def test_networks_are_told_both_times():
    for kind in NETWORKS:
        prior, t = small(kind), torch.full((3,), 0.7)
        z = torch.randn(3, 2, 4, 4)
        u = [prior.velocity(z, t, torch.full((3,), r), context(3)) for r in (0.0, 0.5, 0.7)]
        assert (u[0] - u[1]).abs().max() > 1e-3 and (u[1] - u[2]).abs().max() > 1e-3
        now = prior.backbone(z, prior.schedule.log_snr(t), context(3))
        torch.testing.assert_close(u[2], now, msg="one time alone is an interval of length 0")


def test_guidance_moves_the_velocity_away_from_that_without_a_condition():
    prior, c, random = small("mlp", guidance=1.5, own=0.25), context(4), Random(0, 0, torch.arange(4))
    z, v = random.normal("z", (2, 4, 4)), random.normal("v", (2, 4, 4))
    t = torch.full((4,), 0.4)
    u, null = prior.velocity(z, t, t, c), prior.velocity(z, t, t, c.null())
    torch.testing.assert_close(prior.target(z, v, t, t, c), 1.5 * v + 0.25 * u - 0.75 * null)
    assert prior.asks_null() and not small("mlp").asks_null()


def test_the_weighted_loss_and_the_plain_error():
    prior, c, random = small("mlp", power=0.5), context(6), Random(0, 0, torch.arange(6))
    z = random.normal("z", (2, 4, 4))
    errors = prior.errors(z, c, random)
    terms, values = prior.sides()[0].loss(z, c, random, 0, {})
    torch.testing.assert_close(terms["mean flow"], (errors / (errors + 1e-3).sqrt()).mean())
    torch.testing.assert_close(values["squared error"], errors.mean())
    torch.testing.assert_close(prior.held_out(z, c, random)["mean flow"], errors)
    own = list(prior.parameters())
    weights = (errors.detach() + 1e-3).rsqrt()
    wanted = torch.autograd.grad((weights * errors).mean(), own)
    torch.testing.assert_close(torch.autograd.grad(terms["mean flow"], own), wanted)


def _gradients(rows: range, wrap) -> list[torch.Tensor]:
    prior = small("unet", equal=0.3)

    class Step(nn.Module):
        def __init__(self):
            super().__init__()
            self.prior = prior

        def forward(self, z, c, random):
            return self.prior.loss(z, c, random)["mean flow"]

    random = Random(0, 0, torch.arange(4))
    part = slice(rows.start, rows.stop)
    z = random.normal("z", (2, 4, 4))[part]
    step = wrap(Step())
    step(z, context(4)[part], random[part]).backward()
    return [p.grad for p in prior.parameters()]


def _rank(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    gradients = _gradients(range(2 * rank, 2 * rank + 2), nn.parallel.DistributedDataParallel)
    torch.save(gradients, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_ranks_have_the_gradient_of_one(tmp_path):
    mp.start_processes(_rank, (tmp_path,), nprocs=2, start_method="fork")
    one, two = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    torch.testing.assert_close(one, two, atol=0, rtol=0)
    torch.testing.assert_close(one, _gradients(range(4), lambda step: step), atol=1e-5, rtol=1e-5)
