"""What conditions on captions by a pretrained text encoder of `transformers` share: the encoder (CLIP or T5), its tokenizer, and
what is said of captions that are too long for it.

The encoder is frozen and no part of the model's state: it is named by `source` and `revision`.
"""

from __future__ import annotations

import logging
from abc import ABC
from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from ldm.condition.conditioner import Conditioner

log = logging.getLogger(__name__)


class PretrainedText(Conditioner, ABC):
    """Captions by a frozen text encoder. A new one writes `shape` and `forward`.

    Arguments:
        source: a directory with the encoder and its tokenizer, or a hub name, as `openai/clip-vit-large-patch14`.
        length: the greatest number of tokens of a caption; the rest of a longer one is cut off, and this is counted.
        revision: the revision of a hub name.
        drop: the probability that an example is trained without its condition.

    Attributes:
        encoder, tokenizer: of `transformers`.
        truncated: how many captions were cut.

    Raises:
        ImportError: transformers is missing. OSError: nothing at `source`. ValueError: it is no CLIP or T5.
    """

    needs = ("caption",)

    def __init__(self, source: str, length: int, revision: str | None, drop: float):
        super().__init__()
        self.drop, self.length, self.truncated = drop, length, 0
        encoder, self.tokenizer = _read(source, revision)
        # In a list the encoder is no submodule, and so is neither trained nor averaged nor saved.
        self._encoder = [encoder.float().eval().requires_grad_(False)]

    @property
    def encoder(self) -> nn.Module:
        """The text encoder."""
        return self._encoder[0]

    def fit(self, captions: Iterable[str]) -> None:
        """Nothing to learn."""

    def unread(self, caption: str) -> int:
        return max(self._tokens(caption.strip()) - self.length, 0)

    def count(self, captions: Sequence[str]) -> None:
        """Count those that are cut, and tell of the first and of ever fewer of the others."""
        for caption in captions:
            if (tokens := self._tokens(caption)) > self.length:
                self.truncated += 1
                if self.truncated in (1, 10, 100, 1000, 10_000, 100_000):
                    what = f"a caption of {tokens} tokens is cut to {self.length} (number {self.truncated})"
                    log.warning("%s, raise condition.length if the encoder has the positions: %.60s...", what, caption)

    def _tokens(self, caption: str) -> int:
        """How many tokens a caption has; ValueError where the tokenizer has none for it, as one of classes for all but their
        names."""
        try:
            return len(self.tokenizer(caption, verbose=False)["input_ids"])
        except Exception as error:  # of the library tokenizers, which knows no other kind
            raise ValueError(
                f"the tokenizer of this model knows no caption {caption!r} ({error}); take one of those that it was made for"
            ) from error


def _read(source: str, revision: str | None) -> tuple[nn.Module, Any]:
    """The text encoder and its tokenizer. Weights are read from safetensors only, and no code beside them is run."""
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
