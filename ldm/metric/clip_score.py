"""How well samples show their captions, as CLIP sees both (Hessel et al. 2021).

    clip_score = mean of 100 max(cos(image embedding, caption embedding), 0)

the convention of torchmetrics; the paper has 2.5 in the place of 100. It is of one CLIP: another gives another number. It sees
objects and styles, and hardly counts, places or colours that are bound to objects. Captions are cut to the length that CLIP
reads; samples of the empty caption are left out.

Sources:
    Hessel et al., CLIPScore: A Reference-free Evaluation Metric for Image Captioning (2021), arXiv 2104.08718
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ldm.alignment.maps import short_name
from ldm.eight_bits import eight_bits
from ldm.metric.features import FeaturesUnavailable, standardized, warn_of
from ldm.metric.gather import gather_rows
from ldm.metric.measurement import Measurement
from ldm.metric.metric import Examples, Metric
from ldm.metric.scene import Scene
from ldm.metric.transformer_features import CLIP_MEAN, CLIP_STD, pretrained
from ldm.tensors import hash_of


class ClipScore(Metric):
    """`clip_score` of samples that were drawn for captions, with the error of a mean.

    Arguments:
        source: a CLIP with its tokenizer, a directory or a hub name.
    """

    names = ("clip_score",)

    needs = ("caption",)

    def __init__(self, source: str = "openai/clip-vit-base-patch16"):
        self.source = source
        self._scores = [torch.zeros(0)]
        self._clip: _Clip | None = None

    def missing(self) -> Sequence[str]:
        return self._ready(torch.device("cpu"))[1]

    def begin(self, scene: Scene) -> None:
        super().begin(scene)
        if scene.samples:
            self._clip, missing = self._ready(scene.device)
            warn_of(missing)

    def _ready(self, device: torch.device) -> tuple[_Clip | None, list[str]]:
        """The network, or why there is none."""
        try:
            return _Clip(self.source, device), []
        except FeaturesUnavailable as error:
            return None, [f"no clip_score: {error}"]

    def add(self, examples: Examples) -> None:
        told = [i for i, caption in enumerate(examples.captions) if caption]
        if self._clip is None or examples.generated is None or not told:
            return
        self._scores.append(self._clip.scores(examples.generated[told], [examples.captions[i] for i in told]).cpu())

    def measure(self) -> list[Measurement]:
        scores = gather_rows(torch.cat(self._scores)).double().sort().values  # whatever the order of ranks
        if self._clip is None or len(scores) == 0:
            return []
        return [
            Measurement(
                metric="clip_score",
                value=float(scores.mean()),
                standard_error=float(scores.std() / len(scores) ** 0.5) if len(scores) > 1 else None,
                n=len(scores),
                features=short_name(self.source),
                features_hash=self._clip.key,
                rounded=True,
                labels=None if self.scene is None else self.scene.labels,
                error="of a mean",
            )
        ]


class _Clip:
    """Both sides of a CLIP, frozen.

    Attributes:
        key: a hash of its weights.
    """

    def __init__(self, source: str, device: torch.device):
        self.model = pretrained(source, ("clip",), "CLIPModel").float().eval().requires_grad_(False).to(device)
        self.words = pretrained(source, ("clip",), "AutoTokenizer")
        self.key = hash_of(self.model.state_dict())[:16]

    @torch.no_grad()
    def scores(self, images: Float[Tensor, "b c h w"], captions: Sequence[str]) -> Float[Tensor, " b"]:
        """100 max(cos, 0) of each image in [-1, 1] and its caption."""
        size = self.model.config.vision_config.image_size
        pixels = standardized(eight_bits(images), size, CLIP_MEAN, CLIP_STD, "bicubic")
        seen = self.model.visual_projection(self.model.vision_model(pixel_values=pixels).pooler_output)
        longest = self.model.config.text_config.max_position_embeddings
        tokens = self.words(list(captions), padding=True, truncation=True, max_length=longest, return_tensors="pt")
        said = self.model.text_model(**tokens.to(images.device)).pooler_output
        return 100 * F.cosine_similarity(seen, self.model.text_projection(said)).clamp(min=0)
