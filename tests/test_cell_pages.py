"""docs/cells says of every row of VARIANTS, once, what it is; its figures are there, its links lead somewhere, and the table
is what the code says."""

import re
from collections import Counter

import pytest
import torch

from benchmarks import cell_figures, cell_table
from benchmarks.cell_table import HEAD, PAGES, families
from memory_cells import VARIANTS

FAMILIES = families()
TEXT = {page.stem: page.read_text(encoding="utf-8") for page in PAGES.glob("*.md")}
LINES = [line for line in TEXT["table"].splitlines() if line.startswith("| `")]
TABLE = [[cell.strip() for cell in line.strip("|").split("|")] for line in LINES]


def test_every_row_stands_on_one_page():
    counted = Counter(name for names in FAMILIES.values() for name in names)
    assert counted == Counter(dict.fromkeys(VARIANTS, 1))


@pytest.mark.parametrize("family", [*FAMILIES, "auxiliary"])
def test_a_page_says_what_one_wants_to_know(family):
    heads = re.findall(r"^## (.*)$", TEXT[family], re.M)
    for part in ("Equations", "Source, and what we follow") if family != "baselines" else ():
        assert part in heads
    assert heads[-1] == "When to use" and "arXiv" in TEXT[family] and re.search(r"^ {4}\S", TEXT[family], re.M)


def test_links_and_figures_are_there():
    """And no figure is without a page, or large."""
    shown = set()
    for stem, text in TEXT.items():
        for target in re.findall(r"\]\(([^)#:]+)(?:#[\w-]+)?\)", text):
            assert (PAGES / target).is_file(), f"{stem}.md: {target}"
            shown |= {target} if target.startswith("figures/") else set()
    files = {f"figures/{path.name}": path.stat().st_size for path in (PAGES / "figures").iterdir()}
    assert shown == files.keys() == {f"figures/{name}.svg" for name in cell_figures.FIGURES}
    assert max(files.values()) < 60_000
    assert all(f"({stem}.md)" in TEXT["README"] for stem in TEXT.keys() - {"README"})


@pytest.mark.parametrize("family", FAMILIES)
def test_every_row_is_drawn_or_named_as_not_drawn(family):
    figures = "".join((PAGES / name).read_text(encoding="utf-8") for name in re.findall(r"figures/[\w-]+\.svg", TEXT[family]))
    drawn = {name for name in FAMILIES[family] if re.search(rf">{name}[<:]", figures)}
    without = re.search(r"^Cells that no curve fits:.*?\n\n", TEXT[family], re.S | re.M)
    named = set(re.findall(r"`([\w-]+)`", without[0])) if without else set()
    assert drawn | named == set(FAMILIES[family]) and not drawn & named


@pytest.mark.parametrize("name", ["lstm", "u-lstm", "janet", "mingru", "zoneout-lstm", "indrnn", "chrono-gru"])
def test_keep_of_the_figures(name, monkeypatch):
    """Against closed forms: the three ways in which it is found."""
    monkeypatch.setattr(cell_figures, "HIDDEN", 64)
    core = cell_figures.core_of(name)
    constant = torch.full((64,), 0.7310586)
    with torch.no_grad():
        want = {
            "lstm": lambda: constant,
            "u-lstm": lambda: core.bias[:64].sigmoid(),
            "janet": lambda: constant,
            "mingru": lambda: (-core.linear.bias[:64]).sigmoid(),
            "zoneout-lstm": lambda: 0.5 + 0.5 * constant,  # in evaluation, of the memory
            # a unit of the top layer reads itself where it is not shut
            "indrnn": lambda: torch.where(
                core.layers[1].weight_x @ (0.1 * core.layers[0].weight_h) + 0.1 * core.layers[1].weight_h > 0,
                core.layers[1].weight_h, 0),
            "chrono-gru": lambda: core.bias[:64].sigmoid(),
        }[name]()  # fmt: skip
    torch.testing.assert_close(cell_figures.keep(core), want)


def test_the_table_has_every_row_and_is_what_the_code_says():
    """All but the measured ratios. To mend it: python benchmarks/cell_table.py --write docs/cells/table.md"""
    assert sorted(row[0].strip("`") for row in TABLE) == sorted(VARIANTS)
    family = {name: stem for stem, names in FAMILIES.items() for name in names}
    for cell, page, *row in TABLE:
        assert len(row) == len(HEAD) - 2 and page == f"[{family[cell.strip('`')]}]({family[cell.strip('`')]}.md)"
        ratio = row.pop(4)
        assert re.fullmatch(r"\d+\.\d\d \[\d+\.\d\d, \d+\.\d\d\]", ratio), cell
        assert [cell, *row] == cell_table.facts(cell.strip("`"))
