"""The vector quantiser: each vector of a latent is replaced by the nearest of K codes (van den Oord et al. 2017).

Let z_e be the encoder's output, e the code nearest to it, and sg the stop-gradient. The quantised latent is
z = z_e + sg(e - z_e), so that gradients of z pass to z_e unchanged (straight-through), and the loss terms are

    codebook   |sg(z_e) - e|^2          (equation 3, second term; absent where codes are running means, appendix A.1)
    commitment 0.25 |z_e - sg(e)|^2     (equation 3, third term)

summed over the latent. As running means, the codes are

    usage_k <- d usage_k + (1 - d) n_k,   sum_k <- d sum_k + (1 - d) s_k,   e_k = sum_k / usage_k,

where n_k is the number and s_k the sum of the vectors that were assigned to code k in the whole batch of an update. The
training passes only gather n_k and s_k over micro-batches, and `step` applies them, over all ranks, at the end of the
update. A code to which no vector was assigned keeps its value.

A code that is hardly used any more is called dead. It is replaced by a vector of the update's batch (Dhariwal et al. 2020,
section 3.1). The vectors at which the noise of the training pass is largest are taken, the k-th of them for code k; a
quantiser has no other use for this noise. Since noise is a function of the image's place in the global batch, the vectors
do not depend on how the batch is split into micro-batches and over ranks.

Sources:
    van den Oord et al., Neural Discrete Representation Learning (2017), arXiv 1711.00937
    Dhariwal et al., Jukebox: A Generative Model for Music (2020), arXiv 2005.00341
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor, nn

from ldm.autoencoder.bottleneck import Bottleneck, Coded, Posterior
from ldm.ranks import of_all_ranks
from ldm.types import Latent, Probability


class VectorQuantiser(Bottleneck):
    """Replaces each vector of a latent by the nearest of `codes` vectors of `channels` numbers.

    Arguments:
        codes: number of vectors in the codebook.
        channels: of the latent, and so numbers in a code.
        commitment: weight of the commitment loss, which draws the encoder's output towards its code.
        running_means: whether codes are running means of the vectors assigned to them, or are learnt by gradients.
        decay: of the running means, and of the running usage.
        restart_below: a code is dead when its usage is below this share of an even usage; 0 replaces none.

    Before the first update all codes are dead, so the codebook begins as vectors of the first batch. With
    `restart_below=0` a code keeps its random initial value until a vector is assigned to it.
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
        self.register_buffer("usage", torch.zeros(codes))  # running usage, 1 for an even one; all codes begin as dead
        self.register_buffer("sums", torch.zeros(codes, channels))
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))
        self._gathered: _Gathered | None = None

    @torch.no_grad()
    def begun(self) -> None:
        """Take the codebook as that of a training that has begun, so that none of its codes is replaced as one
        that has never been
        used."""
        self.usage.fill_(1.0)
        self.sums.copy_(self.codebook)
        self.updates.fill_(1)

    def codes(self, h: Latent) -> Int[Tensor, "b lh lw"]:
        """The number of the nearest code for each pixel of a latent (b, channels, h, w), (b, h, w)."""
        rows = rearrange(h.detach().float(), "b c h w -> b h w c")
        book = self.codebook.detach().float()
        with torch.autocast(h.device.type, enabled=False):
            distance = book.square().sum(1) - 2 * (rows @ book.T)
        return distance.argmin(-1)

    def lookup(self, codes: Int[Tensor, "b lh lw"]) -> Latent:
        """The latent (b, channels, h, w) of codes (b, h, w)."""
        return rearrange(F.embedding(codes, self.codebook), "b h w c -> b c h w")

    def posterior(self, h: Latent) -> Posterior:
        """The vectors before quantisation, which a prior of continuous latents models; `restore` quantises them."""
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
        if self.training:
            self._gather(_rows(h.detach()), codes.flatten(), _rows(noise).double().sum(1))
        return Coded(h + (nearest - h).detach(), self.posterior(h.detach()), terms)

    @torch.no_grad()
    def _gather(self, rows: Float[Tensor, "n c"], codes: Int[Tensor, " n"], order: Float[Tensor, " n"]) -> None:
        """Add the counts, sums and candidates of one pass to those of the update; `order` ranks the candidates."""
        counts = torch.bincount(codes, minlength=len(self.usage)).float()
        sums = torch.zeros_like(self.sums).index_add_(0, codes, rows)
        passed = _Gathered(counts, sums, *_largest(order, rows, len(counts)))
        self._gathered = passed if self._gathered is None else self._gathered + passed

    @torch.no_grad()
    def step(self) -> dict[str, Float[Tensor, ""]]:
        """Update usage, running means and dead codes from what all ranks have gathered. Returns `usage`, the share of codes
        that were used in the update, and their `perplexity`."""
        gathered, self._gathered = self._gathered, None
        if gathered is None:
            return {}
        counts, sums, candidates = gathered.over_ranks()
        even = counts.sum() / len(counts)
        usage = self.usage + (1 - self.decay) * (counts / even - self.usage)
        means = self.sums + (1 - self.decay) * (sums / even - self.sums)
        moved = ((1 - self.decay) * counts > 0) & self.running_means
        book = torch.where(moved[:, None], means / usage[:, None], self.codebook)
        # At the first update every code is dead: none of them comes from data yet.
        dead = (usage < self.restart_below) | ((self.updates == 0) & (self.restart_below > 0))
        usage = torch.where(dead, 1.0, usage)
        means = torch.where(dead[:, None], candidates, means)
        book = torch.where(dead[:, None], candidates, book)
        sound = sums.isfinite().all()  # a batch with an overflow must not change the codes
        for kept, new in ((self.usage, usage), (self.sums, means), (self.codebook, book)):
            kept.copy_(torch.where(sound, new, kept))
        self.updates += sound
        share = counts / counts.sum()
        return {"usage": (counts > 0).float().mean(), "perplexity": torch.special.entr(share).sum().exp()}


@dataclass(frozen=True)
class _Gathered:
    """What the passes of an update have gathered: counts (k,), sums (k, c), and candidates (k, c) in decreasing order of
    `order` (k,)."""

    counts: Tensor
    sums: Tensor
    order: Tensor
    candidates: Tensor

    def __add__(self, other: _Gathered) -> _Gathered:
        order, rows = torch.cat([self.order, other.order]), torch.cat([self.candidates, other.candidates])
        counts, sums = self.counts + other.counts, self.sums + other.sums
        return _Gathered(counts, sums, *_largest(order, rows, len(counts)))

    def over_ranks(self) -> tuple[Tensor, Tensor, Tensor]:
        """Counts, sums and a candidate for each code, the same on all ranks; candidates repeat where vectors are fewer."""
        counts, sums, order, rows = self.counts, self.sums, self.order, self.candidates
        if dist.is_available() and dist.is_initialized():
            both = torch.cat([counts[:, None], sums], dim=1)
            dist.all_reduce(both)
            counts, sums = both[:, 0], both[:, 1:]
            order, rows = _largest(of_all_ranks(order), of_all_ranks(rows), len(counts))
        there = order.isfinite().sum()
        return counts, sums, rows[torch.arange(len(rows), device=rows.device) % there]


def _largest(order: Float[Tensor, " n"], rows: Float[Tensor, "n c"], k: int) -> tuple[Tensor, Tensor]:
    """The k largest numbers of `order`, in decreasing order, and their rows; filled up with -inf and zeros."""
    short = max(k - len(order), 0)
    order, rows = F.pad(order, (0, short), value=-torch.inf), F.pad(rows, (0, 0, 0, short))
    order, places = order.topk(k)
    return order, rows[places]


def _rows(x: Latent) -> Float[Tensor, "n c"]:
    return rearrange(x, "b c h w -> (b h w) c")


def _per_image(difference: Latent) -> Float[Tensor, ""]:
    return difference.square().sum() / len(difference)
