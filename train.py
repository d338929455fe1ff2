"""Train what a config describes: python train.py experiment=shapes"""

import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig

from ldm.command.compose import begin, checked
from ldm.command.job import Value, job
from ldm.command.words import SWEEP
from ldm.stage.handover import handed_down

CONF = Path(__file__).parent / "conf"


@hydra.main(config_path="conf", config_name="config", version_base="1.3")
def main(config: DictConfig) -> Value:
    from ldm.signature import PIECES

    return job(lambda: checked(config, PIECES), train)


def train(config: dict) -> int:
    from ldm.command.terminal import guarded
    from ldm.experiment.experiment import Experiment

    return guarded(lambda: Experiment(config).run())


if __name__ == "__main__":
    begin(CONF)
    config = handed_down()
    if config is not None:
        sys.exit(train(config))
    if SWEEP & set(sys.argv):
        from ldm.command.launcher import prepared

        sys.argv[1:] = prepared(sys.argv[1:], __file__)
    main()
