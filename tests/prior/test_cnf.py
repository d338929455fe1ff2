"""Continuous flows against linear fields, whose solutions, volumes and energies are known."""

import math
from functools import partial

import pytest
import torch
from torch import nn

from ldm.backbone.mlp import MLP
from ldm.backbone.unet import UNet
from ldm.diffusion.likelihood import Exact, Hutchinson
from ldm.ode import DormandPrince, RungeKutta
from ldm.prior.base import Latents
from ldm.prior.cnf import CNF, FlowMatching, MaximumLikelihood
from ldm.prior.coupling import OptimalTransport
from ldm.random import Random
from ldm.types import Context, ContextShape

MATRIX = torch.tensor([[0.4, -0.9], [0.3, -0.2]])


class Linear(nn.Module):
    """v = A z, at all times."""

    def __init__(self, channels, context, time):
        super().__init__()
        self.matrix, self.calls = nn.Parameter(MATRIX.clone()), 0

    def forward(self, z, log_snr, c):
        self.calls += 1
        return (z.flatten(1) @ self.matrix.T).view_as(z)


def linear(**options) -> CNF:
    options = {"objective": MaximumLikelihood()} | options
    return CNF(Latents((2, 1, 1)), ContextShape(), Linear, **options)


def log_p(z: torch.Tensor, matrix: torch.Tensor = MATRIX) -> torch.Tensor:
    u = z.flatten(1) @ torch.linalg.matrix_exp(matrix).T
    return -u.square().sum(1) / 2 - math.log(2 * math.pi) + matrix.trace()


@pytest.mark.parametrize("solver", [DormandPrince(1e-6), RungeKutta(20)], ids=["adaptive", "fixed"])
def test_the_density_of_a_linear_field(solver):
    z = torch.randn(7, 2, 1, 1)
    flow = linear(divergence=Exact(), solver=solver)
    assert flow.kind == "exact" and linear().kind == "estimate"
    torch.testing.assert_close(flow.log_prob(z, Context()), log_p(z), rtol=1e-4, atol=1e-4)


def test_the_estimate_has_the_density_as_its_mean():
    z = torch.randn(1, 2, 1, 1).expand(4000, -1, -1, -1)
    found = linear().log_prob(z, Context())
    # e . A e = tr A + e_1 e_2 (A_12 + A_21), of deviation |A_12 + A_21|.
    error = abs(MATRIX[0, 1] + MATRIX[1, 0]) / len(z) ** 0.5
    assert (found.mean() - log_p(z)[0]).abs() < 4 * error
    torch.testing.assert_close(found.std(), abs(MATRIX[0, 1] + MATRIX[1, 0]), rtol=0.05, atol=0)


def test_noise_and_latents_are_the_two_ends():
    z, flow = torch.randn(5, 2, 1, 1), linear(solver=DormandPrince(1e-7))
    u = flow.to_noise(z, Context())
    wanted = (z.flatten(1) @ torch.linalg.matrix_exp(MATRIX).T).view_as(z)
    torch.testing.assert_close(u, wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(flow.from_noise(u, Context()), z, rtol=1e-4, atol=1e-4)
    random = Random(0, 0, torch.arange(5))
    torch.testing.assert_close(
        flow.sample((5, 2, 1, 1), Context(), random), flow.from_noise(random.normal("prior", (2, 1, 1)), Context())
    )


def test_likelihood_and_the_two_terms_by_hand():
    """v = a z moves z to z e^(a t): int |v|^2 = a |z|^2 (e^(2a) - 1) / 2, and |(dv/dz) e|^2 = a^2 d."""
    a, z = 0.7, torch.randn(6, 2, 1, 1)
    flow = linear(objective=MaximumLikelihood(0.3, 0.2, DormandPrince(1e-6)))
    with torch.no_grad():
        flow.backbone.matrix.copy_(a * torch.eye(2))
    random = Random(0, 0, torch.arange(6))
    terms = flow.held_out(z, Context(), random)
    energy = z.square().sum((1, 2, 3)) * a * (math.exp(2 * a) - 1) / 2
    torch.testing.assert_close(terms["kinetic"], 0.3 * energy / 2, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(terms["jacobian"], torch.full((6,), 0.2 * a**2), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(terms["nll per dimension"], -log_p(z, a * torch.eye(2)) / 2, rtol=1e-4, atol=1e-4)
    means = flow.loss(z, Context(), random)
    torch.testing.assert_close(sum(means.values()), sum(terms[name].mean() for name in means))
    assert set(means) == {"nll per dimension", "kinetic", "jacobian"}


def test_the_gradient_through_the_solver_is_that_of_the_density():
    z, matrix = torch.randn(6, 2, 1, 1), (0.5 * torch.eye(2)).requires_grad_()
    flow = linear(objective=MaximumLikelihood(0.0, 0.0, DormandPrince(1e-6)))
    with torch.no_grad():
        flow.backbone.matrix.copy_(matrix)
    # Of random signs, whose products off the diagonal average out: one latent with each pair of signs.
    z = z[:1].expand(512, -1, -1, -1)
    random = Random(0, 0, torch.arange(512))
    found = torch.autograd.grad(flow.loss(z, Context(), random)["nll per dimension"], flow.backbone.matrix)[0]
    wanted = torch.autograd.grad(-log_p(z, matrix).mean() / 2, matrix)[0]
    torch.testing.assert_close(found.diagonal(), wanted.diagonal(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0.15)


def test_evaluations_are_counted():
    random, z = Random(0, 0, torch.arange(3)), torch.randn(3, 2, 1, 1)
    for solver in (RungeKutta(5), DormandPrince(1e-4)):
        flow = linear(objective=MaximumLikelihood(solver=solver))
        with torch.no_grad():
            _, values = flow.sides()[0].loss(z, Context(), random, 0, {})
            each = flow.held_out(z, Context(), random)["evaluations"]
        assert values["evaluations"] == each.mean()
        assert 2 * each.max() == flow.backbone.calls, "of the row that took most, and of two solutions"


def test_noise_of_the_trace_is_the_same_within_a_solution(monkeypatch):
    flow, given = linear(), []
    own = CNF._products
    monkeypatch.setattr(CNF, "_products", lambda *args: given.append(args[-1]) or own(*args))
    flow.log_prob(torch.randn(3, 2, 1, 1), Context())
    assert len(given) > 5 and all(torch.equal(each, given[0]) for each in given)


NETWORKS = {
    "unet": partial(UNet, width=8, multipliers=(1, 2), blocks=1, attention=(False, True), scale_shift=True),
    "mlp": partial(MLP, width=16, depth=2, sides=(4, 4)),
}


def network(kind: str, **options) -> CNF:
    torch.manual_seed(0)
    flow = CNF(Latents((1, 4, 4)), ContextShape(6), NETWORKS[kind], **options)
    with torch.no_grad():
        for p in flow.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return flow


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_trace_is_that_of_autograds_jacobian(kind):
    flow, c = network(kind, objective=MaximumLikelihood()), Context(torch.randn(2, 1, 6))
    z, t = torch.randn(2, 1, 4, 4), torch.tensor([0.0, 0.6])
    products = flow._products(z, t, c, Exact().probes(z, Random(0, 0, torch.arange(2))))[1]
    for row in range(2):
        own = (t[row : row + 1], c[row : row + 1])
        one = torch.autograd.functional.jacobian(partial(_velocity, flow, own), z[row][None])
        torch.testing.assert_close(products[:, row].flatten(1).T, one.view(16, 16), rtol=1e-4, atol=1e-5)


def _velocity(flow: CNF, own: tuple, z: torch.Tensor) -> torch.Tensor:
    return flow.velocity(z, *own)


def test_recomputing_changes_no_gradient(monkeypatch):
    flow, c = network("unet", objective=MaximumLikelihood(solver=RungeKutta(1))), Context(torch.randn(3, 1, 6))
    z, random = torch.randn(3, 1, 4, 4), Random(0, 0, torch.arange(3))

    def gradients():
        return torch.autograd.grad(sum(flow.loss(z, c, random).values()), list(flow.parameters()))

    wanted = gradients()
    monkeypatch.setattr("ldm.prior.cnf.checkpoint", lambda f, *args, use_reentrant: f(*args))
    torch.testing.assert_close(gradients(), wanted)


def test_flow_matching_by_hand():
    flow, random = linear(objective=FlowMatching(OptimalTransport())), Random(0, 0, torch.arange(4))
    z = random.normal("z", (2, 1, 1))
    [eps] = OptimalTransport()([(z, Context(), random)])
    t = random.stratified("time")[:, None, None, None]
    z_t = (1 - t) * z + t * eps
    v = (z_t.flatten(1) @ MATRIX.T).view_as(z)
    wanted = (v - (eps - z)).square().mean()
    torch.testing.assert_close(flow.loss(z, Context(), random)["flow matching"], wanted)
    alone = flow.held_out(z[1:], Context(), random[1:])["flow matching"]
    torch.testing.assert_close(
        alone, flow.held_out(z, Context(), random)["flow matching"][1:], msg="no other changes it"
    )


def test_several_probes_are_averaged():
    z = torch.randn(3, 2, 1, 1)
    random = Random(0, 0, torch.arange(3))
    flow = linear(divergence=Hutchinson(3), solver=DormandPrince(1e-7))
    probes = flow.divergence.probes(z, random).flatten(2)
    trace = torch.einsum("nbi,ij,nbj->b", probes, MATRIX, probes) / 3
    torch.testing.assert_close(
        flow.log_prob(z, Context(), random), log_p(z) - MATRIX.trace() + trace, rtol=1e-4, atol=1e-4
    )
