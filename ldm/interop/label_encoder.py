"""Labels as a text encoder of `transformers`, for pipelines that know prompts alone: a CLIP without layers, and a tokenizer whose
words are the names of the classes.

Such an encoder is a table behind a layer norm, x -> gamma (x - mean) / sqrt(var + eps). Two channels are added to each token e
of the table, so that its mean is 0 and its length the same R for all: a and b with a + b = S and a^2 + b^2 = R^2 - |e|^2, where
S = -sum(e) and R^2 = max(|e|^2 + S^2 / 2). With gamma = sqrt(R^2 / d + eps) of d channels the layer norm is then the identity.
The U-Net's attention gives both channels no weight (`ldm.interop.folding.wider`).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:
    from transformers import CLIPTextModel, PreTrainedTokenizerFast

ADDED = 2
"""Channels that every token has more than the table's."""


def encoder_of(table: Float[Tensor, "n d"]) -> CLIPTextModel:
    """The text encoder that gives row i of the table, and two channels more, for the token i."""
    from transformers import CLIPTextConfig, CLIPTextModel

    rows = _spread(table.detach().double().cpu())
    count, width = rows.shape
    config = CLIPTextConfig(
        vocab_size=count, hidden_size=width, intermediate_size=1, num_hidden_layers=0, num_attention_heads=1,
        max_position_embeddings=1, bos_token_id=count - 1, eos_token_id=count - 1, pad_token_id=count - 1,
    )  # fmt: skip
    encoder = CLIPTextModel(config).eval()
    state = {name: torch.zeros_like(value) for name, value in encoder.state_dict().items()}
    gain = (rows[0].square().mean() + config.layer_norm_eps).sqrt()
    for name in state:
        if name.endswith("token_embedding.weight"):
            state[name] = rows.float()
        elif name.endswith("final_layer_norm.weight"):
            state[name] = torch.full_like(state[name], gain.item())
    encoder.load_state_dict(state)
    return encoder


def tokenizer_of(names: list[str], folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer, whose files are then in `folder`, of one token a prompt: the name of a class, or nothing at all for the last
    row of the table. Any other prompt is an error."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    folder.mkdir(parents=True, exist_ok=True)
    nothing = "<no condition>"
    words = Tokenizer(WordLevel({name: i for i, name in enumerate([*names, nothing])}, unk_token="<no such class>"))
    made = PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=1, pad_token=nothing)
    made.save_pretrained(folder)
    return made


def _spread(table: Float[Tensor, "n d"]) -> Float[Tensor, "n e"]:
    """The rows with two channels more, of mean 0 and of one length."""
    total, length = -table.sum(1), table.square().sum(1)
    square = (length + total.square() / 2).max() + 1
    apart = ((square - length) / 2 - total.square() / 4).clamp(min=0).sqrt()
    return torch.cat([table, (total / 2 + apart)[:, None], (total / 2 - apart)[:, None]], dim=1)
