"""The code that the documents show runs as shown."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def python_blocks(path):
    return re.findall(r"^```python\n(.*?)^```", path.read_text(), re.S | re.M)


@pytest.mark.parametrize("name", ["README.md"])
def test_code_blocks_run_in_order(name):
    """Later blocks may use what earlier ones defined, as a reader would."""
    namespace = {}
    blocks = python_blocks(ROOT / name)
    assert blocks
    for block in blocks:
        exec(compile(block, name, "exec"), namespace)
