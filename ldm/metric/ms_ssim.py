"""MS-SSIM of reconstructions: structural similarity at five scales, each of half the side of the one before (Wang et al. 2003).

It is the product over scales of contrast and structure, and at the last one of luminance, too, each to a published power; of
images rounded to 8 bits, by torchmetrics, averaged over images. Sides of less than 176 pixels have no five scales for its
window of 11 pixels; SSIM, at one scale, is what there is of them (ldm.metric.reconstruction). It agrees with viewers better than
SSIM does where they look from another distance, and as little as SSIM where texture is made up and not copied.

Sources:
    Wang et al., Multiscale Structural Similarity for Image Quality Assessment (2003), doi 10.1109/ACSSC.2003.1292216
"""

from __future__ import annotations

import dataclasses

import torch

from ldm.eight_bits import eight_bits
from ldm.metric.gather import gather_rows, image_hashes, set_hash
from ldm.metric.likelihood import mean_of
from ldm.metric.measurement import Measurement
from ldm.metric.metric import Examples, Metric, leave_out

SMALLEST = 176  # pixels of a side: 11 of the window at a sixteenth


class MultiscaleSSIM(Metric):
    """`ms_ssim` of reconstructions: the mean over images with its standard error; left out of images below 176 pixels a side."""

    names = ("ms_ssim",)

    def __init__(self) -> None:
        self._values = [torch.zeros(0, dtype=torch.float64)]
        self._hashes = [torch.zeros(0, dtype=torch.int64)]
        self._size: tuple[int, int] = (0, 0)

    def add(self, examples: Examples) -> None:
        # Here, because it takes seconds to import.
        from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

        if examples.real is None or examples.reconstruction is None:
            return
        self._size = tuple(examples.real.shape[-2:])
        if min(self._size) < SMALLEST:
            return
        x, y = eight_bits(examples.real), eight_bits(examples.reconstruction)
        self._hashes.append(image_hashes(x))
        found = multiscale_structural_similarity_index_measure(
            y.double(), x.double(), data_range=255.0, reduction="none"
        )
        self._values.append(found.view(-1).cpu())

    def measure(self) -> list[Measurement]:
        values, hashes = gather_rows(torch.cat(self._values)), gather_rows(torch.cat(self._hashes))
        if len(values) == 0:
            leave_out(
                "ms_ssim", f"images of at least {SMALLEST} x {SMALLEST} pixels", f"{self._size[0]} x {self._size[1]}"
            )
            return []
        return [dataclasses.replace(mean_of("ms_ssim", values, set_hash(hashes), None), rounded=True)]
