"""In a parallel run the files that take minutes begin first, and then those of many tests: what begins last is waited for."""

from types import SimpleNamespace

from tests import conftest

FILES = conftest.ROOT / "tests"


def test_the_long_files_are_there():
    assert [name for name in conftest.LONG if not (FILES / name).is_file()] == []


def test_long_files_come_first_and_then_those_of_many_tests(monkeypatch):
    """With the tests of each file together, in their own order."""
    counts = {"a.py": 1, "b.py": 3, conftest.LONG[1]: 1, "c.py": 2, conftest.LONG[0]: 2}
    items = [SimpleNamespace(path=FILES / name, name=k) for name, count in counts.items() for k in range(count)]
    as_collected = list(items)
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    conftest.pytest_collection_modifyitems(items)
    assert items == as_collected, "in one process the order is pytest's own"
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw0")
    conftest.pytest_collection_modifyitems(items)
    order = [conftest.LONG[0], conftest.LONG[1], "b.py", "c.py", "a.py"]
    assert [(item.path, item.name) for item in items] == [
        (FILES / name, k) for name in order for k in range(counts[name])
    ]
