"""Train what a config describes: python train.py experiment=shapes"""

import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig

from ldm.command.compose import begin, checked, composed
from ldm.command.words import SWEEP

CONF = Path(__file__).parent / "conf"


@hydra.main(config_path="conf", config_name="config", version_base="1.3")
def main(config: DictConfig) -> None:
    from ldm.signature import PIECES

    code = train(checked(config, PIECES))
    if code:
        sys.exit(code)


def train(config: dict) -> int:
    from ldm.command.start import start

    return start(config)


def train_all(words: list[str]) -> int:
    """A sweep: every combination of the words that hold several values."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    from ldm.command.sweep import sweep
    from ldm.command.terminal import guarded

    def run() -> int:
        jobs = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(words), None)[0]
        return sweep(jobs, Path(composed(CONF, "config", jobs[0])["runs"]), __file__)

    return guarded(run)


if __name__ == "__main__":
    begin(CONF)
    if SWEEP & set(sys.argv):
        sys.exit(train_all([word for word in sys.argv[1:] if word not in SWEEP]))
    main()
