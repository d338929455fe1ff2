"""Measure a finished run again: python evaluate.py run=DIR samples=2048 guidance=3"""

import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf

from ldm.main import guarded, misspelt, settable


@hydra.main(config_path="conf", config_name="evaluate", version_base="1.3")
def main(config: DictConfig) -> None:
    from ldm.measuring import measure_again

    wanted = OmegaConf.to_container(config, resolve=True)
    code = guarded(lambda: measure_again(**wanted))
    if code:
        sys.exit(code)


if __name__ == "__main__":
    sys.argv[1:] = map(settable, sys.argv[1:])
    wrong = misspelt(sys.argv[1:], Path(__file__).parent / "conf", "evaluate")
    if wrong:
        sys.exit(wrong)
    main()
