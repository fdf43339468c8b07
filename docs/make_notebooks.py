"""The notebooks of `examples/`, made of two pages of the guide.

    python -m docs.make_notebooks

The only outputs in them are those a page shows, which the tests compare with a run's.
"""

import json
import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
PAGES = ("main_idea", "fine_tuning")
FENCE = re.compile(r"^```(\w+)\n(.*?)^```\n", re.S | re.M)


def main() -> None:
    for page in PAGES:
        path = DOCS.parent / "examples" / f"{page}.ipynb"
        path.write_text(notebook((DOCS / f"{page}.md").read_text()))


def notebook(text: str) -> str:
    """A page as a notebook: `sh` blocks install, and a `text` block is an output."""
    cells: list[dict[str, Any]] = []

    def add(kind: str, source: str, **more: Any) -> None:
        if source.strip():
            cell = {"cell_type": kind, "id": f"cell-{len(cells)}", "metadata": {}}
            cells.append(cell | {"source": source.strip()} | more)

    end = 0
    for block in FENCE.finditer(text):
        add("markdown", links(text[end : block.start()]))
        end = block.end()
        language, code = block.groups()
        if language == "text":
            output = {"output_type": "stream", "name": "stdout", "text": code}
            cells[-1]["outputs"].append(output)
        else:
            code = f"%{code}" if language == "sh" else code
            add("code", code, execution_count=None, outputs=[])
    add("markdown", links(text[end:]))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    whole = {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


def links(text: str) -> str:
    return re.sub(r"\]\((\S+\.md)\)", r"](../docs/\1)", text)


if __name__ == "__main__":
    main()
