"""Captions by a small transformer that is trained jointly with the prior, over tokens that are learnt from the captions.

The tokens are those of byte-pair encoding (Sennrich et al. 2015) on bytes, so that every caption can be encoded; captions are
lower-cased and normalised by Unicode NFKC first. The size of the vocabulary is fixed beforehand, so that no shape depends on
the data. Token embeddings and learnt position embeddings are added and pass transformer blocks with layer norm at their
input (Vaswani et al. 2017; Xiong et al. 2020), in which every token attends to every other and none to padding.

The tokenizer is part of the state dict, as the bytes of its JSON, so that sampling needs nothing but the model's safetensors.
Learning it needs no random numbers, and ties are decided by the tokens themselves, so every rank and every resumed run learns
the same.

Sources:
    Sennrich et al., Neural Machine Translation of Rare Words with Subword Units (2015), arXiv 1508.07909
    Vaswani et al., Attention Is All You Need (2017), arXiv 1706.03762
    Xiong et al., On Layer Normalization in the Transformer Architecture (2020), arXiv 2002.04745
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from pydantic import PositiveInt
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn

from ldm.condition.conditioner import Conditioner, captions_of, rounded_up
from ldm.condition.memory import Memory
from ldm.nn.attention import Attention, FeedForward
from ldm.types import Context, ContextShape, Probability

log = logging.getLogger(__name__)

# Our two tokens come before those of the tokenizer, which does not know them, so no caption can contain them.
PAD, START, OURS = 0, 1, 2


class Text(Conditioner):
    """A transformer over the byte-pair tokens of captions.

    Arguments:
        width, depth, heads: width of the tokens, number of blocks, and heads of the transformer.
        vocabulary: greatest number of tokens, with those for padding and for the start of a caption.
        length: greatest number of tokens of a caption, with its start; the rest of a longer one is cut off, and counted.
        expansion: width of the feed-forward layers, as a multiple of `width`.
        dropout: the share of activations that the transformer leaves out in training.
        drop: the probability that an example is trained without its condition.

    Attributes:
        truncated: how often a caption was cut. A caption that comes again may be counted again.
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
        """Learn the tokens from the captions; ValueError where there is no caption."""
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # otherwise forked data workers warn about its threads
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
        """Tokens (b, n, width), where n is the length of the longest caption rounded up to a multiple of 16. An empty caption
        gives "no condition"."""
        rows = self._ids.recall(captions_of(batch), self._encode)
        n = rounded_up(max(map(len, rows)), self.length)
        return self.embedded(torch.tensor([row + (PAD,) * (n - len(row)) for row in rows]).to(self.empty.device))

    def embedded(self, ids: Int[Tensor, "b n"]) -> Context:
        """The context of captions as tokens: each begins with START and is padded with PAD, and one of START alone is "no
        condition"."""
        n = ids.shape[1]
        mask = ids != PAD
        x = self.embedding(ids) + self.position[:n]
        for block in self.blocks:
            x = block(x, mask)
        first = torch.arange(n, device=ids.device)[None] == 0
        empty = Context(tokens=self.empty.expand(1, n, -1), mask=first)
        context = Context(tokens=self.norm(x), mask=mask, empty=empty)
        return context.drop(1.0, (mask.sum(1) > 1).float())

    def unread(self, caption: str) -> int:
        return max(len(self._tokens([caption.strip()])[0]) - self.length, 0)

    def _tokens(self, captions: list[str]) -> list[tuple[int, ...]]:
        if self._tokenizer is None:
            raise RuntimeError("condition=text has no tokens yet: call fit(captions) before training, or load a model")
        return [(START, *(i + OURS for i in found.ids)) for found in self._tokenizer.encode_batch(captions)]

    def _encode(self, captions: list[str]) -> list[tuple[int, ...]]:
        rows = self._tokens(captions)
        for caption, row in zip(captions, rows, strict=True):
            if len(row) > self.length:
                self.truncated += 1
                if self.truncated in (1, 10, 100, 1000, 10_000, 100_000):
                    what = f"a caption of {len(row)} tokens is cut to {self.length} (number {self.truncated})"
                    log.warning("%s, raise condition.length to keep it: %.60s...", what, caption)
        return [row[: self.length] for row in rows]

    def get_extra_state(self) -> Tensor:
        """The tokenizer as a tensor of bytes, for the state dict, which holds tensors only."""
        text = "" if self._tokenizer is None else self._tokenizer.to_str()
        return torch.tensor(list(text.encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Take the tokenizer out of a state dict; ValueError where it has more tokens than the vocabulary."""
        text = bytes(state.cpu().tolist()).decode()
        tokenizer = Tokenizer.from_str(text) if text else None
        count = 0 if tokenizer is None else tokenizer.get_vocab_size() + OURS
        if count > self.vocabulary:
            raise ValueError(f"the state's tokenizer has {count} tokens, this model {self.vocabulary} at most")
        self._tokenizer = tokenizer
        self._ids.clear()


class Block(nn.Module):
    """A transformer block, x + attention(norm(x)) and then x + feed-forward(norm(x)), in which padding is not attended to."""

    def __init__(self, width: PositiveInt, heads: PositiveInt, expansion: PositiveInt, dropout: Probability):
        super().__init__()
        self.attention_norm, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.feed_norm, self.feed = nn.LayerNorm(width), FeedForward(width, expansion, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "b n d"], mask: Bool[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        """Tokens (b, n, d) to tokens; the mask (b, n) is False for padding."""
        x = x + self.dropout(self.attention(self.attention_norm(x), mask=mask))
        return x + self.dropout(self.feed(self.feed_norm(x)))
