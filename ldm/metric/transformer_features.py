"""Features of photographs and drawings by the library `transformers`: DINOv2 (Oquab et al. 2023) and CLIP (Radford et al. 2021).

Distances in their features agree with human judgement of generated images better than those in Inception's (Stein et al. 2023
for DINOv2; Betzalel et al. 2022 for CLIP). DINOv2 gives the class token after the last normalisation, CLIP the projected
embedding of the image. Images are resized to squares by bicubic interpolation with antialiasing.

Sources:
    Oquab et al., DINOv2: Learning Robust Visual Features without Supervision (2023), arXiv 2304.07193
    Radford et al., Learning Transferable Visual Models From Natural Language Supervision (2021), arXiv 2103.00020
    Stein et al., Exposing Flaws of Generative Model Evaluation Metrics and Their Unfair Treatment of Diffusion Models
        (2023), arXiv 2306.04675
    Betzalel et al., A Study on the Evaluation of Generative Models (2022), arXiv 2206.10935
"""

from __future__ import annotations

from typing import Any

from jaxtyping import Float, UInt8
from pydantic import PositiveInt
from torch import Tensor

from ldm.alignment.maps import short_name
from ldm.metric.features import FeatureNetwork, FeaturesUnavailable, standardized

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def pretrained(source: str, kinds: tuple[str, ...], model: str) -> Any:
    """A model of `transformers`, of which tensors alone are read.

    Arguments:
        source: a directory or a hub name.
        kinds: that its config may say of it.
        model: the library's class.

    Raises:
        FeaturesUnavailable: the library is missing, there is nothing at `source`, or it is of another kind.
    """
    try:
        import transformers
    except ImportError as error:
        raise FeaturesUnavailable(f"{source} needs transformers: pip install 'ldm[clip]'") from error
    try:
        kind = transformers.AutoConfig.from_pretrained(source, trust_remote_code=False).model_type
        if kind not in kinds:
            raise FeaturesUnavailable(f"{source} is a {kind}; wanted {' or '.join(kinds)}")
        return getattr(transformers, model).from_pretrained(source, trust_remote_code=False, use_safetensors=True)
    except (OSError, ValueError) as error:  # not there, or not in this form
        raise FeaturesUnavailable(
            f"nothing at {source} ({str(error).splitlines()[0]}); give a directory or a name of the Hugging Face hub"
        ) from error


class Dinov2Features(FeatureNetwork):
    """The class token of a DINOv2.

    Arguments:
        source: a directory or a hub name; `facebook/dinov2-large` is what published distances are of.
        size: side that images are resized to, a multiple of the network's patch.
        name: the name in the names of numbers; by default that of the source.

    Raises:
        FeaturesUnavailable: it cannot be had.
    """

    def __init__(self, source: str = "facebook/dinov2-large", size: PositiveInt = 224, name: str | None = None):
        super().__init__()
        self.size = size
        self.model = pretrained(source, ("dinov2", "dinov2_with_registers"), "AutoModel").float()
        self._settle(name or short_name(source), self.model.config.hidden_size, size)

    def embed(self, pixels: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        return self.model(pixel_values=standardized(pixels, self.size, mode="bicubic")).last_hidden_state[:, 0]


class ClipFeatures(FeatureNetwork):
    """The embedding of an image by CLIP.

    Arguments:
        source: a directory or a hub name.
        name: the name in the names of numbers; by default that of the source.

    Raises:
        FeaturesUnavailable: it cannot be had.
    """

    def __init__(self, source: str = "openai/clip-vit-large-patch14", name: str | None = None):
        super().__init__()
        self.model = pretrained(source, ("clip", "clip_vision_model"), "CLIPVisionModelWithProjection").float()
        self.size = self.model.config.image_size
        self._settle(name or short_name(source), self.model.config.projection_dim, self.size)

    def embed(self, pixels: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        return self.model(pixel_values=standardized(pixels, self.size, CLIP_MEAN, CLIP_STD, "bicubic")).image_embeds
