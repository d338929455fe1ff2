"""A package beside ldm, written for a test: its import and its building leave a mark."""

from pathlib import Path

NET = """
from pathlib import Path

from torch import nn

Path({mark!r}).touch()


class Net(nn.Module):
    def __init__(self, channels: int, context: object, *, width: int = 1):
        super().__init__()
        self.only = nn.Conv2d(channels, channels, 1)

    def forward(self, z, log_snr, c):
        return self.only(z)
"""


def write_package(folder: Path, name: str, mark: Path, entry_point: bool) -> None:
    """`folder`/`name`/net.py with a class Net; with `entry_point`, as if it were installed in the version 1.5."""
    package = folder / name
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "net.py").write_text(NET.format(mark=str(mark)))
    if entry_point:
        info = folder / f"{name}-1.5.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n")
        (info / "entry_points.txt").write_text(f"[ldm.plugins]\nany = {name}\n")


def write_words(folder: Path, group: str, word: str, text: str) -> None:
    """A yaml of a package's conf/."""
    (folder / "conf" / group).mkdir(parents=True, exist_ok=True)
    (folder / "conf" / group / f"{word}.yaml").write_text(text)
