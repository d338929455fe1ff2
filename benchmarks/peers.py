"""Flows and couplings beside zuko's, nflows' and torchcfm's.

    python benchmarks/peers.py [--side 4] [--rounds 5] [--batch 32] [--threads 1] [--clock cpu|wall] [--words maf naf]

Flows of equal sizes take turns in one process, an update and a sample each: read the ratios, medians over rounds of (our time /
theirs in the same round). Networks have the same layers; parameters are printed beside. Then the pairs of a batch by optimal
transport, and an update of flow matching on them by one and the same network, beside torchcfm's. Peers are the extra `peers`
(pip install -e ".[peers]"); one that is not installed is left out and named.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from families import Work, header, parsed, update
from torch import Tensor, nn
from turns import CLOCKS, race

from ldm.backbone.mlp import MLP
from ldm.bijection.chain import Chain
from ldm.bijection.coupling import Coupling
from ldm.bijection.mask import Halves
from ldm.bijection.network import CouplingNetwork
from ldm.bijection.transform.affine import Affine
from ldm.bijection.transform.base import Transform
from ldm.bijection.transform.sigmoidal import Sigmoidal
from ldm.bijection.transform.spline import RationalQuadratic
from ldm.diffusion.likelihood import Exact
from ldm.ode import DormandPrince
from ldm.prior.autoregressive_flow import AutoregressiveFlow
from ldm.prior.base import Latents
from ldm.prior.cnf import CNF, FlowMatching
from ldm.prior.coupling import OptimalTransport
from ldm.prior.normalizing_flow import NormalizingFlow
from ldm.random import Random
from ldm.types import Context, ContextShape

BINS, UNITS, WIDTH, LAYERS = 8, 8, 256, 3
BOUND = 5.0  # of splines, as zuko has it


@dataclass
class Flow:
    """A flow of whichever library.

    Fields:
        name: its library's.
        network: whose parameters learn.
        log_prob: of points (b, d), (b,).
        sample: so many points.
    """

    name: str
    network: nn.Module
    log_prob: Callable[[Tensor], Tensor]
    sample: Callable[[int], Tensor]

    def works(self, x: Tensor) -> list[Work]:
        """An update, and a sample as large as the batch."""
        optimizer = torch.optim.Adam(self.network.parameters(), 1e-4, fused=True)

        def learn() -> None:
            (-self.log_prob(x).mean()).backward()
            optimizer.step()
            optimizer.zero_grad()

        return [learn, torch.no_grad()(partial(self.sample, len(x)))]


def peer(name: str) -> ModuleType | None:
    """The module, or None and a word about it where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        print(f'{name} is left out ({error}); pip install -e ".[peers]" brings it')
        return None


def ours(numbers: int, prior: NormalizingFlow) -> Flow:
    none = Context()
    return Flow(
        "ldm",
        prior,
        lambda x: prior.log_prob(x.view(-1, numbers, 1, 1), none),
        lambda count: prior.sample((count, numbers, 1, 1), none, Random(0, 0, torch.arange(count))),
    )


def autoregressive(numbers: int, transform: Transform) -> Flow:
    shape = Latents((numbers, 1, 1)), ContextShape()
    return ours(numbers, AutoregressiveFlow(*shape, transform, LAYERS, WIDTH, depth=2))


class Perceptron(CouplingNetwork):
    """Two hidden layers over all that is kept, as the peers' couplings have them."""

    def __init__(self, inputs: int, outputs: int, sides: tuple[int, int], context: ContextShape):
        super().__init__()
        self.hidden = nn.ModuleList([nn.Linear(inputs, WIDTH), nn.Linear(WIDTH, WIDTH)])
        self.head = nn.Linear(WIDTH, outputs)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor, c: Context) -> Tensor:
        y = x.flatten(1)
        for layer in self.hidden:
            y = F.silu(layer(y))
        return self.head(y)[:, :, None, None]


def couplings(numbers: int, transform: Transform) -> Flow:
    parts = [
        Coupling(Halves(numbers, bool(k % 2)), transform, Perceptron, (1, 1), ContextShape()) for k in range(LAYERS)
    ]
    return ours(numbers, NormalizingFlow(Latents((numbers, 1, 1)), ContextShape(), Chain(parts)))


def of_zuko(flow: Any) -> Flow:
    return Flow("zuko", flow, lambda x: flow().log_prob(x), lambda count: flow().sample((count,)))


def of_nflows(nflows: ModuleType, numbers: int, layers: Iterable[nn.Module]) -> Flow:
    transform = importlib.import_module("nflows.transforms").CompositeTransform(list(layers))
    normal = importlib.import_module("nflows.distributions").StandardNormal([numbers])
    flow = importlib.import_module("nflows.flows").Flow(transform, normal)
    return Flow("nflows", flow, flow.log_prob, flow.sample)


def cases(numbers: int) -> dict[str, list[Flow]]:
    """Flows of each kind, ours first; of peers those that have the kind and are installed."""
    spline = RationalQuadratic(BINS, BOUND)
    found = {
        "maf": [autoregressive(numbers, Affine())],
        "naf": [autoregressive(numbers, Sigmoidal(UNITS))],
        "autoregressive splines": [autoregressive(numbers, spline)],
        "affine couplings": [couplings(numbers, Affine())],
        "couplings of splines": [couplings(numbers, spline)],
    }
    if zuko := peer("zuko"):
        options = {"transforms": LAYERS, "hidden_features": (WIDTH, WIDTH), "activation": nn.SiLU}
        flows = zuko.flows
        found["maf"].append(of_zuko(flows.MAF(numbers, **options)))
        monotone = {"hidden_features": (UNITS,)}
        found["naf"].append(of_zuko(flows.NAF(numbers, signal=3 * UNITS, network=monotone, **options)))
        found["autoregressive splines"].append(of_zuko(flows.NSF(numbers, bins=BINS, **options)))
        found["affine couplings"].append(of_zuko(flows.NICE(numbers, **options)))
        found["couplings of splines"].append(of_zuko(flows.NSF(numbers, bins=BINS, passes=2, **options)))
    if nflows := peer("nflows"):
        masked = importlib.import_module("nflows.transforms.autoregressive")
        coupling = importlib.import_module("nflows.transforms.coupling")
        layers = {"hidden_features": WIDTH, "num_blocks": 1, "use_residual_blocks": False, "activation": F.silu}
        bends = {"num_bins": BINS, "tails": "linear", "tail_bound": BOUND}
        affine = partial(masked.MaskedAffineAutoregressiveTransform, features=numbers, **layers)
        bent = partial(
            masked.MaskedPiecewiseRationalQuadraticAutoregressiveTransform, features=numbers, **layers, **bends
        )

        def network(inputs: int, outputs: int) -> nn.Module:
            hidden = (nn.Linear(inputs, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH), nn.SiLU())
            return WithoutContext(nn.Sequential(*hidden, nn.Linear(WIDTH, outputs)))

        halves = [(torch.arange(numbers) < numbers // 2) == bool(k % 2) for k in range(LAYERS)]
        couples = partial(coupling.AffineCouplingTransform, transform_net_create_fn=network)
        splines = partial(
            coupling.PiecewiseRationalQuadraticCouplingTransform, transform_net_create_fn=network, **bends
        )
        found["maf"].append(of_nflows(nflows, numbers, (affine() for _ in range(LAYERS))))
        found["autoregressive splines"].append(of_nflows(nflows, numbers, (bent() for _ in range(LAYERS))))
        found["affine couplings"].append(of_nflows(nflows, numbers, (couples(mask=mask) for mask in halves)))
        found["couplings of splines"].append(of_nflows(nflows, numbers, (splines(mask=mask) for mask in halves)))
    return found


class WithoutContext(nn.Module):
    """A network as nflows asks it, which hands over a context."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self.network(x)


def ratios(times: list[list[float]]) -> list[float]:
    """Of the first one's time to each other's, medians over rounds."""
    return [statistics.median(a / b for a, b in zip(times[0], each, strict=True)) for each in times[1:]]


def beside_flows(arguments: argparse.Namespace) -> None:
    numbers, clock = 4 * arguments.side**2, CLOCKS[arguments.clock]
    print(f"\n{header(arguments)}, {numbers} numbers, {LAYERS} layers, hidden layers {WIDTH} and {WIDTH}\n")
    found = cases(numbers)
    print(
        "\n| flow | parameters, ours / theirs | update, s | update, ours / theirs | sample, s | sample, ours / theirs |"
    )
    print("| --- | --- | --- | --- | --- | --- |", flush=True)
    for name, flows in found.items():
        if arguments.words and name.split()[0] not in arguments.words:
            continue
        x = torch.randn(arguments.batch, numbers)
        works = [flow.works(x) for flow in flows]
        times = [race([each[k] for each in works], arguments.rounds, clock, warm=1) for k in range(2)]
        counts = [sum(p.numel() for p in flow.network.parameters()) / 1e6 for flow in flows]
        own = [statistics.median(each[0]) for each in times]
        for k, flow in enumerate(flows[1:]):
            learn, draw = (ratios(each)[k] for each in times)
            print(
                f"| {name}, beside {flow.name} | {counts[0]:.2f} M / {counts[k + 1]:.2f} M | {own[0]:.4f} | {learn:.2f} "
                f"| {own[1]:.4f} | {draw:.2f} |",
                flush=True,
            )


def beside_couplings(arguments: argparse.Namespace) -> None:
    if peer("torchcfm") is None:
        return
    matching = importlib.import_module("torchcfm.conditional_flow_matching")
    matcher, clock = matching.ExactOptimalTransportConditionalFlowMatcher(sigma=0.0), CLOCKS[arguments.clock]
    plan, pairs = OptimalTransport(0.0), importlib.import_module("torchcfm.optimal_transport").OTPlanSampler("exact")
    print("\n| optimal transport, 256 numbers | pairs, s | ours / torchcfm's | update, s | ours / torchcfm's |")
    print("| --- | --- | --- | --- | --- |")
    for batch in (32, 128, 512):
        z, count = torch.randn(batch, 4, 8, 8), itertools.count()

        def coupled(z: Tensor = z, count: Any = count) -> list[Tensor]:
            return plan([(z, Context(), Random(0, next(count), torch.arange(len(z))))])

        def sampled(z: Tensor = z) -> Any:
            return pairs.sample_plan(torch.randn_like(z), z)

        network = partial(MLP, sides=(8, 8), width=256, depth=4)
        flow = CNF(
            Latents((4, 8, 8)), ContextShape(), network, FlowMatching(OptimalTransport(0.0)), DormandPrince(), Exact()
        )
        optimizer = torch.optim.Adam(flow.parameters(), 1e-4, fused=True)

        def learn(z: Tensor = z, optimizer: Any = optimizer, flow: CNF = flow) -> None:
            t, x, velocity = matcher.sample_location_and_conditional_flow(torch.randn_like(z), z)
            (flow.velocity(x, 1 - t, Context()) + velocity).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()

        both = (
            race([coupled, sampled], arguments.rounds, clock, warm=1),
            race([update(flow, z, Context()), learn], arguments.rounds, clock, warm=1),
        )
        (own, (ratio,)), (whole, (other,)) = ((statistics.median(each[0]), ratios(each)) for each in both)
        print(f"| batch {batch} | {own:.4f} | {ratio:.2f} | {whole:.4f} | {other:.2f} |", flush=True)


def main() -> None:
    arguments = parsed(__doc__, "first words of the table's rows", side=4)
    beside_flows(arguments)
    beside_couplings(arguments)


if __name__ == "__main__":
    main()
