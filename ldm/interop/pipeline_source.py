"""Where a pipeline of diffusers is: a directory, or a copy of a name on the hub, of which configs, tokenizers and safetensors of
the parts that are read are fetched and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

_PARTS = ("unet", "vae", "vqvae", "text_encoder", "scheduler", "tokenizer")
_WANTED = [
    "model_index.json",
    "tokenizer/*",
    *(f"{part}/*.{kind}" for part in _PARTS for kind in ("json", "safetensors")),
]
_HALVES = ["*.fp16.*", "*.fp16-*", "*.bf16.*", "*.bf16-*"]
_NAME = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


def located(source: str) -> Path:
    """The directory or file of this name, or the copy of what the hub has under it; FileNotFoundError where there is neither.

    Weights of half precision are fetched where a U-Net has no others.
    """
    given = Path(source)
    if given.exists():
        return given
    if not _NAME.fullmatch(source):
        raise FileNotFoundError(
            f"source={source}: no such directory or file; wanted the directory of a pipeline of diffusers, its name on the hub "
            "(owner/name), or a .safetensors or .ckpt file of CompVis's code"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    never = ["*non_ema*"]
    try:
        folder = Path(snapshot_download(source, allow_patterns=_WANTED, ignore_patterns=[*never, *_HALVES]))
        if not list(folder.glob("unet/*.safetensors")):
            folder = Path(snapshot_download(source, allow_patterns=_WANTED, ignore_patterns=never))
    except (HfHubHTTPError, LocalEntryNotFoundError) as error:
        said = str(error).strip().partition("\n")[0]
        raise FileNotFoundError(
            f"source={source}: there is no such directory or file here, and the hub does not give it: {said}"
        ) from error
    return folder
