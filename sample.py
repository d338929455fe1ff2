"""Images from a run: python sample.py run=DIR prompt="a large blue star at the bottom on a black background" n=16"""

import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf

from ldm.words import at_home, heard


@hydra.main(config_path="conf", config_name="sample", version_base="1.3")
def main(config: DictConfig) -> None:
    from ldm.main import guarded
    from ldm.sampling import sample
    from ldm.settings import typed

    code = guarded(lambda: sample(**typed(sample, at_home(OmegaConf.to_container(config, resolve=True)))))
    if code:
        sys.exit(code)


if __name__ == "__main__":
    sys.argv[1:] = heard(sys.argv[1:], Path(__file__).parent / "conf", "sample")
    main()
