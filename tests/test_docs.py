"""What the documents show is what happens: their code runs, and prints what they say.

Blocks fenced as `py` show other packages, and are not run.
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```)?", re.S | re.M)
PAGES = [
    page
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
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
