"""Fixtures that all tests share; jaxtyping's shape annotations are checked at run time here and only here."""

import logging
import os
import signal
from collections import Counter
from pathlib import Path

import jaxtyping
import pytest
from jaxtyping import install_import_hook

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")

hook = install_import_hook("ldm", "beartype.beartype")

import torch  # noqa: E402

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))

ROOT = Path(__file__).parents[1]


LONG = (  # files of few tests that take minutes: what begins last of all is what everybody waits for
    "faults/test_faults.py",
    "test_notebooks.py",
    "faults/test_matrix.py",
    "test_experiments.py",
    "prior/test_training.py",
    "command/test_terminal.py",
    "stage/test_sharding.py",
    "test_pages.py",
    "test_wheel.py",
    "command/test_sweep.py",
    "test_streaming.py",
    "stage/test_agent.py",
    "callback/test_watchers.py",
    "test_keep.py",
    "test_finetuning.py",
    "test_gpu_script.py",
    "test_best.py",
)


def pytest_configure(config: pytest.Config) -> None:
    """Files are given to the workers of pytest-xdist in the order of the collection, and not by their number of tests."""
    if config.pluginmanager.hasplugin("xdist"):
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """On such workers the long files come first, and then those of many tests."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        tests = Counter(item.path for item in items)
        items.sort(key=lambda item: (rank(item.path), -tests[item.path]))


def rank(file: Path) -> int:
    """Of a file among those that are long; all others stand behind them."""
    name = file.relative_to(ROOT / "tests").as_posix()
    return LONG.index(name) if name in LONG else len(LONG)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    if item.get_closest_marker("slow") and not os.environ.get("LDM_SLOW"):
        pytest.skip("takes minutes: LDM_SLOW=1 runs it")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The real data for tests; see README."""
    folder = Path(os.environ.get("LDM_SHARED", ROOT.parent / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"no real data at {folder}; LDM_SHARED=DIR names the folder that holds data/")
    return folder


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test draws the same numbers each time, whichever tests ran before it; LDM_TEST_SEED=N others, for a test has to
    hold for any."""
    torch.manual_seed(int(os.environ.get("LDM_TEST_SEED", 0)))


@pytest.fixture(autouse=True)
def as_before():
    """What a command sets up for its whole process is undone: signals, and who hears how much of the log."""
    signals = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    root = logging.getLogger()
    handlers, level, raises = list(root.handlers), root.level, logging.raiseExceptions
    yield
    for number, handler in signals.items():
        signal.signal(number, handler)
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.raiseExceptions = raises
    logging.captureWarnings(False)


@pytest.fixture
def unchecked(monkeypatch):
    """No checks of shapes in tests of thousands of steps, where they would be most of the time; every class has a test
    with them."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture(scope="module")
def unchecked_file():
    """None in all of a file, its own fixtures included: where whole runs are made to see what becomes of them, the checks are a
    third of the time, and tests/test_experiments.py trains the same parts with them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jaxtyping.config, "jaxtyping_disable", True)
        yield
