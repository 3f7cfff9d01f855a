"""Every Python example of the README and of the pages under docs runs as it stands there; and what it adds obeys the laws."""

import re
from pathlib import Path

import pytest

from envs import ENVS
from memory_cells import VARIANTS
from memory_cells.variants import CELLS, GATES
from tests.cells import test_laws as laws

ROOT = Path(__file__).parents[1]
EXAMPLES = [(page.relative_to(ROOT).as_posix(), source) for page in (ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md")))
            for source in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.S)]  # fmt: skip
#: of a row with its options as they are
LAWS = [
    laws.test_fast_paths_equal_the_plain_loop,
    laws.test_gradients_are_derivatives,
    laws.test_packed_episodes_equal_the_episodes_alone,
    laws.test_splitting_anywhere_with_the_state_changes_nothing,
    laws.test_gradient_across_a_reset_is_exactly_zero,
    laws.test_shapes_and_finite_gradients_to_every_parameter,
    laws.test_traces_are_what_the_step_used,
    laws.test_eval_mode_is_deterministic_and_equal_on_every_path,
]


@pytest.mark.parametrize("page, source", EXAMPLES, ids=[p + " " + re.search(r"class (\w+)", s)[1] for p, s in EXAMPLES])
def test_example_runs(page, source):
    """What an example adds to a table is taken out again."""
    kept = [(table, dict(table)) for table in (CELLS, GATES, VARIANTS, ENVS)]
    try:
        exec(compile(source, page, "exec"), {"__name__": "readme"})
        added = VARIANTS.keys() - kept[2][1].keys()
        for name in added:
            for law in LAWS:
                law(name, ())
        if added:
            laws.test_no_two_rows_are_the_same()
    finally:
        for table, contents in kept:
            table.clear()
            table.update(contents)


def test_there_are_a_cell_a_gate_and_an_environment():
    for base, page in (("(Cell)", "README.md"), ("(Env)", "README.md"), ("(Gate)", "docs/cells/add-a-gate.md")):
        assert any(base in source for where, source in EXAMPLES if where == page)
