"""Small models of ours whose weights are all drawn, for what goes out and comes in."""

import copy
import functools
import json
from pathlib import Path

import torch

from ldm.build import Config
from ldm.model import LatentModel

GROUP = {"_target_": "ldm.nn.norm.Group", "_partial_": True}
LABEL = {"_target_": "ldm.condition.label.Label", "names": ["bag", "ankle boot"], "width": 16}
NONE = {"_target_": "ldm.condition.none.Unconditional"}


def node(
    condition: Config = LABEL, schedule: str = "Cosine", parameterization: str = "Noise", **unet: object
) -> Config:
    """The nodes of a KL autoencoder of factor 2 and of a diffusion on it."""
    attends = unet.pop("attends", True)
    parts = {"_partial_": True, "width": 8, "multipliers": [1, 2], "norm": GROUP | {"eps": 1e-6, "groups": 4}}
    backbone = {"width": 16, "multipliers": [1, 2], "blocks": 1, "attention": [False, attends]}
    backbone |= {"middle_attention": attends, "head_width": 16, "norm": GROUP | {"groups": 8}, **unet}
    diffusion = "ldm.diffusion"
    return {
        "autoencoder": {
            "_target_": "ldm.autoencoder.autoencoder.Autoencoder",
            "image_shape": [3, 16, 16],
            "encoder": parts | {"_target_": "ldm.autoencoder.convnet.Encoder", "blocks": 1, "mix": True},
            "decoder": parts | {"_target_": "ldm.autoencoder.convnet.Decoder", "blocks": 2},
            "bottleneck": {"_target_": "ldm.autoencoder.bottleneck.DiagonalGaussian", "channels": 3},
        },
        "condition": condition,
        "prior": {
            "_target_": "ldm.prior.diffusion.Diffusion",
            "backbone": {"_target_": "ldm.backbone.unet.UNet", "_partial_": True, **backbone},
            "schedule": {"_target_": f"{diffusion}.schedule.{schedule}"},
            "parameterization": {"_target_": f"{diffusion}.parameterization.{parameterization}"},
            "weighting": {"_target_": f"{diffusion}.weighting.Uniform"},
            "time": {"_target_": f"{diffusion}.time.Uniform"},
            "sampler": {"_target_": f"{diffusion}.sampler.ddim.DDIM"},
            "grid": {"_target_": f"{diffusion}.grid.Trailing"},
            "guidance": {"_target_": f"{diffusion}.guidance.classifier_free.ClassifierFree", "_partial_": True},
            "steps": 4,
        },
    }


def drawn(nodes: Config) -> LatentModel:
    """The model of these nodes with weights that are drawn, and latents that are whitened channel by channel."""
    model = LatentModel.build(copy.deepcopy(nodes)).eval()
    scatter(model)
    model.autoencoder.set_statistics(torch.tensor([0.1, -0.3, 0.5]), torch.tensor([0.5, 2.0, 1.5]))
    return model


@torch.no_grad()
def scatter(module: torch.nn.Module) -> None:
    """Move all weights, so that none is what it began as."""
    for p in module.parameters():
        p.add_(0.1 * torch.randn_like(p))


@functools.cache
def labelled() -> LatentModel:
    """One of labels, made once."""
    return drawn(node())


def write_clip(folder: Path) -> Path:
    """Write a small CLIP text encoder, whose weights are all drawn, and its tokenizer of three letters; the folder."""
    import transformers

    folder.mkdir(parents=True, exist_ok=True)
    words = ["<|startoftext|>", "<|endoftext|>", *"abc", *(f"{letter}</w>" for letter in "abc")]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    tokenizer.save_pretrained(folder)
    config = transformers.CLIPTextConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=8, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    torch.manual_seed(0)
    encoder = transformers.CLIPTextModel(config)
    with torch.no_grad():
        for p in encoder.parameters():
            p.add_(0.3 * torch.randn_like(p))
    encoder.save_pretrained(folder)
    return folder
