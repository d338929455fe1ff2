"""Captions by a frozen, pretrained text encoder of `transformers`: CLIP (Radford et al. 2021) or T5 (Raffel et al. 2019).

The tokens of the context are the encoder's last hidden states, mapped to `width` by a learnt linear layer. Captions repeat
every epoch, so their hidden states are kept in float16: in memory, and optionally on the disk for other runs. On the CPU
each caption is encoded alone. Its hidden states then do not depend on the batch that it came in first, and a resumed run
equals an uninterrupted one exactly. On a GPU they are equal up to rounding, or exactly where they are kept on the disk.

The frozen weights are not part of the model's state. They are named by `source` and `revision`.

Sources:
    Radford et al., Learning Transferable Visual Models From Natural Language Supervision (2021), arXiv 2103.00020
    Raffel et al., Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer (2019),
        arXiv 1910.10683
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from ldm.condition.conditioner import captions_of, rounded_up
from ldm.condition.memory import Disk, Memory
from ldm.condition.pretrained_text import PretrainedText
from ldm.tensors import hash_of
from ldm.types import Context, ContextShape, Probability


class FrozenText(PretrainedText):
    """The hidden states of a frozen text encoder as tokens.

    Arguments:
        source: a directory or a hub name, as `openai/clip-vit-large-patch14` or `google-t5/t5-small`.
        width: of the tokens handed to the backbone.
        length: the greatest number of tokens of a caption; the rest of a longer one is cut off, and this is counted.
        keep: number of captions whose hidden states are kept in memory (about 20 kB each).
        on_disk: whether to keep all of them in the user's cache directory, too, under the hash of the encoder's weights.
        revision: the revision of a hub name.
        drop: the probability that an example is trained without its condition.

    Raises:
        ImportError: transformers is missing. OSError: nothing at `source`. ValueError: it is no CLIP or T5.
    """

    def __init__(
        self,
        source: str,
        width: PositiveInt = 256,
        length: PositiveInt = 77,
        keep: PositiveInt = 20_000,
        on_disk: bool = False,
        revision: str | None = None,
        drop: Probability = 0.1,
    ):
        super().__init__(source, length, revision, drop)
        self.shape = ContextShape(tokens=width)
        self.project = nn.Linear(self.encoder.config.hidden_size, width)
        self.empty = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self._hidden: Memory[Tensor] = Memory(keep)
        weights = hash_of(self.encoder.state_dict(), sorted(self.tokenizer.get_vocab().items()))
        self._disk = Disk(f"{weights}-{length}") if on_disk else None

    def forward(self, batch: Mapping[str, Any]) -> Context:
        """Tokens (b, n, width), where n is the length of the longest caption rounded up to a multiple of 16. An empty caption
        gives "no condition"."""
        captions, device = captions_of(batch), self.empty.device
        rows = self._hidden.recall(captions, self._read)
        lengths = torch.tensor([len(row) for row in rows])
        n = rounded_up(int(lengths.max()), self.length)
        hidden = torch.zeros(len(rows), n, self.project.in_features, dtype=torch.float16)
        for i, row in enumerate(rows):
            hidden[i, : len(row)] = row
        places = torch.arange(n, device=device)[None]
        empty = Context(tokens=self.empty.expand(1, n, -1), mask=places == 0)
        tokens = self.project(hidden.to(device).to(self.project.weight.dtype))
        context = Context(tokens=tokens, mask=places < lengths.to(device)[:, None], empty=empty)
        return context.drop(1.0, torch.tensor([float(caption != "") for caption in captions]).to(device))

    def _read(self, captions: list[str]) -> list[Tensor]:
        """The hidden states (tokens, hidden) of each caption, read from the disk where they are there."""
        width = self.project.in_features
        bits = {} if self._disk is None else self._disk.read(captions)
        found = {c: torch.frombuffer(bytearray(b), dtype=torch.float16).view(-1, width) for c, b in bits.items()}
        new = [caption for caption in captions if caption not in found]
        size = 1 if self.empty.device.type == "cpu" else 64
        for start in range(0, len(new), size):
            some = new[start : start + size]
            found |= zip(some, self._embed(some), strict=True)
        if self._disk is not None and new:
            self._disk.write({caption: found[caption].numpy().tobytes() for caption in new})
        return [found[caption] for caption in captions]

    @torch.no_grad()
    def _embed(self, captions: list[str]) -> list[Tensor]:
        device = self.empty.device
        self.count(captions)
        words = self.tokenizer(captions, padding=True, truncation=True, max_length=self.length, return_tensors="pt")
        mask = words["attention_mask"]
        encoder = self.encoder.to(device)
        with torch.autocast(device.type, enabled=False):
            hidden = encoder(input_ids=words["input_ids"].to(device), attention_mask=mask.to(device)).last_hidden_state
        return [states[used] for states, used in zip(hidden.half().cpu(), mask.bool(), strict=True)]
