"""A network of two layers, F(z, log_snr, c): the noise level and the mean of the context's tokens shift its hidden map."""

from pydantic import PositiveInt
from torch import nn

from ldm.nn.attention import masked_mean
from ldm.nn.embedding import LogSnrEmbedding
from ldm.types import Context, ContextShape, Latent, Time


class TwoLayers(nn.Module):
    """Two convolutions.

    Arguments:
        channels, context: of z and of what it is given; a prior fills them in.
        width: channels of the hidden map.
    """

    def __init__(self, channels: PositiveInt, context: ContextShape, *, width: PositiveInt = 32):
        super().__init__()
        self.first, self.last = nn.Conv2d(channels, width, 3, padding=1), nn.Conv2d(width, channels, 3, padding=1)
        self.level = nn.Sequential(LogSnrEmbedding(width), nn.Linear(width, width))
        self.condition = nn.Linear(context.tokens, width) if context.tokens else None

    def forward(self, z: Latent, log_snr: Time, c: Context) -> Latent:
        shift = self.level(log_snr)
        if self.condition is not None:
            shift = shift + self.condition(masked_mean(c.tokens, c.mask))
        return self.last(nn.functional.silu(self.first(z) + shift[:, :, None, None]))
