"""The notebooks run, shortened, and are notebooks that Jupyter can show."""

import re

import jupytext
import nbformat
import pytest

from tests.support import REPOSITORY

NOTEBOOKS = sorted((REPOSITORY / "docs" / "notebooks").glob("*.py"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_a_notebook(path):
    notebook = jupytext.read(path)
    nbformat.validate(notebook)
    assert {cell.cell_type for cell in notebook.cells} == {"markdown", "code"}


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_accelerate")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path, trained):
    text = re.sub(r"^STEPS = \d+", "STEPS = 2", path.read_text(), flags=re.MULTILINE)
    exec(compile(text, path.name, "exec"), {"__name__": "__main__"})
