"""A comparison in a screen of text: ranking, control, failures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agents.results import SOLVED, Result, whole
from agents.statistics import Estimate, wilson

CONTROL = "memoryless"
Row = dict[str, Any]


def ranking_lines(ranking: Sequence[Row], results: Sequence[Result], baseline: str) -> list[str]:
    """The ranking as columns of text; a cell with failed or pending runs has no figures."""
    head = ["cell", "IQM of the score", "mean", "solved", f"P(> {baseline})", "p, Holm", "P(faster)", "p, Holm"]
    lines = [head]
    for row in ranking:
        mine = [run for run in results if run.slot.cell == row["cell"]]
        solved = f"{sum(run.status == SOLVED for run in mine)}/{len(mine)}"
        lines.append([row["cell"], interval(row, "iqm"), interval(row, "mean"), solved, interval(row, "improvement"),
                      number(row["p_holm"]), interval(row, "faster"), number(row["p_steps_holm"])])  # fmt: skip
    widths = [max(len(line[k]) for line in lines) for k in range(len(head))]
    return ["  ".join(text.ljust(width) for text, width in zip(line, widths)).rstrip() for line in lines]


def remarks(ranking: Sequence[Row], results: Sequence[Result], baseline: str) -> list[str]:
    """What one must know to read the comparisons with the baseline, a line each."""
    cells = {row["cell"] for row in ranking}
    if baseline not in cells:
        return [f"the baseline {baseline} is not among the cells: none is compared with it"]
    unscored = sorted({run.slot.label for run in results if run.slot.spec.score(0.0) is None})
    lines = [f"no score, and so no part in its columns, have {', '.join(unscored)}"] if unscored else []
    tested = sum(row["p_steps"] is not None for row in ranking)
    if not tested:
        return lines
    pairs = (ranking[0]["tasks"] + ranking[0]["unscored"]) * len({run.slot.seed for run in results})
    least = min(2.0 ** (1 - pairs) * tested, 1.0)
    if least < 0.05:
        return lines
    return [*lines, f"with {pairs} pairs and {tested} comparisons no corrected p can fall below {least:.2g}: "
            "whatever the cells do, none is significant"]  # fmt: skip


def control(results: Sequence[Result]) -> list[tuple[str, Estimate | None, float]]:
    """For each task that needs memory and that the memoryless control has run on: (task, its success rate, chance). The runs
    are evaluated on the same episodes, so their mean counts as so many episodes as one of them has. No rate (None) where one
    of them failed or is still to be made. On other tasks (`spec.r0_memory` is None) a cell without memory may beat chance."""
    tasks: dict[Any, list[Result]] = {}
    for run in results:
        spec = run.slot.spec
        if run.slot.cell == CONTROL and spec.r0_memory is not None and spec.chance is not None:
            tasks.setdefault(run.slot.task, []).append(run)
    found = []
    for runs in tasks.values():
        rate = None
        if whole(runs):
            episodes = runs[0].episodes
            rate = wilson(round(episodes * sum(run.success for run in runs) / len(runs)), episodes)
        found.append((runs[0].slot.label, rate, runs[0].slot.spec.chance))
    return found


def control_lines(results: Sequence[Result]) -> list[str]:
    lines = []
    for task, rate, chance in control(results):
        if rate is None:
            said = "not judged, for a run of it failed or is still to be made"
        else:
            outside = " - ABOVE chance" if rate.low > chance else " - below chance" if rate.high < chance else ""
            said = f"success {rate.value:.3f} [{rate.low:.3f}, {rate.high:.3f}], chance {chance:g}{outside}"
        lines.append(f"control on {task}: {said}")
    return lines


def interval(row: Row, name: str) -> str:
    """"value [low, high]"; without an interval (a single run) the value, without a value a dash."""
    if row[name] is None:
        return "-"
    value, low, high = (None if v is None else round(v, 2) + 0.0 for v in (row[name], row[f"{name}_low"], row[f"{name}_high"]))
    return f"{value:.2f}" if low is None else f"{value:.2f} [{low:.2f}, {high:.2f}]"


def number(value: float | None) -> str:
    """Three digits, or a dash."""
    return "-" if value is None else f"{value:.3g}"
