"""A trained model in Python:

    import ldm

    model = ldm.load("runs/first").to("cuda")
    pictures = model.sample(captions=["a large blue star"], n=4, guidance=3, steps=10, seed=0)
    z = model.encode(["a.png", "b.png"])
    again = model.decode(z)

What is drawn is what `ldm sample` and `ldm apply` draw of the same words and seed: image i is a function of (seed, i) and its
condition, whatever the batch and the device, up to rounding. Images come as `ldm.data.inputs` says: files, a folder, PIL images,
numpy's uint8, tensors in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor

from ldm import plugins as plugin
from ldm.condition.label import Label
from ldm.data.inputs import Inputs
from ldm.model import LatentModel, Weights
from ldm.prior.base import Likelihood
from ldm.random import Random
from ldm.run import hub
from ldm.run.load import Drawing, check_trained
from ldm.run.machine import device_of
from ldm.task.base import Task, lacking
from ldm.task.tools.conditions import check_whole, conditions, draw
from ldm.task.tools.done import Done, Pictures, in_memory, pictures
from ldm.task.tools.glimpse import Glimpse, watched
from ldm.task.tools.rows import Rows
from ldm.types import Codes, Image, Latent

Captions = str | Sequence[str] | None
Labels = str | int | Sequence[str | int] | None


def load(
    run: str | Path,
    weights: Weights = "average",
    ema: float | None = None,
    device: str | torch.device = "cpu",
    drawing: Drawing | None = None,
    plugins: Sequence[str] = (),
    revision: str | None = None,
) -> Model:
    """The model of a finished run, or of a name on the Hugging Face hub.

    Arguments:
        run: a run's directory, its `model/`, or `user/name` where there is no such directory.
        weights: the averaged ones, `raw` as the optimiser left them, or `best` of the evaluations in training.
        ema: relative width of another average, rebuilt from the run's snapshots.
        drawing: how samples are drawn, where not as in the run.
        plugins: packages whose code the model needs and you trust.
        revision: on the hub: a branch, a tag or a commit.

    Raises:
        FileNotFoundError, ConfigError, ValueError: what is wrong with the files.
    """
    plugin.name(plugins)
    folder = hub.located(run, revision)
    return Model((drawing or Drawing()).load(str(folder), weights, ema, device_of(device)), folder)


class Model:
    """A trained model, to draw images, to read and to write latents, and to do tasks.

    Arguments:
        model: the model itself, in evaluation mode.
        folder: where it was loaded from.

    Attributes:
        model: the same; all that the rest of the package knows of it.
    """

    def __init__(self, model: LatentModel, folder: Path | None = None):
        self.model, self._folder = model.eval(), folder

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(c, h, w) of its images."""
        return self.model.autoencoder.image_shape

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of its classes, where it is conditioned on classes with names."""
        own = self.model.condition.find(Label)
        return () if own is None else own.names

    def __repr__(self) -> str:
        own, condition = self.model, ", ".join(self.model.condition.needs) or "nothing"
        return (
            f"Model({self._folder}, {type(own.prior).__name__}, images {self.image_shape}, conditioned on {condition})"
        )

    def to(self, device: str | torch.device) -> Model:
        """The same model on a device, as "cuda"; ValueError where this machine has none of this name."""
        self.model.to(device_of(device))
        return self

    def sample(
        self,
        captions: Captions = None,
        labels: Labels = None,
        n: PositiveInt = 1,
        guidance: float | int | None = None,
        steps: int | None = None,
        negative: str | None = None,
        prior: Mapping[str, Any] | None = None,
        seed: int = 0,
        batch: PositiveInt = 64,
        tensors: bool = False,
        watch: Callable[[Glimpse], None] | None = None,
    ) -> Pictures | Image:
        """Images: `n` of each caption or of each label, one after the other, or `n` where neither is given.

        Arguments:
            labels: classes, by name or number.
            guidance, steps: scale and number of steps of this call; None as in the run.
            negative: a caption to move away from.
            prior: other words of sampling for this call, as {"temperature": 0.8}.
            batch: images at once.
            tensors: (n, c, h, w) in [-1, 1] and not PIL images.
            watch: told of the samples of each batch while they form (ldm.task.tools.glimpse); never by a prior that draws at
                once.
        """
        if n < 1 or batch < 1:
            raise ValueError(f"n={n}, batch={batch}: both are at least 1")
        self._check_trained()
        check_whole(self.model)
        with Drawing(None, guidance, steps, prior).applied(self.model), watched(self.model, watch):
            asked = conditions(self.model, _many(captions), _many(labels), n, negative)
            found = [draw(self.model, asked, rows, seed) for rows in _parts(asked.count, batch)]
        return torch.cat(found) if tensors else pictures(torch.cat(found))

    @torch.no_grad()
    def encode(self, images: Any, seed: int | None = None) -> Latent | Codes:
        """What the prior models, of each image: latents (b, c, h, w), whitened, on the model's device; the codes (b, h, w) of a
        vector quantiser whose codes it models; or the images themselves.

        Arguments:
            seed: of a draw from q(z|x); without it the mean of q(z|x) is given.
        """
        own = self.model
        x = self._inputs(images)
        if seed is not None or own.prior.reads == "codes":
            return own.latent({"image": x}, _random(x, seed or 0))
        return own.autoencoder.encode(x).mean

    @torch.no_grad()
    def decode(self, z: Latent | Codes, tensors: bool = False) -> Pictures | Image:
        """The images of what `encode` gives or the prior models."""
        shape = tuple(self.model.prior.latents.batch(len(z)))
        if tuple(z.shape) != shape:
            raise ValueError(f"wanted {shape}, what encode gives of {len(z)} images; got {tuple(z.shape)}")
        x = self.model.decode(z.to(self.model.device))
        return x if tensors else pictures(x)

    @torch.no_grad()
    def log_prob(
        self,
        images: Any,
        captions: Captions = None,
        labels: Labels = None,
        seed: int = 0,
    ) -> Float[Tensor, " b"]:
        """log p(z | c) of each image in nats, (b,), with z drawn from q(z|x) by the seed.

        It is a density of latents and of this first stage alone; bits per dimension of pixels are a metric's
        (`metric=bits_per_dim`). ValueError where the prior has no densities.
        """
        if not isinstance(self.model.prior, Likelihood):
            raise ValueError(lacking("log_prob", self.model, Likelihood, "densities"))
        x = self._inputs(images)
        batch = self._conditioned(x, captions, labels)
        random = _random(x, seed)
        return self.model.prior.log_prob(self.model.latent(batch, random), self.model.condition(batch), random)

    def compress(
        self,
        images: Any,
        captions: Captions = None,
        labels: Labels = None,
        step: float | int | None = None,
    ) -> list[bytes]:
        """A small file of each image, the same whatever the others are (ldm.task.compress). ValueError where the prior cannot.

        Arguments:
            captions, labels: of the images; they are kept in the files. A right one makes a file shorter.
            step: of the grid that latents are put on; None is 0.5.
        """
        from ldm.task.tools.coder import Coder, check, conditions_of

        self._check_trained()
        check(self.model, "compress", step)
        x = self._inputs(images)
        batch, coder = self._conditioned(x, captions, labels), Coder(self.model, step)
        return [coder.compressed(x[i : i + 1], said).file for i, said in enumerate(conditions_of(batch))]

    def decompress(self, files: Any, tensors: bool = False) -> Pictures | Image:
        """The images of files, each as bytes, that `compress` or task=compress has made with this model.

        Raises:
            ValueError: a file is none, is damaged, is of another model, or cannot be decoded on this machine.
        """
        from ldm.task.tools.coder import Coder, check

        check(self.model, "decompress")
        if isinstance(files, bytes) or not files or not all(isinstance(file, bytes) for file in files):
            raise ValueError("decompress takes a list of files, one at least, each as bytes: what compress gives")
        coder, names = Coder(self.model), [f"file {i}" for i in range(len(files))]
        opened = [coder.opened(file, name) for file, name in zip(files, names, strict=True)]
        x = torch.cat([coder.decompressed(file, name) for file, name in zip(opened, names, strict=True)])
        return x if tensors else pictures(x)

    def apply(
        self,
        task: Task,
        images: Any = None,
        others: Any = None,
        caption: Captions = None,
        label: Labels = None,
        guidance: float | int | None = None,
        steps: int | None = None,
        seed: int = 0,
        batch: PositiveInt = 64,
        watch: Callable[[Glimpse], None] | None = None,
    ) -> Done:
        """Do a task of ldm.task with images; what `ldm apply` does, in memory.

        Arguments:
            others: further images, whose numbers are told apart; None takes those that the task names.
            caption, label: of all rows, or a list with one for each.
            guidance, steps: of this call; None as in the run.
            watch: as of `sample`, of a task that draws from noise, as filling in does.
        """
        own, shape = self.model, self.image_shape
        if task.asks_prior:
            self._check_trained()
        task.check(own)
        others = task.others if others is None else others
        given = None if images is None else Inputs(images, shape)
        beside = None if others is None else Inputs(others, shape, "others")
        with Drawing(None, guidance, steps).applied(self.model), watched(self.model, watch):
            asked = conditions(own, _many(caption), _many(label), said=("caption", "label"))
            rows = Rows(task, own, given, beside, asked, seed)
            return in_memory(rows, batch)

    def interpolate(self, images: Any, frames: int = 9, seed: int = 0) -> Done:
        """Frames from each image to the next, along an arc of noise (ldm.task.interpolate)."""
        from ldm.task.interpolate import Interpolate

        return self.apply(Interpolate(frames=frames), images, seed=seed)

    def edit(
        self,
        images: Any,
        caption: Captions = None,
        label: Labels = None,
        strength: float = 0.6,
        guidance: float | int | None = None,
        steps: int | None = None,
        seed: int = 0,
    ) -> Pictures:
        """Images as a caption or a label asks for them (ldm.task.edit)."""
        from ldm.task.edit import Edit

        return self._one("edited", Edit(strength), images, caption, label, guidance, steps, seed)

    def inpaint(
        self,
        images: Any,
        mask: str | PIL.Image.Image | np.ndarray | Tensor,
        caption: Captions = None,
        label: Labels = None,
        guidance: float | int | None = None,
        steps: int | None = None,
        seed: int = 0,
    ) -> Pictures:
        """Images with the hole of a mask filled in (ldm.task.inpaint).

        Arguments:
            mask: a word or a file (ldm.task.tools.hole), or an image or array of the model's size, white or 1 where it is
                filled in.
        """
        from ldm.task.inpaint import Inpaint
        from ldm.task.tools.hole import painted

        hole = mask if isinstance(mask, str) else painted(mask)
        return self._one("filled", Inpaint(hole), images, caption, label, guidance, steps, seed)

    def super_resolution(
        self,
        images: Any,
        factor: int | None = None,
        caption: Captions = None,
        label: Labels = None,
        guidance: float | int | None = None,
        steps: int | None = None,
        seed: int = 0,
    ) -> Pictures:
        """Images with `factor` times the pixels of their averages, a side (ldm.task.super_resolution).

        Arguments:
            factor: None is what the run was trained for, or 2.
        """
        from ldm.task.super_resolution import SuperResolution

        return self._one("made", SuperResolution(factor=factor), images, caption, label, guidance, steps, seed)

    def denoise(
        self,
        images: Any,
        sigma: float = 0.2,
        caption: Captions = None,
        label: Labels = None,
        guidance: float | int | None = None,
        steps: int | None = None,
        seed: int = 0,
    ) -> Pictures:
        """Images without their noise of deviation `sigma`, in units of pixels in [-1, 1] (ldm.task.denoise)."""
        from ldm.task.denoise import Denoise

        return self._one("denoised", Denoise(sigma=sigma), images, caption, label, guidance, steps, seed)

    def uncertainty(self, images: Any, noise: float = 0.5, draws: int = 8, seed: int = 0) -> Done:
        """Draws of each image from its latent under noise: mean, deviation, error (ldm.task.uncertainty)."""
        from ldm.task.uncertainty import Uncertainty

        return self.apply(Uncertainty(noise, draws), images, seed=seed)

    def anomaly(self, images: Any, others: Any = None, seed: int = 0) -> Done:
        """How unlike the training data images are, and how well each score tells others from them (ldm.task.anomaly)."""
        from ldm.task.anomaly import Anomaly

        return self.apply(Anomaly(), images, others, seed=seed)

    def save(self, folder: str | Path) -> None:
        """Write the model, as safetensors and plain config, for `load`."""
        self.model.save(Path(folder))

    def push_to_hub(
        self, name: str, private: bool = True, message: str = "A model of ldm", token: str | None = None
    ) -> str:
        """Put the model on the Hugging Face hub, with a card made from its run's records; its address.

        Arguments:
            name: `user/name`; made where it is not there.
            private: whether only its owner sees a repository that is made.
            token: of the hub; None is the one that `hf auth login` has kept.
        """
        return hub.push(self.model, self._folder, name, private, message, token)

    # Tools

    def _one(
        self,
        name: str,
        task: Task,
        images: Any,
        caption: Captions,
        label: Labels,
        guidance: float | int | None,
        steps: int | None,
        seed: int,
    ) -> Pictures:
        """The pictures of one name that a task makes."""
        return self.apply(task, images, None, caption, label, guidance, steps, seed).pictures[name]

    def _check_trained(self) -> None:
        if self._folder is not None:
            check_trained(self.model, self._folder)

    def _conditioned(self, x: Image, captions: Any, labels: Any) -> dict[str, Any]:
        """A batch of images with a caption or a label for each, or one for all; ValueError where they are not as many."""
        asked = conditions(self.model, _many(captions), _many(labels))
        asked.check(len(x))
        return asked.batch(range(len(x)), x.device) | {"image": x}

    def _inputs(self, images: Any) -> Image:
        inputs = Inputs(images, self.image_shape)
        return inputs.batch(range(len(inputs))).to(self.model.device)


def _random(x: Tensor, seed: int) -> Random:
    return Random(seed, 0, torch.arange(len(x), device=x.device))


def _many(words: Any) -> Any:
    """A word alone as a list of one."""
    return [words] if isinstance(words, str | int) else words


def _parts(count: int, batch: int) -> Iterator[list[int]]:
    for start in range(0, count, batch):
        yield list(range(start, min(start + batch, count)))
