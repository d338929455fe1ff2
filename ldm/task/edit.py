"""Another version of an image, under a caption or a label: image to image.

    x_t = alpha(t) z + sigma(t) eps,    t = strength,        and from there a sample under the new condition

(SDEdit: Meng et al., section 3, of a diffusion of latents). Noise takes away what is finer than its level, and the sample puts
there what the condition asks for: at strength 0 the image as it was, at 1 a sample that knows nothing of it.

With `inversion` x_t is not drawn: the ODE is followed from z to the noise level under the condition that the image has
(`source`), and back under the new one. What the two conditions have in common then stays, edges and places with it; so it can
start higher.

    changed       root mean square of result - given, of pixels in [-1, 1]
    round_trip    with `inversion`: root mean square of decode(there and back under `source`) - decode(z), an error and no edit

What makes it fail: a strength that is too low to leave room for the condition, or so high that nothing is kept; inversion in
few steps, or before strong guidance (ldm.task.tools.inversion). A model that obeys a condition badly in samples does in edits,
too.

Sources:
    Meng et al., SDEdit: Guided Image Synthesis and Editing with Stochastic Differential Equations (2021), arXiv 2108.01073
    Song et al., Denoising Diffusion Implicit Models (2020), arXiv 2010.02502
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor

from ldm.model import LatentModel
from ldm.prior.diffusion import Diffusion
from ldm.random import Random
from ldm.task.base import Answer, Task, apart, lacks
from ldm.task.tools.conditions import Conditions, conditions
from ldm.task.tools.inversion import Inversion
from ldm.task.tools.partway import cleaned, noised
from ldm.types import Context


class Edit(Task):
    """An image as a caption or a label asks for it, from its latent under noise.

    Arguments:
        strength: the time t at which it starts, of the schedule that samples; 1 is pure noise.
        inversion: how noise is found; without it, noise is drawn.
        source: caption or label (a class's name or number) that the images have, under which noise is found, or a list with one
            for each; None is no condition.
    """

    def __init__(
        self,
        strength: Annotated[float, Field(gt=0, le=1)] = 0.6,
        inversion: Inversion | None = None,
        source: str | int | Sequence[str | int] | None = None,
    ):
        if source is not None and inversion is None:
            raise ValueError("task.source= is what noise is found under: take task=edit_inversion, or leave it out")
        self.strength, self.inversion, self.source = strength, inversion, source

    def check(self, model: LatentModel) -> None:
        lacks(self, model, Diffusion, "a denoiser")
        if self.source is not None:
            self._of(model)

    def count(self, model: LatentModel, images: int) -> int:
        self._of(model).check(images)
        return images

    def __call__(self, model: LatentModel, batch: Mapping[str, Any], random: Random) -> Answer:
        x, own = batch["image"], model.autoencoder
        z, c = own.encode(x).mean, model.condition(batch)
        numbers: dict[str, Tensor] = {}
        if self.inversion is None:
            x_t = noised(model.prior, z, self.strength, random)
        else:
            source = self._source(model, batch["index"])
            times = self.inversion.times(model.prior, self.strength)
            x_t = self.inversion.along(model.prior, z, times.flip(0), source)
            back = own.decode(self.inversion.along(model.prior, x_t, times, source)).float().clamp(-1, 1)
            numbers["round_trip"] = apart(back, own.decode(z).float().clamp(-1, 1))
        result = cleaned(model.prior, x_t, self.strength, c, random)
        edited = own.decode(result).float().clamp(-1, 1)
        return Answer({"given": x, "edited": edited}, {"changed": apart(edited, x)} | numbers)

    def _of(self, model: LatentModel) -> Conditions:
        """The caption or the label that the images have."""
        captions = labels = None
        if self.source is not None:
            own = [self.source] if isinstance(self.source, str | int) else list(self.source)
            if "label" in model.condition.needs:
                labels = own
            else:
                captions = [str(each) for each in own]
        return conditions(model, captions, labels, said=("task.source", "task.source"))

    def _source(self, model: LatentModel, index: Tensor) -> Context:
        return model.condition(self._of(model).batch(index.tolist(), index.device))
