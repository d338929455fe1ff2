"""PSNR and SSIM: how well a first stage reconstructs images. Both are computed for images rounded to 8 bits.

PSNR is 10 log10(255^2 / mean squared error) in dB for each image, averaged over images. SSIM is computed with a Gaussian
window of 11 pixels and sigma 1.5, with images mirrored at their borders, and averaged over images (Wang et al., Image Quality
Assessment: From Error Visibility to Structural Similarity (2004), doi 10.1109/TIP.2003.819861). Both are computed by
torchmetrics. The mean of the images' PSNRs, which papers report, is not the PSNR of the mean error. An image that is
reconstructed without any error counts as 100 dB, because with infinity the mean would be infinite.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ldm.eight_bits import eight_bits
from ldm.metric.gather import gather_rows, image_hashes, set_hash
from ldm.metric.measurement import Measurement
from ldm.metric.metric import Examples, Metric, leave_out

BEST_PSNR = 100.0
_SSIM_WINDOW = 11


class ReconstructionQuality(Metric):
    """`psnr`, in dB, and `ssim` of reconstructions: means over images with their standard errors. For images that are smaller
    than the window of SSIM there is no SSIM."""

    names = ("psnr", "ssim")

    def __init__(self) -> None:
        self._values = {name: [torch.zeros(0, dtype=torch.float64)] for name in ("psnr", "ssim")}
        self._hashes = [torch.zeros(0, dtype=torch.int64)]
        self._size: tuple[int, int] = (0, 0)

    def add(self, examples: Examples) -> None:
        # Here, because it takes seconds to import.
        from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

        original, reconstruction = examples.real, examples.reconstruction
        if original is None or reconstruction is None:
            return
        if original.shape != reconstruction.shape:
            raise ValueError(f"a reconstruction of {tuple(original.shape)} came as {tuple(reconstruction.shape)}")
        self._size = tuple(original.shape[-2:])
        x, y = eight_bits(original), eight_bits(reconstruction)
        self._hashes.append(image_hashes(x))
        x, y = x.double(), y.double()
        psnr = peak_signal_noise_ratio(y, x, data_range=(0.0, 255.0), dim=(1, 2, 3), reduction="none")
        self._values["psnr"].append(psnr.view(-1).clamp(max=BEST_PSNR).cpu())
        if min(self._size) >= _SSIM_WINDOW:
            ssim = structural_similarity_index_measure(y, x, data_range=(0.0, 255.0), reduction="none")
            self._values["ssim"].append(ssim.view(-1).cpu())

    def measure(self) -> list[Measurement]:
        values = {name: gather_rows(torch.cat(rows)) for name, rows in self._values.items()}
        reference = set_hash(gather_rows(torch.cat(self._hashes)))
        if len(values["psnr"]) == 0:
            leave_out("psnr, ssim", "at least 1 image", "0")
        elif len(values["ssim"]) == 0:
            wanted = f"images of at least {_SSIM_WINDOW} x {_SSIM_WINDOW} pixels"
            leave_out("ssim", wanted, f"{self._size[0]} x {self._size[1]}")
        return [_mean(name, rows, reference) for name, rows in values.items() if len(rows)]


def _mean(metric: str, rows: Tensor, reference: str) -> Measurement:
    n = len(rows)
    error = float(rows.std() / n**0.5) if n > 1 else None
    return Measurement(
        metric=metric, value=float(rows.mean()), standard_error=error, n=n, reference_hash=reference, rounded=True
    )
