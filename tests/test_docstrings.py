"""Every public class and function says what it is, and every paper is named by its authors, title and year."""

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(file.relative_to(ROOT).as_posix() for file in (ROOT / "ldm").rglob("*.py"))

_NUMBER = re.compile(r"(?<![\d.])\d{4}\.\d{4,5}(?![\d.])")
_SOURCE = re.compile(r"\(\d{4}\),\s+arXiv \d{4}\.\d{4,5}")


def without_docstring(file: str) -> list[str]:
    """The public classes and functions of a file that have no docstring, and classes whose docstring begins with their
    arguments. A public method that overrides another one needs none."""
    module = importlib.import_module(file.removesuffix(".py").removesuffix("/__init__").replace("/", "."))
    found = []
    for node in ast.parse((ROOT / file).read_text(encoding="utf-8")).body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef) or node.name.startswith("_"):
            continue
        doc = ast.get_docstring(node) or ""
        if not doc or re.match(r"\w+:\n", doc):
            found.append(node.name)
        if isinstance(node, ast.ClassDef):
            bases = getattr(module, node.name).__mro__[1:]
            found += [f"{node.name}.{name}" for name in _own_methods(node, bases)]
    return found


def _own_methods(node: ast.ClassDef, bases: tuple[type, ...]) -> Iterator[str]:
    """The public methods of a class that have no docstring and override nothing."""
    for each in node.body:
        public = isinstance(each, ast.FunctionDef) and not each.name.startswith("_")
        if public and not ast.get_docstring(each) and not any(each.name in vars(base) for base in bases):
            yield each.name


def bare_numbers(text: str) -> list[str]:
    """arXiv numbers that do not stand behind `(year), arXiv`, and so behind authors and title."""
    return _NUMBER.findall(_SOURCE.sub("", text))


def bare_sources(file: str) -> list[str]:
    """The bare arXiv numbers in the docstrings of a file."""
    nodes = ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8")))
    texts = (node.value for node in nodes if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
    return [number for text in texts if isinstance(text.value, str) for number in bare_numbers(text.value)]


@pytest.mark.parametrize("file", FILES)
def test_what_is_public_says_what_it_is(file):
    if file.startswith("ldm/demo/page/"):
        pytest.importorskip("gradio", reason="the page needs Gradio: pip install -e '.[demo]'")
    assert not without_docstring(file)


@pytest.mark.parametrize("file", FILES)
def test_a_paper_is_named_by_its_authors_title_and_year(file):
    assert not bare_sources(file)


@pytest.mark.parametrize("file", sorted((ROOT / "conf").rglob("*.yaml")), ids=lambda file: file.stem)
def test_a_config_names_papers_in_the_same_way(file):
    assert not bare_numbers("\n".join(re.findall(r"^\s*#(.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)))


def test_numbers_and_sources_are_told_apart():
    assert bare_numbers("see arXiv 2006.11239, section 2, and 2107.00630") == ["2006.11239", "2107.00630"]
    assert not bare_numbers("Ho et al., Denoising Diffusion Probabilistic Models (2020),\n    arXiv 2006.11239")
    assert not bare_numbers("0.00085, 1504.5 and doi 10.1109/T-C.1974.223784")
