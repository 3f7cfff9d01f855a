"""One table of all rows of VARIANTS: what each is, what it costs, which options fit it (docs/cells/table.md).

    python benchmarks/cell_table.py [--write docs/cells/table.md] [--repeats 7] [--cells lstm,ur-lstm,...]

Everything but the ratio is asked of the code. The ratio is forward and backward of a sequence, (T, B, H) = (64, 64, 128) with
64 inputs, in units of torch.nn.LSTM: CPU time of the process at one thread, cell and nn.LSTM by turns, the median of the
paired ratios with their 10 % and 90 % quantiles. nn.LSTM runs without resets, the cells with resets in 5 % of the rows.
"""

from __future__ import annotations

import argparse
import collections
import os
import re
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from benchmarks.core_speed import keep_heap
from memory_cells import VARIANTS, make_core, unroll
from memory_cells.cells import Cell
from memory_cells.unroll import path_class
from memory_cells.variants import count_parameters, matching_hidden_size

PAGES = Path(__file__).resolve().parents[1] / "docs" / "cells"
T, B, H, INPUT, HORIZON, BUDGET = 64, 64, 128, 64, 100, 100_000
HEAD = ("cell", "family", "state", f"parameters, H = {H}", f"H for {BUDGET // 1000}k", "path", "ratio to nn.LSTM",
        "options", "source")  # fmt: skip


def families(folder: Path = PAGES) -> dict[str, list[str]]:
    """Stem of a family's page -> the rows that its section "Rows" names; pages in the order of the index."""
    found, index = {}, (folder / "README.md").read_text(encoding="utf-8")
    for page in sorted(folder.glob("*.md"), key=lambda page: index.find(f"({page.name})")):
        section = re.search(r"^## Rows\n(.*?)(?=^## |\Z)", page.read_text(encoding="utf-8"), re.S | re.M)
        if section:
            found[page.stem] = re.findall(r"^\| `([a-z0-9-]+)` \|", section[1], re.M)
    return found


def state_of(core: Cell) -> str:
    """Names and widths of the state; entries of one kind (layers, steps back) are counted."""
    kinds: collections.Counter[tuple[str, int]] = collections.Counter()
    for name, entry in zip(core.state_names, core.initial_state(1), strict=True):
        kinds[re.sub(r"^layer\d+\.|-\d+$", "", name), entry.shape[1]] += 1
    return ", ".join((f"{count} x " if count > 1 else "") + f"{name} {width}" for (name, width), count in kinds.items())


def facts(name: str) -> list[str]:
    """The row of the table, as far as the code knows it: (cell, state, parameters, width at equal budget, path, options,
    source)."""
    core, options = make_core(name, INPUT, H, horizon=HORIZON), VARIANTS[name].options
    width = matching_hidden_size(name, INPUT, BUDGET, horizon=HORIZON)
    with torch.device("meta"):
        there = count_parameters(make_core(name, INPUT, width, horizon=HORIZON))
    return [
        f"`{name}`", state_of(core), f"{count_parameters(core):,}", f"{width} ({there:,})", path_class(core),
        ", ".join(sorted(options - {"layers"})) or "-", VARIANTS[name].source,
    ]  # fmt: skip


def once(function) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def measure(names: list[str], repeats: int) -> dict[str, np.ndarray]:
    """name -> paired ratios of CPU time (repeats,)."""
    torch.manual_seed(0)
    reference, x = torch.nn.LSTM(INPUT, H), torch.randn(T, B, INPUT, requires_grad=True)
    first = torch.rand(T, B) < 0.05
    cores = {name: make_core(name, INPUT, H, horizon=HORIZON) for name in names}

    def ours(core):
        unroll(core, x, first, core.initial_state(B))[0].sum().backward()

    def theirs():
        reference(x)[0].sum().backward()

    for core in cores.values():  # compiles
        ours(core)
    ratios: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(repeats):
        for name, core in cores.items():
            theirs()  # each of the two comes after the other
            ratios[name].append(once(lambda core=core: ours(core)) / once(theirs))
    return {name: np.array(values) for name, values in ratios.items()}


def page(ratios: dict[str, np.ndarray], repeats: int) -> str:
    family = {name: stem for stem, names in families().items() for name in names}  # in the order of the pages
    spread = "{:.2f} [{:.2f}, {:.2f}]".format
    lines = [
        "# All cells", "",
        "Every row of `VARIANTS`, by family. Made by", "", "    python benchmarks/cell_table.py --write docs/cells/table.md",
        "",
        f"State: names and widths at H = {H}; they are what a run carries from row to row, for each environment.",
        f"Parameters: trainable ones, with {INPUT} inputs. *H for {BUDGET // 1000}k*: the width that",
        f"`cell.match_parameters={BUDGET}` picks, with the count it comes to.",
        "Path: what `path=auto` takes for a sequence: one compiled function (*fused*), a parallel scan (*scan*), or the plain",
        "loop over rows (*loop*). Layers run one after the other, each on that path.",
        f"Ratio: forward and backward, (T, B, H) = ({T}, {B}, {H}), in units of `torch.nn.LSTM`: CPU time at one thread, by",
        f"turns, median of {repeats} paired ratios with their 10 % and 90 % quantiles, torch {torch.__version__}. The machine",
        "was not ours alone: differences below some 20 % mean nothing.",
        "Options: what the row takes beside `layers`, which all take. Where `horizon` stands it is needed; a run takes the",
        "length of the environment's longest episode unless `cell.horizon` says otherwise.", "",
        "|" + "|".join(f" {h} " for h in HEAD) + "|", "|" + "---|" * len(HEAD),
    ]  # fmt: skip
    for name in family:
        cell, state, parameters, width, path, options, source = facts(name)
        quoted = spread(np.median(ratios[name]), *np.quantile(ratios[name], [0.1, 0.9])) if name in ratios else "-"
        row = (cell, f"[{family[name]}]({family[name]}.md)", state, parameters, width, path, quoted, options, source)
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines) + "\n"


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, help="where the page goes; left out: to the screen")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--cells", default=",".join(VARIANTS), help="whose ratio is measured")
    options = parser.parse_args(argv)
    if unknown := sorted(set(options.cells.split(",")) - VARIANTS.keys()):
        parser.error(f"unknown cell {unknown[0]!r}")
    torch.set_num_threads(1)
    keep_heap()
    print(f"load {os.getloadavg()[0]:.2f}", file=sys.stderr)
    text = page(measure(options.cells.split(","), options.repeats), options.repeats)
    if options.write:
        options.write.write_text(text, encoding="utf-8")
    else:
        print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
