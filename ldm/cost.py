"""What a network costs: floating-point operations of one forward pass, 2 a multiply-add.

Counted on the meta device, where tensors have shapes and no content: nothing is computed, no random number drawn, and
the weights are not touched. A training step costs about three times a forward pass.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

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
