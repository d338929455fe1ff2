"""Train what a config describes: python train.py experiment=shapes"""

import sys
from pathlib import Path

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from ldm.words import SWEEP, at_home, heard, left_open

CONF = Path(__file__).parent / "conf"


@hydra.main(config_path="conf", config_name="config", version_base="1.3")
def main(config: DictConfig) -> None:
    missing = left_open(OmegaConf.to_container(config, resolve=False))
    if missing:
        sys.exit(f"to be given: {' '.join(f'{key}=...' for key in missing)}")
    code = guarded(lambda: train(at_home(OmegaConf.to_container(config, resolve=True))))
    if code:
        sys.exit(code)


def train(config: dict) -> int:
    from ldm.experiment import Experiment

    return Experiment(config).run()


def train_all(words: list[str]) -> int:
    """A sweep: every combination of the words that hold several values."""
    from ldm.sweep import sweep

    jobs = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(words), None)[0]
    with hydra.initialize_config_dir(str(CONF.resolve()), version_base="1.3"):
        runs = at_home({"runs": hydra.compose("config", jobs[0]).runs})["runs"]
    return sweep(jobs, Path(runs), __file__)


if __name__ == "__main__":
    sys.argv[1:] = heard(sys.argv[1:], CONF)

    from ldm.main import guarded
    from ldm.stage.launch import handed_down

    config = handed_down()
    if config is not None:
        sys.exit(guarded(lambda: train(config)))
    if SWEEP & set(sys.argv):
        sys.exit(guarded(lambda: train_all([word for word in sys.argv[1:] if word not in SWEEP])))
    main()
