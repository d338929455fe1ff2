"""Train what a config describes: python train.py experiment=shapes"""

import sys
from pathlib import Path

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from ldm.main import guarded, misspelt, settable
from ldm.stage.launch import handed_down

MULTIRUN = {"-m", "--multirun"}


@hydra.main(config_path="conf", config_name="config", version_base="1.3")
def main(config: DictConfig) -> None:
    code = guarded(lambda: train(OmegaConf.to_container(config, resolve=True, throw_on_missing=True)))
    if code:
        sys.exit(code)


def train(config: dict) -> int:
    from ldm.experiment import Experiment

    return Experiment(config).run()


def train_all(words: list[str]) -> int:
    """A sweep: every combination of the words that hold several values."""
    from ldm.sweep import sweep

    jobs = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(words), None)[0]
    runs = next((word.removeprefix("runs=") for word in words if word.startswith("runs=")), "runs")
    return sweep(jobs, Path(runs), __file__)


if __name__ == "__main__":
    sys.argv[1:] = map(settable, sys.argv[1:])
    config = handed_down()
    if config is not None:
        sys.exit(guarded(lambda: train(config)))
    wrong = misspelt(sys.argv[1:], Path(__file__).parent / "conf")
    if wrong:
        sys.exit(wrong)
    if MULTIRUN & set(sys.argv):
        sys.exit(guarded(lambda: train_all([word for word in sys.argv[1:] if word not in MULTIRUN])))
    main()
