"""A classifier of the five attributes of shapes (ldm.data.shapes), to check whether generated images show what their captions
say.

It is a small network that is trained within seconds on rendered images, whose attributes are known. Its accuracy is measured
on other images, of the test split, and is reported with every number that depends on it. Its training images are randomly
blurred, shifted in colour and made noisy. So it reads the soft edges of an autoencoder's images as a person would, and does
not depend on details of the renderer. Agreement is the share p of n images in which it reads what the caption says, with the
standard error sqrt(p (1 - p) / n).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, UInt8
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from ldm.data.shapes import ATTRIBUTES, Shapes, parse
from ldm.metric.scene import Scene, Tensors
from ldm.random import Random
from ldm.ranks import agree
from ldm.tensors import hash_of
from ldm.types import Image

log = logging.getLogger(__name__)

NAME = "attribute_checker"
_VERSION = 1  # of the network, its images and its training
ENOUGH = 0.99  # below this accuracy the classifier's results should not be trusted


def readable(height: int, width: int) -> bool:
    """Whether the classifier takes images of this size: they have to be square, of at least 16 pixels a side, and a multiple
    of 4, because their sides are halved twice."""
    return height == width and height >= 16 and height % 4 == 0


def _layer(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]


class AttributeChecker(nn.Module):
    """The classifier: a convolutional network with a head for each of the five attributes.

    A head reads the maximum and the mean of each channel over all pixels, for what is shown, and a map of few channels with
    all its pixels, for where it is shown. Normalisation is over batches, because a normalisation over the pixels of one image
    would remove uniform colours.

    Arguments:
        size: side of the images, a multiple of 4.
        width: channels of the first layer.
    """

    def __init__(self, size: PositiveInt = 32, width: PositiveInt = 40):
        super().__init__()
        if size % 4:
            raise ValueError(f"size: wanted a multiple of 4, got {size}")
        self.size = size
        self.trunk = nn.Sequential(
            nn.PixelUnshuffle(2),
            *_layer(12, width, stride=1),
            *_layer(width, width, stride=1),
            *_layer(width, 2 * width, stride=2),
            *_layer(2 * width, 2 * width, stride=1),
        )
        self.where = nn.Sequential(nn.Conv2d(2 * width, 8, 1), nn.Flatten())
        features = 4 * width + 8 * (size // 4) ** 2
        self.heads = nn.ModuleDict({name: nn.Linear(features, len(words)) for name, words in ATTRIBUTES.items()})

    def forward(self, x: Image) -> dict[str, Float[Tensor, "b k"]]:
        """The logits (b, k) of the k words of each attribute, of images (b, 3, size, size) in [-1, 1]."""
        if x.shape[1:] != (3, self.size, self.size):
            raise ValueError(f"this checker reads images of (3, {self.size}, {self.size}), got {tuple(x.shape[1:])}")
        found = self.trunk(x)
        features = torch.cat([found.amax((2, 3)), found.mean((2, 3)), self.where(found)], 1)
        return {name: head(features) for name, head in self.heads.items()}

    @property
    def key(self) -> str:
        """A hash of its weights, by which numbers of two classifiers are told apart."""
        return hash_of(self.state_dict())[:16]

    @torch.no_grad()
    def read(self, x: Image, batch_size: int = 256) -> dict[str, Tensor]:
        """The index of the most probable word of each attribute, (b,), of images (b, 3, size, size) in [-1, 1]."""
        parts = [self(part) for part in x.split(batch_size)]
        return {name: torch.cat([part[name].argmax(1) for part in parts]) for name in ATTRIBUTES}


def to_image(pixels: UInt8[Tensor, "b h w 3"]) -> Image:
    """8-bit images (b, h, w, 3) as images in [-1, 1], (b, 3, h, w)."""
    return rearrange(pixels, "b h w c -> b c h w").float() / 127.5 - 1


def augment(x: Image, random: Random) -> Image:
    """Images with random changes like those that an autoencoder makes: a partial binomial blur of width 3, noise, and a slight
    change of contrast and colour. Half of the images have no blur, and half no noise."""
    u = {name: random.uniform(name, (1, 1, 1)) for name in ("blur", "noise", "gain")}
    kernel = torch.tensor([1.0, 2.0, 1.0], device=x.device) / 4
    kernel = (kernel[:, None] * kernel).expand(3, 1, 3, 3)
    soft = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), kernel, groups=3)
    x = x.lerp(soft, (2 * u["blur"] - 1).clamp(min=0))
    noise = random.normal("pixels", tuple(x.shape[1:]))
    x = x + 0.1 * (2 * u["noise"] - 1).clamp(min=0) * noise
    offset = 0.06 * random.normal("offset", (3, 1, 1))
    return (x * (0.95 + 0.1 * u["gain"]) + offset).clamp(-1, 1)


def _tensors(data: Shapes) -> tuple[UInt8[Tensor, "n h w 3"], dict[str, Tensor]]:
    items = [data[i] for i in range(len(data))]
    pixels = torch.stack([torch.from_numpy(item["image"]) for item in items])
    return pixels, {name: torch.tensor([item[name] for item in items]) for name in ATTRIBUTES}


def train_checker(
    seed: int = 0,
    device: torch.device | str = "cpu",
    size: PositiveInt = 32,
    steps: NonNegativeInt = 500,
    batch_size: PositiveInt = 64,
    learning_rate: PositiveFloat = 2e-3,
    images: PositiveInt = 16384,
) -> tuple[AttributeChecker, dict[str, float]]:
    """A classifier that is trained on rendered images of the train split, and its accuracy on 2048 images of the test split,
    as `accuracy` returns it. All random numbers are functions of the seed; torch's generator is left as it was.

    Arguments:
        seed: of the weights, the images and their changes.
        device: where to train.
        size: side of the images.
        steps, batch_size, learning_rate: of the training with AdamW.
        images: number of training images.
    """
    # Another seed than those of the models' data sets, so that the classifier does not know the images of an evaluation.
    pixels, truth = _tensors(Shapes(images, "train", size, seed=seed + 7_919))
    pixels, truth = pixels.to(device), {name: value.to(device) for name, value in truth.items()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        checker = AttributeChecker(size)
    checker.to(device).train()
    optimizer = torch.optim.AdamW(checker.parameters(), lr=learning_rate, weight_decay=1e-2)
    for step in range(steps):
        progress = step / steps
        rate = learning_rate * min(1.0, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * progress))
        for group in optimizer.param_groups:
            group["lr"] = rate
        random = Random(seed, step, torch.arange(batch_size, device=device))
        rows = (random.uniform("row") * images).long()
        logits = checker(augment(to_image(pixels[rows]), random))
        loss = sum(F.cross_entropy(logits[name], truth[name][rows]) for name in ATTRIBUTES)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(checker.parameters(), 1.0)
        optimizer.step()
    return checker.eval(), accuracy(checker, seed + 7_919)


def kept_checker(scene: Scene, seed: int) -> AttributeChecker:
    """The classifier for the images of a measuring, on its device. It is trained once, by the first process that wants it: on a
    GPU another training has other weights, and numbers of two classifiers are not comparable. All ranks call this.
    """
    size = scene.image_shape[-1]
    key = hash_of({}, _VERSION, size, seed)[:20]

    def make() -> Tensors:
        return agree(lambda: _trained(seed, scene.device, size))

    found = AttributeChecker(size)
    found.load_state_dict(scene.artifacts.kept(NAME, key, {"split": "train", "weights": key}, make))
    return found.to(scene.device).eval()


def _trained(seed: int, device: torch.device, size: int) -> Tensors:
    log.info("training the attribute checker on rendered images, once")
    return {name: value.cpu() for name, value in train_checker(seed, device, size)[0].state_dict().items()}


def accuracy(checker: AttributeChecker, seed: int = 0, images: PositiveInt = 2048) -> dict[str, float]:
    """The accuracy of a classifier on rendered images of the test split: the share of right images for each attribute, for
    all five at once as `joint`, and for all five among the held-out combinations as `unseen`."""
    data = Shapes(images, "test", checker.size, seed)
    facts = [data.facts(i) for i in range(images)]
    device = next(checker.parameters()).device
    result = agreement(checker, to_image(_tensors(data)[0]).to(device), [each["caption"] for each in facts])
    shares = {name: result[name]["share"] for name in (*ATTRIBUTES, "joint")}
    return shares | {
        "unseen": result["joint"]["right"].cpu()[torch.tensor([each["unseen"] for each in facts])].float().mean().item()
    }


def agreement(checker: AttributeChecker, images: Image, captions: Sequence[str]) -> dict[str, dict]:
    """How many of the images (n, 3, h, w) show what their captions say.

    Returns, for each attribute and for all five at once ("joint"): `share`, `standard_error`, and `right`, (n,) bool, with
    which groups of captions can be reported by `share_of(right[group])`. ValueError for a caption that is not one of shapes.
    """
    if len(images) != len(captions) or not captions:
        raise ValueError(f"wanted one caption for each image; got {len(images)} images and {len(captions)} captions")
    wanted = [parse(each) for each in captions]
    found = checker.read(images)
    right = {
        name: value == torch.tensor([each[name] for each in wanted], device=value.device)
        for name, value in found.items()
    }
    right["joint"] = torch.stack(list(right.values())).all(0)
    return {name: share_of(value) | {"right": value} for name, value in right.items()}


def share_of(right: Tensor) -> dict[str, float]:
    """The share of True in `right`, (n,), and its standard error; both NaN for n = 0."""
    n, share = len(right), right.float().mean().item()
    return {"share": share, "standard_error": math.sqrt(share * (1 - share) / n) if n else math.nan}
