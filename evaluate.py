"""Measure a finished run again: python evaluate.py run=DIR samples=2048 guidance=3"""

import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig

from ldm.command.compose import begin, checked


@hydra.main(config_path="conf", config_name="evaluate", version_base="1.3")
def main(config: DictConfig) -> None:
    words = checked(config)

    from ldm.build import typed
    from ldm.command.evaluate import measure_again
    from ldm.command.terminal import guarded

    code = guarded(lambda: measure_again(**typed(measure_again, words)))
    if code:
        sys.exit(code)


if __name__ == "__main__":
    begin(Path(__file__).parent / "conf", "evaluate")
    main()
