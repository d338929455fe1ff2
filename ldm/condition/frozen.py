"""Captions by a frozen, pretrained text encoder: CLIP (arXiv 2103.00020) or T5 (arXiv 1910.10683), by `transformers`.

The encoder's last hidden states are the tokens, brought to `width` by a learnt linear map. Captions repeat every epoch,
so their hidden states are kept: in memory, and on the disk for other runs if asked. They are kept in float16, and on
the CPU each caption is read alone, so what is kept does not depend on the batch that it first came in, and a run that
goes on computes what an uninterrupted one would have; on a GPU that holds up to rounding, or exactly with what is on
the disk.

The frozen weights are not part of the model's state: they are named by `source` and `revision`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import torch
import xxhash
from pydantic import PositiveInt
from torch import Tensor, nn

from ldm.condition.conditioner import Conditioner, captions_of, rounded_up
from ldm.condition.memory import Disk, Memory
from ldm.types import Context, ContextShape, Probability

log = logging.getLogger(__name__)


class FrozenText(Conditioner):
    """
    Arguments:
        source: a directory or a hub name, as `openai/clip-vit-large-patch14` or `google-t5/t5-small`.
        width: of the tokens handed to the backbone.
        length: tokens of a caption at most; the rest of a longer one is cut off, and counted.
        keep: captions whose hidden states are kept in memory (about 20 kB each).
        on_disk: keep all of them in the user's cache directory, too, under the hash of the encoder's weights.
        revision: of a hub name.
        drop: the probability that an example is trained without its condition.

    Raises:
        ImportError: transformers is missing. OSError: nothing at `source`. ValueError: it is no CLIP or T5.
    """

    needs = ("caption",)

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
        super().__init__()
        self.drop = drop
        encoder, self._tokenizer = _pretrained(source, revision)
        # In a list, the encoder is no submodule: neither trained, averaged nor saved.
        self._encoder = [encoder.float().eval().requires_grad_(False)]
        self.length, self.shape = length, ContextShape(tokens=width)
        self.project = nn.Linear(encoder.config.hidden_size, width)
        self.empty = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.truncated = 0
        self._hidden: Memory[Tensor] = Memory(keep)
        self._disk = Disk(f"{_hash(encoder, self._tokenizer.get_vocab())}-{length}") if on_disk else None

    def fit(self, captions: Iterable[str]) -> None:
        """Nothing to learn."""

    def forward(self, batch: Mapping[str, Any]) -> Context:
        """tokens (b, n, width), n the longest caption's rounded up to 16; an empty caption is 'no condition'."""
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
        """The hidden states (tokens, hidden) of captions, from the disk where they are."""
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
        self._count(captions)
        words = self._tokenizer(captions, padding=True, truncation=True, max_length=self.length, return_tensors="pt")
        mask = words["attention_mask"]
        encoder = self._encoder[0].to(device)
        with torch.autocast(device.type, enabled=False):
            hidden = encoder(input_ids=words["input_ids"].to(device), attention_mask=mask.to(device)).last_hidden_state
        return [states[used] for states, used in zip(hidden.half().cpu(), mask.bool(), strict=True)]

    def _count(self, captions: list[str]) -> None:
        for caption, ids in zip(captions, self._tokenizer(captions, verbose=False)["input_ids"], strict=True):
            if len(ids) > self.length:
                self.truncated += 1
                if self.truncated in (1, 10, 100, 1000, 10_000, 100_000):
                    what = f"a caption of {len(ids)} tokens is cut to {self.length} (number {self.truncated})"
                    log.warning("%s, raise condition.length if the encoder has the positions: %.60s...", what, caption)


def _pretrained(source: str, revision: str | None) -> tuple[nn.Module, Any]:
    """The text encoder and its tokenizer, from safetensors; no code that comes with them is run."""
    try:
        import transformers
    except ImportError as error:
        raise ImportError("condition=clip and t5 need transformers: pip install 'ldm[clip]'") from error
    kinds = {
        "clip": transformers.CLIPTextModel,
        "clip_text_model": transformers.CLIPTextModel,
        "t5": transformers.T5EncoderModel,
    }
    given = {"revision": revision or "main", "trust_remote_code": False}
    try:
        kind = transformers.AutoConfig.from_pretrained(source, **given).model_type
        if kind not in kinds:
            raise ValueError(f"{source} is a {kind}; a text encoder here is one of {', '.join(kinds)}")
        encoder = kinds[kind].from_pretrained(source, revision=given["revision"], use_safetensors=True)
        return encoder, transformers.AutoTokenizer.from_pretrained(source, **given)
    except OSError as error:
        raise OSError(
            f"condition.source={source} is not a directory with a text encoder (config, safetensors, tokenizer) and "
            f"could not be taken from the hub or its cache: {str(error).splitlines()[0]}"
        ) from error


def _hash(module: nn.Module, words: Mapping[str, int]) -> str:
    """Of every weight's name and bytes, and of the vocabulary that indexes them."""
    digest = xxhash.xxh3_128(repr(sorted(words.items())).encode())
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
