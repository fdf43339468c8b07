"""What the documents show is what happens: their code runs, and prints what they say.

Blocks fenced as `py` show other packages, and are not run.
"""

import re
from pathlib import Path

import pytest

from docs.make_notebooks import PAGES as NOTEBOOKS
from docs.make_notebooks import notebook

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```)?", re.S | re.M)
PAGES = [
    page
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    if BLOCK.search(page.read_text())
]


def test_every_python_block_is_found():
    fences = sum(page.read_text().count("```python") for page in PAGES)
    assert fences == sum(len(BLOCK.findall(page.read_text())) for page in PAGES)
    assert {"README.md", "start.md", "recipes.md"} <= {page.name for page in PAGES}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_blocks_run_in_order(page, capsys):
    """Later blocks may use what earlier ones defined; a text block is their output."""
    namespace = {}
    for block, shown in BLOCK.findall(page.read_text()):
        exec(compile(block, str(page), "exec"), namespace)
        printed = capsys.readouterr().out
        assert printed == shown or not shown


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_is_its_page(name):
    page = (ROOT / "docs" / f"{name}.md").read_text()
    assert (ROOT / "examples" / f"{name}.ipynb").read_text() == notebook(page)


def test_every_program_has_a_page_and_a_row():
    """`make integrations` goes by the pages; it fills the rows."""
    folder = ROOT / "docs" / "integrations"
    pages = {page.stem for page in folder.glob("*.md")} - {"index"}
    modules = {path.stem for path in (ROOT / "integrations").glob("*.py")}
    rows = re.findall(
        r"^\| \[.*?\]\((\w+)\.md\)", (folder / "index.md").read_text(), re.M
    )
    assert (
        sorted(rows)
        == sorted(pages)
        == sorted(modules - {"__init__", "__main__", "checks"})
    )
