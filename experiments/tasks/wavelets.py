"""What wavelets make of the noisy images of task=denoise: python -m experiments.tasks.wavelets FOLDER ...

FOLDER is what `ldm apply task=denoise task.add=true` has written: its pictures `noisy` and `given`, and task.json, which says the
noise. Wanted: pip install scikit-image PyWavelets. The noise is thresholded by BayesShrink, of as many levels as scikit-image
takes by itself.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from experiments.tasks.distance import pictures


def main(folders: list[str]) -> None:
    from skimage.restoration import denoise_wavelet

    for folder in map(Path, folders):
        sigma = json.loads((folder / "task.json").read_text(encoding="utf-8"))["task"].get("sigma", 0.2)
        noisy, given = (pictures(folder, name).mean(1).double() for name in ("noisy", "given"))
        made = [denoise_wavelet(((x + 1) / 2).numpy(), sigma=sigma / 2, method="BayesShrink") for x in noisy]
        found = 2 * torch.stack([torch.from_numpy(x) for x in made]).clamp(0, 1) - 1
        psnr = 10 * (4 / (found - given).square().flatten(1).mean(1)).log10()
        error = psnr.std() / len(psnr) ** 0.5
        print(f"{folder}: sigma {sigma:g}, {psnr.mean():.2f} ± {error:.2f} dB (n = {len(psnr)})", flush=True)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    main(sys.argv[1:])
