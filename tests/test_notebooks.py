"""Every notebook runs from its first cell to its last, as it is committed, and what is committed is small and of no machine.

`python -m tests.test_notebooks` runs them all and writes them with what they print and draw.
"""

import base64
import io
import os
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from PIL import Image

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
METADATA = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}


SHORTER = {  # what is trained for less where nothing is kept of it and no assertion asks for more
    "quickstart": {"first.steps=650": "first.steps=40", "second.steps=300": "second.steps=20"},
    "families": {"SHARE = 1.0": "SHARE = 0.002"},
}


def executed(file: Path, shorter: dict[str, str], timeout: int | None = None) -> nbformat.NotebookNode:
    """The notebook after a run in its own folder, as Jupyter runs it; CellExecutionError for the first cell that raises.

    Arguments:
        shorter: text of its cells, and what takes its place.
        timeout: of a cell, in seconds.
    """
    notebook = nbformat.read(file, as_version=4)
    for old, new in shorter.items():
        (cell,) = [cell for cell in notebook.cells if cell.cell_type == "code" and old in cell.source]
        cell.source = cell.source.replace(old, new)
    for cell in notebook.cells:
        cell.metadata.clear()
    client = NotebookClient(
        notebook, timeout=timeout, coalesce_streams=True, resources={"metadata": {"path": str(file.parent)}}
    )
    one = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    return client.execute(env={**os.environ, **one, "PYTHONPATH": str(ROOT)})


@pytest.mark.timeout(900)  # of a machine that many share; alone it is a minute
@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_notebook_runs(file):
    executed(file, SHORTER.get(file.stem, {}), timeout=600)


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_what_is_committed(file):
    """Executed in order, small enough for git, and with no name of the machine that it was executed on."""
    notebook = nbformat.read(file, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata == METADATA and not any(cell.metadata for cell in notebook.cells)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert {output.output_type for cell in code for output in cell.outputs} <= {"stream", "display_data"}
    assert not any(output.get("name") == "stderr" for cell in code for output in cell.outputs)
    text = [cell.source for cell in notebook.cells] + [out.get("text", "") for cell in code for out in cell.outputs]
    assert not re.search(r"/(home|work|root|Users|tmp)/|[A-Z]:\\", "\n".join(text))
    assert file.stat().st_size < 600_000


def small(png: str) -> str:
    """The picture in 256 colours, which is half of the bytes."""
    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    file = io.BytesIO()
    picture.quantize(256, dither=Image.Dither.NONE).save(file, "png", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def write(file: Path) -> None:
    notebook = executed(file, {})
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        cell.metadata.clear()
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                output.data, output.metadata = nbformat.from_dict({"image/png": small(output.data["image/png"])}), {}
    nbformat.write(notebook, file)


if __name__ == "__main__":
    for each in NOTEBOOKS:
        write(each)
        print(f"{each.relative_to(ROOT)}: {each.stat().st_size / 1000:.0f} kB")
