"""Captions by a frozen, pretrained text encoder: CLIP (arXiv 2103.00020) or T5 (arXiv 1910.10683), by `transformers`.

The encoder's last hidden states are the tokens, brought to `width` by a learnt linear map. Captions repeat every epoch, so
their embeddings are kept. The frozen weights are not part of the model's state: they are named by `source`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from ldm.condition.conditioner import Conditioner
from ldm.types import Context, ContextShape


class Frozen(Conditioner):
    """
    Arguments:
        source: a directory or a hub name, as `openai/clip-vit-large-patch14` or `google-t5/t5-small`.
        width: of the tokens handed to the backbone.
        length: tokens of a caption at most; the rest of a longer one is cut off.
        keep: captions whose embeddings are kept in memory.
    """

    needs = ("caption",)

    def __init__(self, source: str, width: PositiveInt = 256, length: PositiveInt = 77, keep: PositiveInt = 20_000):
        super().__init__()
        try:
            import transformers
        except ImportError as error:
            raise ImportError("condition=clip and t5 need transformers: pip install 'ldm[clip]'") from error
        kind = transformers.AutoConfig.from_pretrained(source).model_type
        kinds = {
            "clip": transformers.CLIPTextModel,
            "clip_text_model": transformers.CLIPTextModel,
            "t5": transformers.T5EncoderModel,
        }
        if kind not in kinds:
            raise ValueError(f"{source} is a {kind}; a text encoder here is one of {', '.join(kinds)}")
        encoder = kinds[kind].from_pretrained(source, use_safetensors=True).eval().requires_grad_(False)
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(source)
        # In a list, the encoder is no submodule: neither trained, averaged nor saved.
        self._encoder = [encoder]
        hidden = getattr(encoder.config, "d_model", None) or encoder.config.hidden_size
        self.length, self.keep, self.shape = length, keep, ContextShape(tokens=width)
        self.project = nn.Linear(hidden, width)
        self.empty = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self._kept: OrderedDict[str, Tensor] = OrderedDict()

    def fit(self, captions: Iterable[str]) -> None:
        """Nothing to learn."""

    @torch.no_grad()
    def _embed(self, captions: list[str]) -> None:
        encoder = self._encoder[0].to(self.empty.device)
        words = self._tokenizer(captions, padding=True, truncation=True, max_length=self.length, return_tensors="pt")
        words = {name: words[name].to(self.empty.device) for name in ("input_ids", "attention_mask")}
        with torch.autocast(self.empty.device.type, enabled=False):
            hidden = encoder(**words).last_hidden_state
        for caption, states, mask in zip(captions, hidden, words["attention_mask"].bool(), strict=True):
            self._kept[caption] = states[mask].cpu()

    def forward(self, batch: Mapping[str, Any]) -> Context:
        """tokens (b, n, width) with n the longest caption's; an empty caption is 'no condition'."""
        captions = batch.get("caption")
        if captions is None:
            raise KeyError("condition=clip and t5 need batch['caption']; this data has none: take condition=label or none")
        missing = [caption for caption in dict.fromkeys(captions) if caption not in self._kept]
        if missing:
            self._embed(missing)
        rows = [self._kept[caption] for caption in captions]
        while len(self._kept) > self.keep:
            self._kept.popitem(last=False)
        hidden = nn.utils.rnn.pad_sequence(rows, batch_first=True).to(self.empty.device)
        n, lengths = hidden.shape[1], torch.tensor([len(row) for row in rows], device=hidden.device)
        places = torch.arange(n, device=hidden.device)[None]
        empty = Context(tokens=self.empty.expand(1, n, -1), mask=places == 0)
        context = Context(tokens=self.project(hidden), mask=places < lengths[:, None], empty=empty)
        given = torch.tensor([float(caption != "") for caption in captions], device=hidden.device)
        return context.drop(1.0, given)
