"""How well a first stage gives an image back: PSNR and SSIM of images rounded to 8 bits.

    PSNR = 10 log10(255^2 / mean squared error), in dB, of each image, then averaged over images;
    SSIM (Wang et al. 2004, doi 10.1109/TIP.2003.819861; Gaussian window of 11 pixels, sigma 1.5), of each image.

Both by torchmetrics. The average of the images' PSNRs, which papers report, is not the PSNR of the average error. An
image given back without any error counts as 100 dB, where infinity would swallow the others.
"""

from __future__ import annotations

import torch

from ldm.metric.features import eight_bits
from ldm.metric.gather import gather_rows, image_hashes, set_hash
from ldm.metric.measurement import Measurement
from ldm.metric.metric import Examples, Metric

BEST_PSNR = 100.0
_SSIM_WINDOW = 11


class ReconstructionQuality(Metric):
    """`psnr` in dB and `ssim` of reconstructions: means over images with the error of the mean."""

    def __init__(self) -> None:
        self._values = [torch.zeros(0, 2, dtype=torch.float64)]
        self._hashes = [torch.zeros(0, dtype=torch.int64)]

    def add(self, examples: Examples) -> None:
        # Here, because it takes seconds to import.
        from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

        original, reconstruction = examples.real, examples.reconstruction
        if original.shape != reconstruction.shape:
            raise ValueError(f"a reconstruction of {tuple(original.shape)} came as {tuple(reconstruction.shape)}")
        if min(original.shape[-2:]) < _SSIM_WINDOW:
            raise ValueError(f"SSIM looks through {_SSIM_WINDOW} pixels; images are {tuple(original.shape[-2:])}")
        x, y = eight_bits(original), eight_bits(reconstruction)
        self._hashes.append(image_hashes(x))
        x, y = x.double(), y.double()
        psnr = peak_signal_noise_ratio(y, x, data_range=(0.0, 255.0), dim=(1, 2, 3), reduction="none")
        ssim = structural_similarity_index_measure(y, x, data_range=(0.0, 255.0), reduction="none")
        self._values.append(torch.stack([psnr.clamp(max=BEST_PSNR), ssim.view(-1)], dim=1).cpu())

    def measure(self) -> list[Measurement]:
        values, hashes = gather_rows(torch.cat(self._values)), gather_rows(torch.cat(self._hashes))
        n = len(values)
        if n == 0:
            raise ValueError("no image was added, so there is nothing to measure")
        errors = values.std(0) / n**0.5 if n > 1 else None
        return [
            Measurement(
                metric=metric,
                value=float(values[:, i].mean()),
                standard_error=None if errors is None else float(errors[i]),
                n=n,
                reference_hash=set_hash(hashes),
                rounded=True,
            )
            for i, metric in enumerate(("psnr", "ssim"))
        ]
