"""Measure a finished run again: python evaluate.py run=DIR samples=2048 guidance=3"""

import sys

import hydra
from omegaconf import DictConfig, OmegaConf

from ldm.main import guarded


@hydra.main(config_path="conf", config_name="evaluate", version_base="1.3")
def main(config: DictConfig) -> None:
    from ldm.measuring import measure_again

    wanted = OmegaConf.to_container(config, resolve=True)
    code = guarded(lambda: measure_again(**wanted))
    if code:
        sys.exit(code)


if __name__ == "__main__":
    main()
