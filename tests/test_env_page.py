"""docs/envs.md is what the code says, and names every environment and every Gymnasium id."""

import re

import pytest

import envs
from benchmarks import env_table

PAGE = env_table.PAGE.read_text(encoding="utf-8")


def test_the_page_is_what_the_code_says():
    assert env_table.page() == PAGE, "made anew by: python benchmarks/env_table.py --write docs/envs.md"


def test_every_environment_is_told_once():
    assert sorted(re.findall(r"^- \*\*`(\w+)`\*\* \S.*\.", PAGE, re.M)) == sorted(envs.ENVS)
    ids = [id for row in envs.ENVS.values() for id in row.ids]
    assert sorted(re.findall(r"`gatemaze/([\w-]+)-v0`", PAGE)) == sorted(ids)


@pytest.mark.parametrize("name, cells", [
    ("tmaze_passive-medium", ("vector 2", "4", "100", "1", "1", "1", "0.5", "-", "-0.9967", "0.5", "102")),
    ("memory_chain-easy", ("vector 3", "2", "9", "1", "1", "1", "0 (1)", "-", "0", "0.5", "11")),
    ("minigrid_fetch-xl", ("symbols 7 x 7 x 5", "7", *"-" * 8, "1,281")),
])  # fmt: skip
def test_rows_by_hand(name, cells):
    """T-maze of Ni et al.: R_random = -(1 - 1/(3 L)); the memory chain's answer shows in the last reward."""
    [found] = re.findall(rf"^\| `{name}` \| (.*) \|$", PAGE, re.M)
    assert tuple(found.split(" | ")) == cells
