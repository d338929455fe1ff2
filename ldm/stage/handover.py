"""How a rank that rank 0 started finds its config; asked of every process first, so nothing heavy is imported here."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

CONFIG = "LDM_CONFIG"


def handed_down() -> dict[str, Any] | None:
    """The config of a rank that rank 0 started; None in any other process."""
    path = os.environ.get(CONFIG)
    if path is None or os.environ.get("LOCAL_RANK", "0") == "0":
        return None
    return json.loads(Path(path).read_text(encoding="utf-8"))
