"""Train what a config describes: python train.py experiment=shapes"""

import sys

import hydra
from omegaconf import DictConfig, OmegaConf

from ldm.main import guarded, settable
from ldm.stage.launch import handed_down


@hydra.main(config_path="conf", config_name="config", version_base="1.3")
def main(config: DictConfig) -> None:
    code = run(OmegaConf.to_container(config, resolve=True))
    if code:
        sys.exit(code)


def run(config: dict) -> int:
    from ldm.experiment import Experiment

    return guarded(lambda: Experiment(config).run())


if __name__ == "__main__":
    sys.argv[1:] = map(settable, sys.argv[1:])
    config = handed_down()
    sys.exit(main() if config is None else run(config))
