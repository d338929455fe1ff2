"""Images from a run: python sample.py run=DIR prompt="a large blue star at the bottom on a black background" n=16"""

import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf

from ldm.main import guarded, misspelt, settable


@hydra.main(config_path="conf", config_name="sample", version_base="1.3")
def main(config: DictConfig) -> None:
    from ldm.sampling import sample

    wanted = OmegaConf.to_container(config, resolve=True)
    code = guarded(lambda: sample(**wanted))
    if code:
        sys.exit(code)


def quoted(argument: str) -> str:
    """A prompt may hold commas and brackets, which Hydra would read as its own grammar."""
    key, equals, value = argument.partition("=")
    if key != "prompt" or not equals or value[:1] in "'\"":
        return argument
    return "prompt='" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


if __name__ == "__main__":
    sys.argv[1:] = map(quoted, map(settable, sys.argv[1:]))
    wrong = misspelt(sys.argv[1:], Path(__file__).parent / "conf", "sample")
    if wrong:
        sys.exit(wrong)
    main()
