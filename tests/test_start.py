"""What a process imports before it answers, and what it imports at all. No clock: modules are listed."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runs import saved, tiny
from tests.test_layers import ENTRIES, FILES, ROOT, name

HEAVY = {
    "datasets",
    "diffusers",
    "lightning",
    "matplotlib",
    "numpy",
    "pandas",
    "pyarrow",
    "scipy",
    "sympy",
    "tensorboard",
}
HEAVY |= {"tokenizers", "torch", "torch_fidelity", "torchmetrics", "torchvision", "transformers", "wandb"}

LISTED = """
import atexit, json, runpy, sys
sys.argv = sys.argv[1:]
sys.path.insert(0, "")
atexit.register(lambda: print(json.dumps(sorted(sys.modules)), file=sys.stderr))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run(entry: str, *words: str) -> tuple[int, str, set[str]]:
    """(exit code, what was said, the packages that were imported) of a process."""
    command = [sys.executable, "-c", LISTED, entry, *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=ROOT)
    *said, modules = done.stderr.splitlines()
    return done.returncode, done.stdout + "\n".join(said), {module.partition(".")[0] for module in json.loads(modules)}


@pytest.mark.parametrize(
    ("entry", "words", "code", "said"),
    [
        ("train.py", ["--help"], 0, "diffusion/sampler: adaptive, ddim"),
        ("train.py", ["--help", "condition=label"], 0, "condition.drop: Probability = 0.1"),
        ("train.py", ["--cfg", "job", "experiment=shapes"], 0, "_target_: ldm.prior.diffusion.Diffusion"),
        ("train.py", ["prior=difusion"], 1, "did you mean diffusion?"),
        ("train.py", ["frist.steps=3"], 1, "did you mean first?"),
        ("train.py", ["first.stepz=3"], 1, "first.stepz: Recipe has no such argument; did you mean steps?"),
        ("train.py", ["first.optimizer.lrr=3"], 1, "first.optimizer.lrr: AdamW has no such argument"),
        ("train.py", ["autoencoder.encoder.widht=3"], 1, "autoencoder.encoder.widht: Encoder has no such argument"),
        (
            "train.py",
            ["trainer.precison=32"],
            1,
            "trainer.precison: Trainer has no such argument; did you mean precision?",
        ),
        ("train.py", ["first.steps=many"], 1, "first.steps: Input should be a valid integer"),
        ("train.py", ["first.decay=1.5"], 1, "first.decay: Input should be less than or equal to 1; got 1.5"),
        ("train.py", ["data=coco"], 1, "to be given: data.root=..."),
        ("sample.py", ["--help"], 0, "prompt=null"),
        ("sample.py", ["promt=x", "run=x"], 1, "did you mean prompt?"),
        ("evaluate.py", ["--help", "diffusion/sampler=heun"], 0, "diffusion.sampler.s_churn: NonNegativeFloat = 0.0"),
        ("evaluate.py", ["run=x", "metric=offline", "metric.distances.limt=3"], 1, "did you mean limit?"),
    ],
)
def test_an_answer_costs_no_import(entry, words, code, said):
    found, text, packages = run(entry, *words)
    assert (found, said in text) == (code, True), text
    assert "hydra" in packages and not packages & HEAVY


@pytest.mark.parametrize("entry", ["sample.py", "evaluate.py"])
def test_what_does_not_train_imports_no_trainer_and_nothing_of_other_metrics(entry, tmp_path):
    """What a metric imports, it uses: that of latents needs no more than the model."""
    run_ = saved(tmp_path, tiny(tmp_path, "metric=none"))
    words = ["n=1", "steps=1", "prompt=x"] if entry == "sample.py" else ["samples=1", "metric=latents"]
    code, text, packages = run(entry, f"run={run_}", *words)
    assert code == 0, text
    assert "torch" in packages and packages & HEAVY <= {"torch", "numpy", "tokenizers"}


def outright(file: Path) -> set[str]:
    """The packages that a file imports as it is imported itself."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    nodes = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = [alias.name if isinstance(node, ast.Import) else node.module for node in nodes for alias in node.names]
    return {each.partition(".")[0] for each in names}


@pytest.mark.parametrize("file", FILES, ids=name)
def test_what_few_runs_need_is_imported_where_it_is_used(file):
    rare = HEAVY - {"lightning", "numpy", "torch"}
    allowed = {"data": {"datasets", "pyarrow"}, "condition": {"tokenizers"}}.get(file.parent.name, set())
    assert outright(file) & rare <= allowed


@pytest.mark.parametrize("file", [file for file in FILES if file.name == "__init__.py"], ids=name)
def test_a_package_imports_nothing(file):
    assert not outright(file)


@pytest.mark.parametrize("file", ENTRIES, ids=name)
def test_an_entry_point_imports_what_is_light(file):
    assert outright(file) <= {"sys", "ldm"}
