"""Perceptual distances of reconstructions from their images: LPIPS (Zhang et al. 2018, equation 1), or distances of the same
form in the features of other networks (ldm.loss.feature_distance), each under a name of its own.

Images are rounded to 8 bits first, and a distance is averaged over images. Small images are enlarged to the least side that the
network takes. A distance that a loss was trained by says less of its reconstructions than one that it never saw.

Sources:
    Zhang et al., The Unreasonable Effectiveness of Deep Features as a Perceptual Metric (2018), arXiv 1801.03924
"""

from __future__ import annotations

import dataclasses

import torch

from ldm.eight_bits import eight_bits
from ldm.loss.perceptual import Perceptual
from ldm.metric.gather import gather_rows, image_hashes, set_hash
from ldm.metric.likelihood import mean_of
from ldm.metric.measurement import Measurement
from ldm.metric.metric import Examples, Metric, leave_out


class PerceptualDistances(Metric):
    """The mean over reconstructions of each distance, with its standard error, under the distance's name.

    Arguments:
        distances: by the names of their numbers.
    """

    def __init__(self, distances: dict[str, Perceptual]):
        self.distances, self.names = distances, tuple(distances)
        self._values = [torch.zeros(0, len(distances), dtype=torch.float64)]
        self._hashes = [torch.zeros(0, dtype=torch.int64)]

    @torch.no_grad()
    def add(self, examples: Examples) -> None:
        if examples.real is None or examples.reconstruction is None:
            return
        x, y = eight_bits(examples.real), eight_bits(examples.reconstruction)
        self._hashes.append(image_hashes(x))
        x, y = x.float() / 127.5 - 1, y.float() / 127.5 - 1
        found = [each.to(x.device)(x, y) for each in self.distances.values()]
        self._values.append(torch.stack(found, 1).double().cpu())

    def measure(self) -> list[Measurement]:
        values, hashes = gather_rows(torch.cat(self._values)), gather_rows(torch.cat(self._hashes))
        if len(values) == 0:
            leave_out(", ".join(self.distances), "at least 1 image", "0")
            return []
        return [
            dataclasses.replace(mean_of(name, values[:, i], set_hash(hashes), None), features=name, rounded=True)
            for i, name in enumerate(self.distances)
        ]
