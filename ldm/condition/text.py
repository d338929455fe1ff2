"""Captions by a small transformer, trained jointly with the prior, over byte-pair tokens learnt from the captions.

Byte-pair encoding (arXiv 1508.07909) on bytes, so no caption is unreadable; lower case, Unicode NFKC. The number of tokens
that may be learnt is fixed beforehand, so that no shape depends on data. Tokens are embedded, given learnt positions and
read by pre-norm transformer blocks (arXiv 1706.03762; 2002.04745), every token seeing every other, padding none.

The tokenizer travels in the state dict, as the bytes of its JSON: a model's safetensors are all that sampling needs.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from pydantic import PositiveInt
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn

from ldm.condition.conditioner import Conditioner
from ldm.types import Context, ContextShape, Probability

log = logging.getLogger(__name__)

PAD, START = "[PAD]", "[START]"


class Text(Conditioner):
    """
    Arguments:
        width, depth, heads: of the transformer.
        vocabulary: tokens at most.
        length: tokens of a caption at most, the start included; the rest of a longer one is cut off, and counted.
    """

    needs = ("caption",)

    def __init__(
        self,
        width: PositiveInt = 128,
        depth: PositiveInt = 2,
        heads: PositiveInt = 4,
        vocabulary: PositiveInt = 4096,
        length: PositiveInt = 64,
        dropout: Probability = 0.0,
    ):
        super().__init__()
        if vocabulary < 258:
            raise ValueError(f"vocabulary={vocabulary}: 256 bytes and two marks need at least 258")
        self.vocabulary, self.length, self.shape = vocabulary, length, ContextShape(tokens=width)
        self.embedding = nn.Embedding(vocabulary, width)
        self.position = nn.Parameter(0.02 * torch.randn(length, width))
        nn.init.normal_(self.embedding.weight, std=0.02)
        layer = functools.partial(
            nn.TransformerEncoderLayer,
            *(width, heads, 4 * width),
            dropout=dropout,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.blocks = nn.ModuleList(layer() for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.empty = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.truncated = 0
        self._tokenizer: Tokenizer | None = None

    def fit(self, captions: Iterable[str]) -> None:
        """Learn the tokens; the same captions give the same tokens."""
        tokenizer = Tokenizer(models.BPE())
        tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=self.vocabulary,
            special_tokens=[PAD, START],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(captions, trainer)
        self._tokenizer = tokenizer
        self._ids.cache_clear()

    @functools.lru_cache(maxsize=1 << 17)  # noqa: B019  (captions repeat every epoch; a model lives as long as its run)
    def _ids(self, caption: str) -> tuple[int, ...]:
        if self._tokenizer is None:
            raise RuntimeError("condition=text has no tokens yet: call fit(captions) before training, or load a model")
        ids = [self._tokenizer.token_to_id(START), *self._tokenizer.encode(caption).ids]
        if len(ids) > self.length:
            self.truncated += 1
            if self.truncated == 1:
                log.warning("a caption of %d tokens is cut to %d: %.60s...", len(ids), self.length, caption)
        return tuple(ids[: self.length])

    def forward(self, batch: Mapping[str, Any]) -> Context:
        """tokens (b, n, width) with n the longest caption's; an empty caption is 'no condition'."""
        captions = batch.get("caption")
        if captions is None:
            raise KeyError("condition=text needs batch['caption']; this data has none: take condition=label or none")
        device = self.embedding.weight.device
        rows = [self._ids(caption) for caption in captions]
        n = max(map(len, rows))
        ids = torch.tensor([row + (0,) * (n - len(row)) for row in rows], device=device)
        lengths = torch.tensor([len(row) for row in rows], device=device)
        mask = torch.arange(n, device=device) < lengths[:, None]
        x = self.embedding(ids) + self.position[:n]
        for block in self.blocks:
            x = block(x, src_key_padding_mask=~mask)
        first = torch.arange(n, device=device)[None] == 0
        empty = Context(tokens=self.empty.expand(1, n, -1), mask=first)
        context = Context(tokens=self.norm(x), mask=mask, empty=empty)
        return context.drop(1.0, (lengths > 1).float())

    # The tokenizer in the state dict: a tensor of bytes, since a state dict holds tensors and nothing else.

    def get_extra_state(self) -> Tensor:
        text = "" if self._tokenizer is None else self._tokenizer.to_str()
        return torch.tensor(list(text.encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        text = bytes(state.cpu().tolist()).decode()
        self._tokenizer = Tokenizer.from_str(text) if text else None
        self._ids.cache_clear()
