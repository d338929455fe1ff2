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

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import PositiveInt
from torch import Tensor

from ldm.condition.conditioner import captions_of
from ldm.condition.memory import Memory
from ldm.condition.pretrained_text import PretrainedText
from ldm.types import Context, ContextShape, Probability


class PaddedText(PretrainedText):
    """The hidden states of a frozen text encoder as tokens, `length` of them for every caption.

    Arguments:
        source: a directory with the encoder and its tokenizer, or a hub name, as `openai/clip-vit-large-patch14`.
        length: number of tokens; the rest of a longer caption is cut off, and this is counted. CLIP has 77 positions.
        keep: number of captions whose hidden states are kept in memory (about 240 kB each).
        revision: the revision of a hub name.
        drop: the probability that an example is trained without its condition.

    Raises:
        ImportError: transformers is missing. OSError: nothing at `source`. ValueError: it is no CLIP or T5.
    """

    def __init__(
        self,
        source: str,
        length: PositiveInt = 77,
        keep: PositiveInt = 1000,
        revision: str | None = None,
        drop: Probability = 0.1,
    ):
        super().__init__(source, length, revision, drop)
        self.shape = ContextShape(tokens=self.encoder.config.hidden_size)
        self.register_buffer("place", torch.zeros(0), persistent=False)  # knows the device
        self._hidden: Memory[Tensor] = Memory(keep)

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
        self.count(captions)
        for caption in captions:
            words = self.tokenizer(
                caption, padding="max_length", truncation=True, max_length=self.length, return_tensors="pt"
            )
            with torch.autocast(self.place.device.type, enabled=False):
                found.append(encoder(input_ids=words["input_ids"].to(self.place.device)).last_hidden_state[0].cpu())
        return found
