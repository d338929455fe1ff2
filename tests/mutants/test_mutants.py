"""The bench of faults is sound: its list applies to the tree as it is, and it tells a fault that is noticed from one that is not.

The long version: python -m tests.mutants
"""

import subprocess
import sys

import pytest

from tests.mutants.areas import AREAS
from tests.mutants.bench import Outcome
from tests.mutants.fault import Fault, of, stale
from tests.mutants.table import Area, write
from tests.runs import CONF

ROOT = CONF.parent


def test_every_fault_applies():
    """Its old text stands in the file exactly once, the file with it is Python, and its tests are there."""
    wrong = [line for faults in AREAS.values() for line in stale(faults, ROOT)]
    assert not wrong, "faults of tests/mutants that do not apply any more:\n" + "\n".join(wrong)


def test_the_list_covers_the_house():
    faults = [fault for faults in AREAS.values() for fault in faults]
    assert len(faults) >= 200 and len(set(faults)) == len(faults)
    packages = {path.name for path in (ROOT / "ldm").iterdir() if (path / "__init__.py").exists()}
    assert packages <= {fault.file.split("/")[1] for fault in faults if fault.file.startswith("ldm/")}
    assert all(len(faults) >= 20 for faults in AREAS.values()), "a share says something"


@pytest.fixture
def tree(tmp_path):
    """A house of one file, with tests that hold half of it."""
    (tmp_path / "ldm").mkdir()
    (tmp_path / "ldm" / "__init__.py").touch()
    (tmp_path / "ldm" / "sums.py").write_text(
        "def double(x):\n    return 2 * x\n\n\ndef triple(x):\n    return 3 * x\n\n\nLIMIT = 5\n"
    )
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "__init__.py").touch()
    (tmp_path / "tests" / "test_sums.py").write_text(
        "import subprocess, sys\n\nfrom ldm.sums import LIMIT, double\n\n\n"
        "def test_double():\n    assert double(3) == 6\n\n\n"
        "def test_in_another_process():\n"
        '    assert subprocess.check_output([sys.executable, "-c", "import ldm.sums; print(ldm.sums.LIMIT)"]) == b"5\\n"\n'
    )
    return tmp_path


SCRIPT = """
import sys
from pathlib import Path
from tests.mutants.bench import Bench
from tests.mutants.fault import of

root, folder = map(Path, sys.argv[1:])
bench = Bench(root, folder, workers=2, limit=120, imports=("pytest",))
faults = of(
    "ldm/sums.py",
    "tests/test_sums.py",
    ("2 * x", "2 + x + 0"),
    ("3 * x", "3 + x"),
    ("LIMIT = 5", "LIMIT = 6"),
    ("LIMIT = 5", "MOST = 5"),
)
bench.run(faults, lambda fault, outcome: print(fault.new, outcome.verdict, outcome.by, sep="|"))
print(sorted(bench.unsound(["tests/test_sums.py::test_double", "tests/test_sums.py::test_in_another_process"])))
root.joinpath("ldm", "sums.py").write_text("double = triple = lambda x: 0; LIMIT = 5")
bench = Bench(root, folder / "other", workers=1, limit=120, imports=())
print(sorted(bench.unsound(["tests/test_sums.py::test_double", "tests/test_sums.py::test_in_another_process"])))
slow = of("ldm/sums.py", "tests/test_sums.py", ("LIMIT = 5", "import time; time.sleep(999); LIMIT = 5"))
Bench(root, folder / "slow", workers=1, limit=2, imports=()).run(slow, lambda _, outcome: print(outcome.verdict))
"""


def test_it_tells_what_is_noticed_from_what_is_not(tree, tmp_path):
    before = (tree / "ldm" / "sums.py").read_bytes()
    command = [sys.executable, "-c", SCRIPT, str(tree), str(tmp_path / "bench")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *told, sound, unsound, slow = done.stdout.splitlines()
    assert sorted(line.rpartition("|")[0] for line in told) == [
        "2 + x + 0|noticed",
        "3 + x|survived",
        "LIMIT = 6|noticed",
        "MOST = 5|broken",
    ]
    assert "test_in_another_process" in next(line for line in told if line.startswith("LIMIT = 6"))
    assert (sound, unsound, slow) == ("[]", "['tests/test_sums.py::test_double']", "timeout")
    assert before.startswith(b"def double"), "the tree was only read"


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        (("4 * x", "5 * x"), "stands there 0 times"),
        (("x", "y"), "stands there 4 times"),
        (("2 * x", "2 * (x"), "is no Python"),
    ],
)
def test_a_fault_that_does_not_apply_is_named(tree, pair, said):
    [line] = stale(of("ldm/sums.py", "tests/test_sums.py", pair), tree)
    assert line.startswith(f"ldm/sums.py: {pair[0]} -> ") and said in line
    assert "no such file" in stale(of("ldm/other.py", "tests/test_sums.py", ("a", "b")), tree)[0]
    assert (
        "no test tests/test_sums.py::test_b"
        in stale(of("ldm/sums.py", "tests/test_sums.py::test_b", ("2 * x", "x")), tree)[0]
    )
    assert "no test tests/gone.py" in stale(of("ldm/sums.py", "tests/gone.py::test_a", ("2 * x", "x")), tree)[0]


def test_the_table_is_written_area_by_area(tmp_path):
    fault = Fault("ldm/a.py", "a | b", "a", ("tests/test_a.py",))
    found = [(fault, Outcome(verdict, "", 1.0)) for verdict in ("noticed", "survived", "timeout", "broken")]
    page, one = tmp_path / "page.md", Area.of("one", found, 9.0)
    assert (one.faults, one.noticed, len(one.broken)) == (3, 2, 1)
    page.write_text("before\n<!-- table -->\n<!-- end of table -->\nafter\n")
    write(page, [one, Area("two", 10, 10, 5.0)])
    write(page, [Area("two", 12, 9, 6.0, ("x",))])
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n")
    assert "| one | 3 | 2 | 66.7 % | 9 | `ldm/a.py: a \\| b -> a` |" in text
    assert "| two | 12 | 9 | 75.0 % | 6 | `x` |" in text and "| two | 10" not in text
    assert "| **all** | 15 | 11 | 73.3 % | 15 | |" in text
