"""Files that hold a program of `torch.export`: its own, and ONNX.

decoder.pt2     torch.export.load("decoder.pt2").module()(z)
decoder.onnx    onnxruntime.InferenceSession("decoder.onnx").run(None, {"z": z})
"""

from __future__ import annotations

import logging
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import torch

from ldm.build import Config


class ProgramFile(ABC):
    """A kind of file for programs. A new one writes `check`, `write` and `facts`.

    Attributes:
        suffix: of its files.
    """

    suffix: str

    @abstractmethod
    def check(self) -> None:
        """ImportError where what writes it is not there."""

    @abstractmethod
    def write(
        self, program: torch.export.ExportedProgram, inputs: Sequence[str], outputs: Sequence[str], file: Path
    ) -> None:
        """Write a program whose inputs and outputs have these names."""

    @abstractmethod
    def facts(self) -> Config:
        """What wrote it, with its version."""


class Torch(ProgramFile):
    """`torch.export.save`; the inputs come by place."""

    suffix = "pt2"

    def check(self) -> None:
        """torch is always there."""

    def write(
        self, program: torch.export.ExportedProgram, inputs: Sequence[str], outputs: Sequence[str], file: Path
    ) -> None:
        torch.export.save(program, file)

    def facts(self) -> Config:
        return {"torch": torch.__version__}


class Onnx(ProgramFile):
    """ONNX, by torch's exporter, which needs `onnx` and `onnxscript`. Weights above 2 GB are in a file beside it."""

    suffix = "onnx"

    def check(self) -> None:
        try:
            import onnx  # noqa: F401
            import onnxscript  # noqa: F401
        except ImportError as error:
            raise ImportError(f"to=onnx needs onnx and onnxscript: pip install 'ldm[onnx]' ({error})") from error

    def write(
        self, program: torch.export.ExportedProgram, inputs: Sequence[str], outputs: Sequence[str], file: Path
    ) -> None:
        for each in ("onnxscript", "onnx_ir"):
            logging.getLogger(each).setLevel(logging.WARNING)  # which tell each node that they fold
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of names of sizes that are the same, which they are meant to be
            made = torch.onnx.export(
                program, input_names=inputs, output_names=outputs, dynamo=True, verbose=False, optimize=True
            )
        made.save(file)

    def facts(self) -> Config:
        import onnx

        return {"torch": torch.__version__, "onnx": onnx.__version__}
