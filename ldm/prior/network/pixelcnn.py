"""The gated PixelCNN: convolutions that see all of what comes before a position in row-major order (van den Oord et al. 2016).

Masking a convolution to what is above and to the left leaves a blind spot to the right of a position that grows with depth
(section 2.2, figure 1). Two stacks have none:

    vertical     v_0[r, c] = stem(e[r - 1, c])     then convolutions over rows r - k ... r and columns c - k ... c + k
    horizontal   h_0[r, c] = stem(e[r, c - 1])     then convolutions over columns c - k ... c of row r, plus a map of v[r, c]

so v[r, c] depends on rows above r, h[r, c] also on what is to the left in row r, and with k depth >= the longer side on every
position before. Both are gated by the context's vector s, the mean of its tokens (equation 4):

    y = tanh(a + A s) * sigmoid(b + B s)

with (a, b) the two halves of a convolution. The horizontal stack is residual, and what it gives is read off all of its layers.
Orders begin by shifting the input and not by masking the first kernel, as in Salimans et al. 2017, section 2.4; this is the
same.

In sampling, the vertical stack of a row is computed once, from the k rows that each layer keeps, when the row above is
complete; the horizontal stack goes position by position from the k columns that each layer keeps. So a position costs as much
as a 1 x k kernel of each layer, whatever the size of the map.

It sees far only by depth: of shapes that are larger than k depth it knows nothing, and its pixels then are good textures
without a plan.

Sources:
    van den Oord et al., Conditional Image Generation with PixelCNN Decoders (2016), arXiv 1606.05328
    Salimans et al., PixelCNN++: Improving the PixelCNN with Discretized Logistic Mixture Likelihood and Other Modifications
        (2017), arXiv 1701.05517
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor, nn

from ldm.nn.attention import masked_mean
from ldm.prior.network.base import Network
from ldm.types import Context, ContextShape, Probability


@dataclass
class Rows:
    """What a PixelCNN keeps while it makes maps (b, h, w) position by position.

    Fields:
        above: the row of the input that is being completed, (b, width, 1, w) behind the stem.
        vertical: of each layer, its input in the last k rows, (b, width, k, w).
        horizontal: of each layer, its input in the last k columns of this row, (b, width, 1, k).
        links: of each layer, what the vertical stack and the context say to the horizontal one, of this row, (b, 2 width, 1, w).
        given: positions so far.
    """

    above: Tensor
    vertical: list[Tensor]
    horizontal: list[Tensor]
    links: list[Tensor]
    given: int = 0


class Layer(nn.Module):
    """One layer of both stacks.

    Arguments:
        width: channels of both.
        reach: k, how many rows and columns a kernel sees before and beside its own.
        context: width of the context's tokens; None where there are none.
        dropout: share of the horizontal stack's activations that are left out in training.
    """

    def __init__(self, width: PositiveInt, reach: PositiveInt, context: PositiveInt | None, dropout: Probability):
        super().__init__()
        self.reach = reach
        self.vertical = nn.Conv2d(width, 2 * width, (reach + 1, 2 * reach + 1))
        self.link = nn.Conv2d(2 * width, 2 * width, 1)
        self.horizontal = nn.Conv2d(width, 2 * width, (1, reach + 1))
        self.out = nn.Conv2d(width, 2 * width, 1)
        self.by_context = None if context is None else nn.Linear(context, 4 * width, bias=False)
        self.dropout = nn.Dropout(dropout)

    def down(self, v: Float[Tensor, "b d r w"], s: Float[Tensor, "b e"] | None) -> tuple[Tensor, Tensor]:
        """The vertical stack's next map, and what it and the context say to the horizontal one; v has k rows more than they."""
        a = self.vertical(F.pad(v, (self.reach, self.reach, 0, 0)))
        link = self.link(a)
        if self.by_context is not None:
            above, along = self.by_context(s)[:, :, None, None].chunk(2, dim=1)
            a, link = a + above, link + along
        return _gated(a), link

    def along(self, h: Float[Tensor, "b d r w"], link: Float[Tensor, "b e r c"]) -> tuple[Tensor, Tensor]:
        """What is added to the horizontal stack's map, and what is read off this layer; h has k columns more than they."""
        return self.out(self.dropout(_gated(self.horizontal(h) + link))).chunk(2, dim=1)

    def at_point(self, h: Float[Tensor, "b d 1 k"], link: Float[Tensor, "b e 1 1"]) -> tuple[Tensor, Tensor]:
        """`along` at one position, where a convolution is a matrix."""
        y = F.linear(h.flatten(1), self.horizontal.weight.flatten(1), self.horizontal.bias) + link[:, :, 0, 0]
        y = F.linear(_gated(y), self.out.weight.flatten(1), self.out.bias)
        return y[:, :, None, None].chunk(2, dim=1)


class PixelCNN(Network):
    """A gated PixelCNN.

    Arguments:
        inputs, outputs: numbers at a position of the map that comes and of the map that is given; the prior gives them.
        context: the widths of the context's parts; the prior gives them.
        width: channels of both stacks.
        depth: number of layers.
        reach: k, how many rows and columns a kernel sees before and beside its own: 1 is a 3 x 3 kernel, 2 a 5 x 5 one.
        dropout: share of the horizontal stack's activations that are left out in training.
        readout: width of what stands between the layers and the outputs; None is `width`. For as many outputs as 256 values more
            is better: logits are in the span of so many vectors.
    """

    def __init__(
        self,
        inputs: PositiveInt,
        outputs: PositiveInt,
        context: ContextShape,
        width: PositiveInt = 128,
        depth: PositiveInt = 8,
        reach: PositiveInt = 2,
        dropout: Probability = 0.0,
        readout: PositiveInt | None = None,
    ):
        super().__init__()
        readout = readout or width
        self.width, self.reach = width, reach
        self.stem = nn.Conv2d(inputs, 2 * width, 1)
        self.layers = nn.ModuleList([Layer(width, reach, context.tokens, dropout) for _ in range(depth)])
        self.head = nn.Sequential(nn.SiLU(), nn.Conv2d(width, readout, 1), nn.SiLU(), nn.Conv2d(readout, outputs, 1))

    def memory(self, shape: tuple[int, int, int], c: Context) -> Rows:
        rows, _, width = shape
        like = {"dtype": self.stem.weight.dtype, "device": self.stem.weight.device}
        empty = torch.zeros(rows, self.width, self.reach, width, **like)
        return Rows(empty[:, :, :1].clone(), [empty for _ in self.layers], [], [])

    def forward(self, e: Float[Tensor, "b i h w"], c: Context, memory: Rows | None = None) -> Float[Tensor, "b o h w"]:
        s = None if c.tokens is None else masked_mean(c.tokens, c.mask)
        v, h = self.stem(e).chunk(2, dim=1)
        if memory is not None:
            return self.head(self._next(v, h, s, memory))
        v, h = F.pad(v, (0, 0, 1, 0))[:, :, :-1], F.pad(h, (1, 0))[..., :-1]
        seen = torch.zeros_like(h)
        for layer in self.layers:
            v, link = layer.down(F.pad(v, (0, 0, self.reach, 0)), s)
            more, skip = layer.along(F.pad(h, (self.reach, 0)), link)
            h, seen = h + more, seen + skip
        return self.head(seen)

    def _next(self, v: Tensor, h: Tensor, s: Tensor | None, memory: Rows) -> Tensor:
        """What the layers say of the next position, (b, width, 1, 1), after one with v and h behind the stem."""
        row, column = divmod(memory.given, memory.above.shape[3])
        if memory.given:
            memory.above[..., (column - 1) % memory.above.shape[3]] = v[..., 0]
        if column == 0:
            self._begin_row(s, memory, first=row == 0)
        h = torch.zeros_like(h) if column == 0 else h
        seen = torch.zeros_like(h)
        for i, layer in enumerate(self.layers):
            near = torch.cat([memory.horizontal[i], h], dim=3)
            memory.horizontal[i] = near[..., 1:]
            more, skip = layer.at_point(near, memory.links[i][..., column : column + 1])
            h, seen = h + more, seen + skip
        memory.given += 1
        return seen

    def _begin_row(self, s: Tensor | None, memory: Rows, first: bool) -> None:
        """The vertical stack of a row, given the whole row above it."""
        v = torch.zeros_like(memory.above) if first else memory.above
        memory.links, memory.horizontal = [], []
        for i, layer in enumerate(self.layers):
            near = torch.cat([memory.vertical[i], v], dim=2)
            memory.vertical[i] = near[:, :, 1:]
            v, link = layer.down(near, s)
            memory.links.append(link)
            memory.horizontal.append(v.new_zeros(len(v), self.width, 1, self.reach))


def _gated(x: Float[Tensor, "b d *hw"]) -> Float[Tensor, "b e *hw"]:
    a, b = x.chunk(2, dim=1)
    return a.tanh() * b.sigmoid()
