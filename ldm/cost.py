"""What a network costs: floating-point operations of one forward pass, 2 a multiply-add.

Counted on the meta device, where tensors have shapes and no content: nothing is computed, no random number drawn, and
the weights are not touched. A training step costs about three times a forward pass.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from ldm.types import Context, ContextShape


@torch.no_grad()
def flops(network: nn.Module, *inputs: Any) -> tuple[int, Any]:
    """Of network(*inputs) in eval mode, in matrix products, convolutions and attention, and what it gives; `inputs` and that on
    the meta device."""
    named = (*network.named_parameters(), *network.named_buffers())
    weights = {name: torch.empty_like(tensor, device="meta") for name, tensor in named}
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with FlopCounterMode(display=False) as counter:
            output = torch.func.functional_call(network, weights, inputs)
    finally:
        for module, training in modes.items():
            module.training = training
    return counter.get_total_flops(), output


@contextlib.contextmanager
def counted(networks: Sequence[nn.Module]) -> Iterator[list[int]]:
    """Within the block, a list of how many rows went through one of the networks, call by call; the first argument of a
    network has the rows. Calls are counted outside of what torch compiled, which would not hear of a hook."""
    rows: list[int] = []
    own = [network._compiled_call_impl for network in networks]

    def counting(call: Callable[..., Any]) -> Callable[..., Any]:
        def counts(*arguments: Any, **named: Any) -> Any:
            rows.append(len(arguments[0]))
            return call(*arguments, **named)

        return counts

    for network, compiled in zip(networks, own, strict=True):
        network._compiled_call_impl = counting(compiled or network._call_impl)
    try:
        yield rows
    finally:
        for network, compiled in zip(networks, own, strict=True):
            network._compiled_call_impl = compiled


class FlopCounter(TorchDispatchMode):
    """Counts within its block by torch's formulas, as FlopCounterMode does, without the tree of modules: that is kept by hooks
    on gradients, under which losses that differentiate a network's gradient fail.

    Attributes:
        total: operations so far.
    """

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        named = kwargs or {}
        output = func(*args, **named)
        formula = flop_registry.get(func._overloadpacket) if isinstance(func, torch._ops.OpOverload) else None
        if formula is not None:
            self.total += formula(*args, **named, out_val=output)
        return output


@contextlib.contextmanager
def uncompiled(networks: Sequence[nn.Module]) -> Iterator[None]:
    """Within the block the networks, and blocks of theirs, are called as they are written."""
    modules = list({module: None for network in networks for module in network.modules()})
    compiled = [module._compiled_call_impl for module in modules]
    for module in modules:
        module._compiled_call_impl = None
    try:
        yield
    finally:
        for module, own in zip(modules, compiled, strict=True):
            module._compiled_call_impl = own


@dataclass
class Spent:
    """What a computation took.

    Fields:
        seconds: until its device had finished.
        memory: bytes at most meanwhile: of the allocator of a GPU, or of the whole process; 0 where nobody knows.
    """

    seconds: float = 0.0
    memory: int = 0

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.seconds + other.seconds, max(self.memory, other.memory))


@contextlib.contextmanager
def spending(device: torch.device) -> Iterator[Spent]:
    """What is computed on `device` within the block; known behind it."""
    spent, gpu = Spent(), device.type == "cuda"
    if gpu:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    known = gpu or _begin_peak()
    start = time.perf_counter()
    yield spent
    if gpu:
        torch.cuda.synchronize(device)
    spent.seconds = time.perf_counter() - start
    spent.memory = 0 if not known else torch.cuda.max_memory_allocated(device) if gpu else _peak()


_PROCESS = Path("/proc/self")


def _begin_peak() -> bool:
    """Let the process's peak of resident memory begin anew, at what there is now; whether the system can."""
    try:
        (_PROCESS / "clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _peak() -> int:
    """The most resident memory since `_begin_peak`, in bytes."""
    lines = (_PROCESS / "status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def context_on_meta(context: ContextShape, latent_shape: tuple[int, int, int]) -> Context:
    """A context of these widths for one latent, on the meta device; its tokens, whose number varies, are one."""
    with torch.device("meta"):
        tokens = None if context.tokens is None else torch.empty(1, 1, context.tokens)
        spatial = None if context.spatial is None else torch.empty(1, context.spatial, *latent_shape[1:])
    return Context(tokens, spatial=spatial)


def backbone_flops(backbone: nn.Module, latent_shape: tuple[int, int, int], context: ContextShape) -> int | None:
    """Of F(z, log_snr, c) for one z of `latent_shape`, and one token of context; None where it looks at numbers and not only at
    shapes.

    Raises:
        ValueError: it gives something of another shape than z's.
    """
    z, log_snr = torch.empty(1, *latent_shape, device="meta"), torch.empty(1, device="meta")
    try:
        count, output = flops(backbone, z, log_snr, context_on_meta(context, latent_shape))
    except NotImplementedError:
        return None
    if not isinstance(output, torch.Tensor) or output.shape != z.shape:
        came = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise ValueError(
            f"a backbone gives what has the shape of its latent, here {tuple(z.shape)}; {type(backbone).__name__} gave {came}"
        )
    return count
