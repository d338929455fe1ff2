"""How bright samples are on average, less how bright held-out images are: 0 where both are alike, in units of [-1, 1]."""

import torch

from ldm.metric.gather import gather_rows
from ldm.metric.measurement import Measurement
from ldm.metric.metric import Examples, Metric


class Brightness(Metric):
    """`brightness`, with the error of a mean of paired differences. Of a first stage alone, that of reconstructions."""

    def __init__(self) -> None:
        self._differences = [torch.zeros(0)]

    def add(self, examples: Examples) -> None:
        if examples.real is None:  # further samples, when all held-out images have come
            return
        made = examples.reconstruction if examples.generated is None else examples.generated
        self._differences.append((made - examples.real).flatten(1).mean(1).cpu())

    def measure(self) -> list[Measurement]:
        rows = gather_rows(torch.cat(self._differences))  # of all ranks
        error = float(rows.std() / len(rows) ** 0.5) if len(rows) > 1 else None
        return [Measurement(metric="brightness", value=float(rows.mean()), standard_error=error, n=len(rows))]
