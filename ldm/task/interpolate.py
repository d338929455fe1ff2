"""From one image to the next, through images: along an arc of noise, or straight through latents.

    Arc     u(t) = slerp(to_noise(z_0), to_noise(z_1); t),  z(t) = from_noise(u(t))     (Shoemake 1985; ldm.metric.path_length)
    Line    z(t) = (1 - t) z_0 + t z_1

and the frames are decode(z(t)) at equal steps of t. Noise on an arc has the length of noise, so each point between is as
probable as its ends; a straight line of noise passes through vectors that are too short, of which a model makes images without
contrast. The middle of two latents is mostly no latent of an image: the decoder cross-fades them.

    path_length         sum over the frames of d(x_k, x_k+1), with a perceptual distance d
    detour              path_length / d(x_0, x_n): 1 where the frames lie straight between the ends, as a cross-fade does
    round_trip          root mean square of decode(from_noise(to_noise(z_0))) - decode(z_0), 0 of a line: how well the arc begins
    to_real             with `real`: root mean squared distance of the middle frame to the nearest of some real images
    crossfade_to_real   so of the mean of the two given images, than which the middle frame is to be nearer

What makes it fail: a diffusion's inversion in few steps, which `round_trip` shows; a prior that has learnt little, of whose
arcs the middle is as bad as its samples; codes, which do not change by degrees, and so know lines of their vectors alone.

Sources:
    Shoemake, Animating Rotation with Quaternion Curves (1985), doi 10.1145/325165.325242
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import PIL.Image
import torch
from pydantic import Field
from torch import Tensor

from ldm.constructed import Constructed
from ldm.data.inputs import Inputs
from ldm.files import whole_file
from ldm.loss.perceptual import LaplacianPyramid, Perceptual
from ldm.metric.path_length import slerp
from ldm.model import LatentModel
from ldm.random import Random
from ldm.task.base import Answer, Found, Task, apart, lacks
from ldm.task.tools.inversion import REVERSIBLE, Inversion
from ldm.types import Context, Image, Latent

_SECONDS, _SIDE = 0.08, 128  # of a frame of the animation; its least side in pixels


class Route(Constructed, ABC):
    """How to get from one latent to another. A new one writes `at` and says what it needs.

    Attributes:
        asks_prior: whether it asks the prior.
    """

    asks_prior: bool = True

    @abstractmethod
    def check(self, task: Task, model: LatentModel) -> None:
        """ValueError where the model does not know this way."""

    @abstractmethod
    def at(self, model: LatentModel, a: Latent, b: Latent, t: Tensor, c: Context) -> list[Latent]:
        """The latents (b, c, h, w) at each place of t (n,) in [0, 1] between a and b."""


class Arc(Route):
    """Along an arc of the noise that the two latents are made of.

    Arguments:
        inversion: how a diffusion finds its noise.
    """

    def __init__(self, inversion: Inversion | None = None):
        self.inversion = inversion or Inversion()

    def check(self, task: Task, model: LatentModel) -> None:
        lacks(task, model, REVERSIBLE, "a way from latents to noise")

    def at(self, model: LatentModel, a: Latent, b: Latent, t: Tensor, c: Context) -> list[Latent]:
        u, v = (self.inversion.to_noise(model, z, c) for z in (a, b))
        places = (place.expand(len(a)) for place in t.to(a.device))
        return [self.inversion.from_noise(model, slerp(u, v, place), c) for place in places]


class Line(Route):
    """Straight through the latents."""

    asks_prior = False

    def check(self, task: Task, model: LatentModel) -> None:
        """Every first stage can."""

    def at(self, model: LatentModel, a: Latent, b: Latent, t: Tensor, c: Context) -> list[Latent]:
        return [torch.lerp(a, b, float(place)) for place in t]


class Interpolate(Task):
    """Frames from each image to the next: a row of pictures, an animation through all of them, and how long the way is.

    Arguments:
        route: by which way; an arc of noise or a line.
        frames: of a pair, both ends among them.
        distance: perceptual, of which a way's length is the sum; by default that of a Laplacian pyramid, which needs no network.
        real: a file or a folder of real images, to the nearest of which the middles' distance is told.
    """

    takes = 2

    def __init__(
        self,
        route: Route | None = None,
        frames: Annotated[int, Field(ge=2)] = 9,
        distance: Perceptual | None = None,
        real: Path | None = None,
    ):
        self.route, self.frames, self.distance = route or Arc(), frames, distance or LaplacianPyramid()
        self.real, self.asks_prior, self._real = real, self.route.asks_prior, None

    def check(self, model: LatentModel) -> None:
        self.route.check(self, model)

    def begin(self, model: LatentModel) -> None:
        if self.real is not None:
            inputs = Inputs(self.real, model.autoencoder.image_shape, "task.real")
            self._real = inputs.batch(range(len(inputs)))

    def __call__(self, model: LatentModel, batch: Mapping[str, Any], random: Random) -> Answer:
        x, y, own = batch["image"][:, 0], batch["image"][:, 1], model.autoencoder
        a, b = own.encode(x).mean, own.encode(y).mean
        t = torch.linspace(0, 1, self.frames)
        found = self.route.at(model, a, b, t, model.condition(batch))
        frames = [own.decode(z).float().clamp(-1, 1) for z in found]
        d = self.distance.to(x.device)
        steps = torch.stack([d(p, q) for p, q in itertools.pairwise(frames)])
        direct = d(frames[0], frames[-1]).double()
        numbers = {
            "path_length": steps.sum(0).double(),
            "detour": (steps.sum(0) / direct).where(direct > 1e-6, torch.nan),
            "round_trip": apart(frames[0], own.decode(a).float().clamp(-1, 1)),
        }
        if self._real is not None:
            numbers |= {
                "to_real": self._nearest(frames[self.frames // 2]),
                "crossfade_to_real": self._nearest((x + y) / 2),
            }
        pictures = {f"{place:.2f}": frame for place, frame in zip(t.tolist(), frames, strict=True)}
        return Answer({"given": x, **pictures, "next": y}, numbers)

    def _nearest(self, x: Image) -> Tensor:
        """The root mean squared distance (b,) of images to the nearest real one."""
        real = self._real.to(x.device).flatten(1)
        return torch.cdist(x.flatten(1), real).min(1).values / real.shape[1] ** 0.5

    def write(self, model: LatentModel, found: Found, folder: Path) -> list[Path]:
        frames = [picture for row in range(len(found.names)) for picture in list(found.pictures(row).values())[1:-1]]
        scale = max(1, -(-_SIDE // frames[0].shape[-1]))
        shown = [PIL.Image.fromarray(frame.permute(1, 2, 0).numpy()) for frame in frames]
        shown = [each.resize((each.width * scale, each.height * scale), PIL.Image.Resampling.NEAREST) for each in shown]
        with whole_file(folder / "walk.gif") as temporary:
            shown[0].save(
                temporary, "GIF", save_all=True, append_images=shown[1:], duration=int(1000 * _SECONDS), loop=0
            )
        return [folder / "walk.gif"]
