"""The loss of the first stage: reconstruction + KL + perceptual, and a critic's verdict (arXiv 2112.10752, appendix G).

    likelihood(x, y; extra = perceptual_weight * d(x, y) * numbers) + kl_weight KL(q(z|x) || N(0, 1)) + commitment ...
    - lambda D(y)

Likelihood and KL are both in nats, summed over numbers, averaged over images; so with the Gaussian likelihood, weight 1
and nothing else, this is the negative evidence bound of a VAE. The whole is divided by the numbers in an image, so that
learning rates and clipping do not depend on its size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol, runtime_checkable

from pydantic import NonNegativeFloat
from torch import Tensor, nn

from ldm.loss.adaptive import AdaptiveWeight
from ldm.loss.adversarial import Adversarial
from ldm.loss.perceptual import Perceptual
from ldm.loss.reconstruction import PixelLikelihood
from ldm.types import Image

Terms = dict[str, Tensor]


@runtime_checkable
class Made(Protocol):
    """One training pass of an autoencoder, as `ldm.autoencoder.Autoencoder.forward` returns it.

    terms: what the bottleneck wants minimised, per image: summed over the latent, mean over the batch, `kl` unweighted.
    """

    @property
    def image(self) -> Image: ...

    @property
    def terms(self) -> Mapping[str, Tensor]: ...


class FirstStageLoss(nn.Module):
    """
    Arguments:
        likelihood: of the image given its reconstruction.
        perceptual, adversarial: further terms; None leaves them out.
        kl_weight: of the KL divergence of the posterior from the standard normal, summed over the latent.
        perceptual_weight: of the perceptual distance.
    """

    def __init__(
        self,
        likelihood: PixelLikelihood,
        kl_weight: NonNegativeFloat = 1e-6,
        perceptual: Perceptual | None = None,
        perceptual_weight: NonNegativeFloat = 1.0,
        adversarial: Adversarial | None = None,
    ):
        super().__init__()
        self.likelihood, self.kl_weight = likelihood, kl_weight
        self.perceptual, self.perceptual_weight, self.adversarial = perceptual, perceptual_weight, adversarial

    def model_parameters(self) -> Iterator[nn.Parameter]:
        """What is learnt with the autoencoder."""
        return (p for p in self.likelihood.parameters() if p.requires_grad)

    def critic_parameters(self) -> Iterator[nn.Parameter]:
        return iter(()) if self.adversarial is None else self.adversarial.critic.parameters()

    def generator(self, x: Image, made: Made, update: int, adaptive: AdaptiveWeight | None) -> tuple[Terms, Terms]:
        """(terms whose sum the autoencoder minimises, values only logged) of a part of a given update of the model.

        Arguments:
            adaptive: the update's; read only once the critic is heard, of which the last part has the term.
        """
        y, numbers = made.image.float(), x[0].numel()
        logged: Terms = {"mse": (x - y.detach()).square().mean()}
        logged["log variance"] = self.likelihood.log_variance.detach()
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
        """The critic's terms and logged logits; no terms before it begins to learn."""
        if self.adversarial is None or update < self.adversarial.critic_start:
            return {}, {}
        values = self.adversarial.critic_loss(x, y)
        return {"critic": values["critic"]}, {"logits real": values["real"], "logits fake": values["fake"]}
