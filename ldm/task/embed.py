"""Latents of images as a table, for whatever learns from a few numbers of an image.

A row of `latents.parquet` is an image: `name`, the path below the folder; `class`, the sub-folder that it is in, where all are in
one; `z`, the mean of q(z|x), whitened, as the prior sees it, flattened in the order (c, h, w), whose sizes stand in the file's
metadata under `shape`; of a vector quantiser `code`, integers in the order (h, w), beside the vectors. What such latents tell of
labels is measured by metric=probe, and a linear reader learns as much from them as from any table (Alain and Bengio 2016).

    error    |decode(z) - x|^2 / (c h w), the mean squared error of what the decoder makes of a latent, of pixels in [-1, 1]: a
             latent from which the image does not come back says little of it

What makes it fail: images unlike those that the first stage was trained on, which `error` shows; latents of a compressor
(`kl_*`) keep texture and place beside what things are, so a distance of latents is more of a distance of images than of meanings.

Sources:
    Alain and Bengio, Understanding Intermediate Layers Using Linear Classifier Probes (2016), arXiv 1610.01644
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ldm.files import whole_file
from ldm.model import LatentModel
from ldm.random import Random
from ldm.task.base import Answer, Found, Task


class Embed(Task):
    """The latents of images, as parquet, with what the decoder makes of them beside the images."""

    asks_prior = False

    def check(self, model: LatentModel) -> None:
        """Every model can."""

    def __call__(self, model: LatentModel, batch: Mapping[str, Any], random: Random) -> Answer:
        own, x = model.autoencoder, batch["image"]
        z = own.encode(x).mean
        decoded = own.decode(z).float().clamp(-1, 1)
        arrays = {"z": z} if own.gives != "codes" else {"z": z, "code": own.codes(x)}
        error = (decoded - x).square().flatten(1).mean(1)
        return Answer({"given": x, "decoded": decoded}, {"error": error}, arrays)

    def write(self, model: LatentModel, found: Found, folder: Path) -> list[Path]:
        import pyarrow
        from pyarrow import parquet

        columns: dict[str, Any] = {"name": list(found.names)}
        if all("/" in name for name in found.names):
            columns["class"] = [name.partition("/")[0] for name in found.names]
        for name, values in found.arrays.items():
            flat = values.flatten(1)
            columns[name] = pyarrow.FixedSizeListArray.from_arrays(flat.flatten().numpy(), flat.shape[1])
        shapes = {name: list(values.shape[1:]) for name, values in found.arrays.items()}
        table = pyarrow.table(columns).replace_schema_metadata({"shape": json.dumps(shapes)})
        with whole_file(folder / "latents.parquet") as temporary:
            parquet.write_table(table, temporary)
        return [folder / "latents.parquet"]
