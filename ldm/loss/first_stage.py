"""The loss of the first stage: reconstruction, KL, perceptual and adversarial terms (Rombach et al. 2021, appendix G).

For an image x of n numbers and its reconstruction y the autoencoder minimises, divided by n,

    -log p(x | y; extra error perceptual_weight * d(x, y) * n) + kl_weight KL(q(z|x) || N(0, 1)) + commitment + codebook

and, not divided by n, -lambda mean(D(y)) with a critic D (ldm.loss.adversarial). The first term is a likelihood
(ldm.loss.reconstruction) and d a perceptual distance (ldm.loss.perceptual). Likelihood and KL are in nats, summed over
numbers and averaged over images. So with the Gaussian likelihood, KL weight 1 and no other term, this is the negative
evidence lower bound of a VAE, in the place of which the importance-weighted one may stand (ldm.loss.importance_weighted). It is
divided by n so that learning rates and gradient clipping do not depend on the size of images.

Sources:
    Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models (2021), arXiv 2112.10752
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol, runtime_checkable

from pydantic import NonNegativeFloat
from torch import Tensor, nn

from ldm.loss.adaptive import AdaptiveWeight
from ldm.loss.adversarial import Adversarial
from ldm.loss.importance_weighted import ImportanceWeighted, Law
from ldm.loss.perceptual import Perceptual
from ldm.loss.reconstruction import PixelLikelihood
from ldm.types import Image, Latent

Terms = dict[str, Tensor]


@runtime_checkable
class Made(Protocol):
    """The result of a training pass of an autoencoder, as `Autoencoder.forward` returns it."""

    @property
    def image(self) -> Image:
        """The reconstructions, (b, c, h, w)."""
        ...

    @property
    def z(self) -> Latent:
        """The raw latents of the reconstructions."""
        ...

    @property
    def posterior(self) -> Law:
        """q(z|x), of which they were drawn."""
        ...

    @property
    def terms(self) -> Mapping[str, Tensor]:
        """The loss terms of the bottleneck, summed over a latent and averaged over images; `kl` is without its weight."""
        ...


class FirstStageLoss(nn.Module):
    """The losses of the autoencoder and of the critic.

    Arguments:
        likelihood: of the image given its reconstruction.
        kl_weight: of the KL divergence of the posterior from the standard normal distribution, summed over the latent.
        perceptual: the perceptual distance; None leaves it out.
        perceptual_weight: of the perceptual distance.
        adversarial: the critic and the adversarial loss; None leaves them out.
        importance: the importance-weighted bound in the place of that of one draw; None is without.
    """

    def __init__(
        self,
        likelihood: PixelLikelihood,
        kl_weight: NonNegativeFloat = 1e-6,
        perceptual: Perceptual | None = None,
        perceptual_weight: NonNegativeFloat = 1.0,
        adversarial: Adversarial | None = None,
        importance: ImportanceWeighted | None = None,
    ):
        super().__init__()
        if importance is not None and (kl_weight != 1 or perceptual is not None or adversarial is not None):
            raise ValueError(
                "the importance-weighted bound is one of a density: it goes with loss.kl_weight=1 and neither a perceptual nor "
                f"an adversarial term, and here is kl_weight={kl_weight:g}: take loss=iwae"
            )
        self.likelihood, self.kl_weight = likelihood, kl_weight
        self.perceptual, self.perceptual_weight, self.adversarial = perceptual, perceptual_weight, adversarial
        self.importance = importance

    @property
    def draws(self) -> int:
        """How many latents of each image it asks for."""
        return 1 if self.importance is None else self.importance.draws

    def model_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters of the loss that are learnt with the autoencoder's: the likelihood's log-variance."""
        return (p for p in self.likelihood.parameters() if p.requires_grad)

    def critic_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters of the critic; none where there is no critic."""
        return iter(()) if self.adversarial is None else self.adversarial.critic.parameters()

    def generator(self, x: Image, made: Made, update: int, adaptive: AdaptiveWeight | None) -> tuple[Terms, Terms]:
        """The terms whose sum the autoencoder minimises, and values that are only logged, for a micro-batch of an update.

        Arguments:
            x: the images, (b, c, h, w).
            made: the result of the autoencoder's training pass on x, of `draws` latents of each image.
            update: the number of the update.
            adaptive: the adaptive weight of this update; used from the update on from which there is an adversarial term.
                Only the last micro-batch of an update has that term.
        """
        x = x.repeat_interleave(self.draws, 0)
        y, numbers = made.image.float(), x[0].numel()
        logged: Terms = {"mse": (x - y.detach()).square().mean()}
        logged["log variance"] = self.likelihood.log_variance.detach()
        if self.importance is not None:
            bound = self.importance(-self.likelihood(x, y), made.z, made.posterior)
            return {"importance-weighted": -bound.mean() / numbers}, logged
        extra = None
        if self.perceptual is not None:
            distance = self.perceptual(x, y)
            logged["perceptual"] = distance.detach().mean()
            extra = self.perceptual_weight * numbers * distance
        terms: Terms = {"reconstruction": self.likelihood(x, y, extra).mean() / numbers}
        for name, value in made.terms.items():
            terms[name] = value * (self.kl_weight if name == "kl" else 1.0) / numbers
            logged[f"{name} (unweighted)"] = value.detach()
        if self.adversarial is not None and update >= self.adversarial.start:
            unweighted = self.adversarial.generator_loss(y)
            adversarial = adaptive(terms["reconstruction"], unweighted, self.adversarial.weight)
            if adversarial is not None:
                terms["adversarial"] = adversarial
        return terms, logged

    def critic(self, x: Image, y: Image, update: int) -> tuple[Terms, Terms]:
        """The terms that the critic minimises for images x and reconstructions y, and its mean logits to log; none of them
        before the update from which on it is trained."""
        if self.adversarial is None or update < self.adversarial.critic_start:
            return {}, {}
        values = self.adversarial.critic_loss(x, y)
        return {"critic": values["critic"]}, {"logits real": values["real"], "logits fake": values["fake"]}
