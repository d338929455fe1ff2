"""Captions by a small transformer, trained jointly with the prior, over byte-pair tokens learnt from the captions.

Byte-pair encoding (arXiv 1508.07909) on bytes, so no caption is unreadable; lower case, Unicode NFKC. The number of
tokens that may be learnt is fixed beforehand, so that no shape depends on data. Tokens are embedded, given learnt
positions and read by pre-norm transformer blocks (arXiv 1706.03762; 2002.04745), every token seeing every other,
padding none.

The tokenizer travels in the state dict, as the bytes of its JSON: a model's safetensors are all that sampling needs.
Learning it draws no random number and breaks ties by the tokens themselves, so every rank, and a run that goes on,
learns the same.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float
from pydantic import PositiveInt
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn

from ldm.condition.conditioner import Conditioner, captions_of, rounded_up
from ldm.condition.memory import Memory
from ldm.nn.attention import Attention, FeedForward
from ldm.types import Context, ContextShape, Probability

log = logging.getLogger(__name__)

# Ours come before the tokenizer's own, which knows nothing of them, so that no caption can spell them.
PAD, START, OURS = 0, 1, 2


class Text(Conditioner):
    """
    Arguments:
        width, depth, heads: of the transformer.
        vocabulary: tokens at most, two of them ours.
        length: tokens of a caption at most, the start included; the rest of a longer one is cut off, and counted.
        expansion: how much wider a feed-forward layer is inside.
        dropout: the share of activations that the transformer leaves out in training.
        drop: the probability that an example is trained without its condition.

    Attributes:
        truncated: captions that were cut; of one that comes back often, perhaps more than once.
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
        expansion: PositiveInt = 2,
        drop: Probability = 0.1,
    ):
        super().__init__()
        self.drop = drop
        if vocabulary < OURS + 256:
            raise ValueError(f"vocabulary={vocabulary}: 256 bytes and {OURS} marks need at least {OURS + 256}")
        self.vocabulary, self.length, self.shape = vocabulary, length, ContextShape(tokens=width)
        self.embedding = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.position = nn.Parameter(0.02 * torch.randn(length, width))
        self.blocks = nn.ModuleList(Block(width, heads, expansion, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.empty = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.truncated = 0
        self._tokenizer: Tokenizer | None = None
        self._ids: Memory[tuple[int, ...]] = Memory(1 << 16)

    def fit(self, captions: Iterable[str]) -> None:
        """Learn the tokens; ValueError where there is no caption to learn from."""
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # else forked data workers complain of its threads
        tokenizer = Tokenizer(models.BPE())
        tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=self.vocabulary - OURS,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        count = 0

        def written() -> Iterator[str]:
            nonlocal count
            for caption in captions:
                if caption:
                    count += 1
                    yield caption

        tokenizer.train_from_iterator(written(), trainer)
        if not count:
            raise ValueError("no training image has a caption, so nothing can be conditioned on: take condition=none")
        self._tokenizer = tokenizer
        self._ids.clear()
        log.info("%d tokens learnt from %d captions", tokenizer.get_vocab_size() + OURS, count)

    def forward(self, batch: Mapping[str, Any]) -> Context:
        """tokens (b, n, width), n the longest caption's rounded up to 16; an empty caption is 'no condition'."""
        rows = self._ids.recall(captions_of(batch), self._encode)
        n = rounded_up(max(map(len, rows)), self.length)
        ids = torch.tensor([row + (PAD,) * (n - len(row)) for row in rows]).to(self.empty.device)
        mask = ids != PAD
        x = self.embedding(ids) + self.position[:n]
        for block in self.blocks:
            x = block(x, mask)
        first = torch.arange(n, device=ids.device)[None] == 0
        empty = Context(tokens=self.empty.expand(1, n, -1), mask=first)
        context = Context(tokens=self.norm(x), mask=mask, empty=empty)
        return context.drop(1.0, (mask.sum(1) > 1).float())

    def _encode(self, captions: list[str]) -> list[tuple[int, ...]]:
        if self._tokenizer is None:
            raise RuntimeError("condition=text has no tokens yet: call fit(captions) before training, or load a model")
        rows = [(START, *(i + OURS for i in found.ids)) for found in self._tokenizer.encode_batch(captions)]
        for caption, row in zip(captions, rows, strict=True):
            if len(row) > self.length:
                self.truncated += 1
                if self.truncated in (1, 10, 100, 1000, 10_000, 100_000):
                    what = f"a caption of {len(row)} tokens is cut to {self.length} (number {self.truncated})"
                    log.warning("%s, raise condition.length to keep it: %.60s...", what, caption)
        return [row[: self.length] for row in rows]

    # The tokenizer in the state dict: a tensor of bytes, since a state dict holds tensors and nothing else.

    def get_extra_state(self) -> Tensor:
        text = "" if self._tokenizer is None else self._tokenizer.to_str()
        return torch.tensor(list(text.encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        text = bytes(state.cpu().tolist()).decode()
        tokenizer = Tokenizer.from_str(text) if text else None
        count = 0 if tokenizer is None else tokenizer.get_vocab_size() + OURS
        if count > self.vocabulary:
            raise ValueError(f"the state's tokenizer has {count} tokens, this model {self.vocabulary} at most")
        self._tokenizer = tokenizer
        self._ids.clear()


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x)); padding is not looked at."""

    def __init__(self, width: PositiveInt, heads: PositiveInt, expansion: PositiveInt, dropout: Probability):
        super().__init__()
        self.attention_norm, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.feed_norm, self.feed = nn.LayerNorm(width), FeedForward(width, expansion, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "b n d"], mask: Bool[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        x = x + self.dropout(self.attention(self.attention_norm(x), mask=mask))
        return x + self.dropout(self.feed(self.feed_norm(x)))
