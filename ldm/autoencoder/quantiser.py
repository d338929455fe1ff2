"""The vector quantiser: a latent vector becomes the nearest of K codes (arXiv 1711.00937).

With e = code nearest to z_e(x), gradients pass straight through, z = z_e + sg(e - z_e), and the loss terms are

    codebook   |sg(z_e) - e|^2          (eq. 3, second term; absent where codes are running means, appendix A.1)
    commitment 0.25 |z_e - sg(e)|^2     (eq. 3, third term)

summed over the latent. Running means: usage_k <- d usage_k + (1 - d) n_k, sum_k <- d sum_k + (1 - d) sum of its z_e.
A code hardly used any more is dead and restarts at a vector of the present batch (arXiv 2005.00341, section 3.1). Which
vector is a function of the count of updates and the code, so nothing random is kept; counts and candidates are
summed over ranks, so every rank has the same codes.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor, nn

from ldm.autoencoder.bottleneck import Bottleneck, Coded, Posterior
from ldm.types import Latent, Probability


class VectorQuantiser(Bottleneck):
    """The nearest of `codes` vectors of `channels` numbers.

    Arguments:
        commitment: weight of the encoder's pull towards its code.
        running_means: codes are running means of the vectors assigned to them; otherwise they follow gradients.
        decay: of the running means and of the count of usage.
        restart_below: share of an even usage (1 / codes) under which a code is dead; 0 restarts none.

    Before its first update all codes are dead, so the codebook begins as vectors of the first batch.
    """

    def __init__(
        self,
        codes: PositiveInt,
        channels: PositiveInt,
        commitment: NonNegativeFloat = 0.25,
        running_means: bool = True,
        decay: Probability = 0.99,
        restart_below: Probability = 0.03,
    ):
        super().__init__()
        self.channels, self.commitment, self.running_means = channels, commitment, running_means
        self.decay, self.restart_below = decay, restart_below
        start = torch.randn(codes, channels)
        self.codebook = nn.Parameter(start, requires_grad=not running_means)
        self.register_buffer("usage", torch.zeros(codes))  # running count, 1 for even use; all dead at first
        self.register_buffer("sums", torch.zeros(codes, channels))
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))

    def codes(self, h: Latent) -> Int[Tensor, "b lh lw"]:
        """The index of the nearest code of every latent pixel."""
        rows = h.detach().float().movedim(1, -1)
        book = self.codebook.detach().float()
        with torch.autocast(h.device.type, enabled=False):
            distance = book.square().sum(1) - 2 * (rows @ book.T)
        return distance.argmin(-1)

    def lookup(self, codes: Int[Tensor, "b lh lw"]) -> Latent:
        """The latent that codes stand for."""
        return F.embedding(codes, self.codebook).movedim(-1, 1)

    def posterior(self, h: Latent) -> Posterior:
        """The vectors before quantisation, which a prior of continuous latents models; `restore` quantises."""
        return Posterior(h.float(), torch.zeros_like(h, dtype=torch.float32))

    def restore(self, z: Latent) -> Latent:
        return self.lookup(self.codes(z))

    def forward(self, h: Latent, noise: Latent) -> Coded:
        h = h.float()
        codes = self.codes(h)
        nearest = self.lookup(codes)
        terms = {"commitment": self.commitment * _per_image(h - nearest.detach())}
        if not self.running_means:
            terms["codebook"] = _per_image(h.detach() - nearest)
        counts = torch.bincount(codes.flatten(), minlength=len(self.usage)).float()
        if self.training:
            counts = self._update(h.detach().movedim(1, -1).flatten(0, 2), codes.flatten(), counts)
        share = counts / counts.sum()
        entropy = -torch.special.xlogy(share, share).sum()
        numbers = {"usage": (counts > 0).float().mean(), "perplexity": entropy.exp()}
        return Coded(h + (nearest - h).detach(), self.posterior(h.detach()), terms, numbers)

    @torch.no_grad()
    def _update(self, rows: Float[Tensor, "n c"], codes: Int[Tensor, " n"], counts: Tensor) -> Tensor:
        """Running counts, means and restarts from one batch of all ranks; returns the counts over all ranks."""
        sums = torch.zeros_like(self.sums).index_add_(0, codes, rows)
        together = _sum_over_ranks(torch.cat([counts[:, None], sums, self._candidates(rows)], dim=1))
        counts, sums, candidates = together.split([1, self.channels, self.channels], dim=1)
        even = counts.sum() / len(counts)
        usage = self.usage + (1 - self.decay) * (counts[:, 0] / even - self.usage)
        sums = self.sums + (1 - self.decay) * (sums / even - self.sums)
        book = sums / usage.clamp(min=1e-6)[:, None] if self.running_means else self.codebook
        # At the first update everything is dead, whatever its count: the codebook was not made from data yet.
        dead = (usage < self.restart_below) | ((self.updates == 0) & (self.restart_below > 0))
        usage = torch.where(dead, 1.0, usage)
        sums = torch.where(dead[:, None], candidates, sums)
        book = torch.where(dead[:, None], candidates, book)
        sound = together.isfinite().all()  # a batch that overflowed must not reach the codes
        for kept, new in ((self.usage, usage), (self.sums, sums), (self.codebook, book)):
            kept.copy_(torch.where(sound, new, kept))
        self.updates += sound
        return counts[:, 0]

    def _candidates(self, rows: Float[Tensor, "n c"]) -> Float[Tensor, "k c"]:
        """A vector of this batch for each code: code k takes one of rank k mod ranks, zeros stand for the others."""
        rank, ranks = (dist.get_rank(), dist.get_world_size()) if _distributed() else (0, 1)
        k = torch.arange(len(self.usage), device=rows.device)
        mixed = (k + 1) * 2654435761 + (self.updates + 1) * 40503 * 65537
        picked = rows[((mixed ^ (mixed >> 15)) * 2246822519 >> 13) % len(rows)]
        return torch.where((k % ranks == rank)[:, None], picked, 0.0)


def _per_image(difference: Latent) -> Float[Tensor, ""]:
    return difference.square().sum() / len(difference)


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def _sum_over_ranks(x: Tensor) -> Tensor:
    if _distributed():
        dist.all_reduce(x)
    return x
