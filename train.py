"""Train what a config describes: python train.py experiment=shapes"""

import sys

import hydra
from omegaconf import DictConfig, OmegaConf

from ldm.main import guarded, settable
from ldm.stage.launch import handed_down


@hydra.main(config_path="conf", config_name="config", version_base="1.3")
def main(config: DictConfig) -> None:
    code = guarded(lambda: train(OmegaConf.to_container(config, resolve=True, throw_on_missing=True)))
    if code:
        sys.exit(code)


def train(config: dict) -> int:
    from ldm.experiment import Experiment

    return Experiment(config).run()


if __name__ == "__main__":
    sys.argv[1:] = map(settable, sys.argv[1:])
    config = handed_down()
    sys.exit(main() if config is None else guarded(lambda: train(config)))
