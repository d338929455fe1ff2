"""Captions as the pipelines of diffusers encode them: by a frozen CLIP or T5, padded to one length.

All hidden states are tokens of the context, those of padding too, and "no condition" is the empty caption, as Stable Diffusion
has them (Rombach et al. 2021; its code). So a model with this condition is one that diffusers can run, and one of diffusers can
be read. `ldm.condition.frozen` is the better one for a model that stays here: it attends to no padding and learns what no
condition is.

The frozen weights are not part of the model's state. They are named by `source` and `revision`.

Sources:
    Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models (2021), arXiv 2112.10752
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from ldm.condition.conditioner import Conditioner, captions_of
from ldm.condition.frozen import pretrained_text
from ldm.condition.memory import Memory
from ldm.types import Context, ContextShape, Probability


class PaddedText(Conditioner):
    """The hidden states of a frozen text encoder as tokens, `length` of them for every caption.

    Arguments:
        source: a directory with the encoder and its tokenizer, or a hub name, as `openai/clip-vit-large-patch14`.
        length: number of tokens; the rest of a longer caption is cut off. CLIP has 77 positions.
        keep: number of captions whose hidden states are kept in memory (about 240 kB each).
        revision: the revision of a hub name.
        drop: the probability that an example is trained without its condition.

    Attributes:
        encoder, tokenizer: of `transformers`.

    Raises:
        ImportError: transformers is missing. OSError: nothing at `source`. ValueError: it is no CLIP or T5.
    """

    needs = ("caption",)

    def __init__(
        self,
        source: str,
        length: PositiveInt = 77,
        keep: PositiveInt = 1000,
        revision: str | None = None,
        drop: Probability = 0.1,
    ):
        super().__init__()
        self.drop, self.length = drop, length
        encoder, self.tokenizer = pretrained_text(source, revision)
        # In a list the encoder is no submodule, and so is neither trained nor averaged nor saved.
        self._encoder = [encoder.float().eval().requires_grad_(False)]
        self.shape = ContextShape(tokens=encoder.config.hidden_size)
        self.register_buffer("place", torch.zeros(0), persistent=False)  # knows the device
        self._hidden: Memory[Tensor] = Memory(keep)

    @property
    def encoder(self) -> nn.Module:
        """The text encoder."""
        return self._encoder[0]

    def fit(self, captions: Iterable[str]) -> None:
        """Nothing to learn."""

    def forward(self, batch: Mapping[str, Any]) -> Context:
        """Tokens (b, length, hidden)."""
        empty, *rows = self._hidden.recall(["", *captions_of(batch)], self._embed)
        tokens, nothing = (each.to(self.place.device) for each in (torch.stack(rows), empty[None]))
        mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        return Context(tokens=tokens, mask=mask, empty=Context(tokens=nothing, mask=mask[:1]))

    @torch.no_grad()
    def _embed(self, captions: list[str]) -> list[Tensor]:
        """The hidden states (length, hidden) of each caption, each encoded alone, so that they do not depend on the batch."""
        encoder = self.encoder.to(self.place.device)
        found = []
        for caption in captions:
            words = self._words(caption)
            with torch.autocast(self.place.device.type, enabled=False):
                found.append(encoder(input_ids=words["input_ids"].to(self.place.device)).last_hidden_state[0].cpu())
        return found

    def _words(self, caption: str) -> Mapping[str, Tensor]:
        """The tokens of a caption; ValueError where the tokenizer has none for it, as one of classes for all but their names."""
        try:
            return self.tokenizer(
                caption, padding="max_length", truncation=True, max_length=self.length, return_tensors="pt"
            )
        except Exception as error:  # of the library tokenizers, which knows no other kind
            raise ValueError(
                f"the tokenizer of this model knows no caption {caption!r} ({error}); take one of those that it was made for"
            ) from error
