"""Measure a finished run again: python evaluate.py run=DIR samples=2048 guidance=3"""

import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf

from ldm.words import at_home, heard


@hydra.main(config_path="conf", config_name="evaluate", version_base="1.3")
def main(config: DictConfig) -> None:
    from ldm.main import guarded
    from ldm.measuring import measure_again
    from ldm.settings import typed

    code = guarded(lambda: measure_again(**typed(measure_again, at_home(OmegaConf.to_container(config, resolve=True)))))
    if code:
        sys.exit(code)


if __name__ == "__main__":
    sys.argv[1:] = heard(sys.argv[1:], Path(__file__).parent / "conf", "evaluate")
    main()
