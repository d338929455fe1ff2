"""Images from a run: python sample.py run=DIR prompt="a large blue star at the bottom on a black background" n=16"""

import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig

from ldm.command.compose import begin, checked


@hydra.main(config_path="conf", config_name="sample", version_base="1.3")
def main(config: DictConfig) -> None:
    words = checked(config)

    from ldm.build import typed
    from ldm.command.sample import sample
    from ldm.command.terminal import guarded

    code = guarded(lambda: sample(**typed(sample, words)))
    if code:
        sys.exit(code)


if __name__ == "__main__":
    begin(Path(__file__).parent / "conf", "sample")
    main()
