"""Every Python example of the README runs as it stands there."""

import re
from pathlib import Path

import pytest

from envs import ENVS
from memory_cells import VARIANTS
from memory_cells.variants import CELLS

README = Path(__file__).parents[1] / "README.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", README.read_text(), re.S)


@pytest.mark.parametrize("source", EXAMPLES, ids=lambda s: re.search(r"class (\w+)", s)[1])
def test_example_runs(source):
    """What an example adds to a table is taken out again."""
    kept = [(table, dict(table)) for table in (CELLS, VARIANTS, ENVS)]
    try:
        exec(compile(source, "README.md", "exec"), {"__name__": "readme"})
    finally:
        for table, contents in kept:
            table.clear()
            table.update(contents)


def test_there_are_a_cell_and_an_environment():
    assert any("(Cell)" in s for s in EXAMPLES) and any("(Env)" in s for s in EXAMPLES)
