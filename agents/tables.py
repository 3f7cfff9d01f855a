"""The tables of a comparison: results -> rows of CSV files.

    results.csv    a run            summary.csv    a cell on a task       ranking.csv    a cell over all tasks
    curves.csv     an evaluation    longest.csv    a cell, a series       profiles.csv   a cell and a threshold
    lags.csv       a run and a lag  horizons.csv   a run of a cell with a gate

Nothing in them depends on the clock or on interruptions. An empty field is "not known": a failed or pending run has no
figures, and whatever would need them has none either, so no average leaves it out silently. `inf` in a column of steps is
"not within the budget" (censored).
"""

from __future__ import annotations

import contextlib
import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agents import reach
from agents import statistics as st
from agents.results import CENSORED, FAILED, SOLVED, Result, Slot, whole
from agents.runlog import RunError, write_text

NAMES = ("results", "summary", "curves", "ranking", "longest", "profiles", *reach.NAMES)
THRESHOLDS = tuple(round(0.05 * k, 2) for k in range(21))
Task = tuple[str, int | None]
Row = dict[str, Any]


def _group(results: Iterable[Result]) -> dict[tuple[str, Task], list[Result]]:
    groups: dict[tuple[str, Task], list[Result]] = {}
    for result in results:
        groups.setdefault((result.slot.cell, result.slot.task), []).append(result)
    return groups


def _column(group: Sequence[Result], name: str) -> np.ndarray:
    """(N, 1) of an attribute of each run; NaN where it is not defined."""
    return np.array([[math.nan if getattr(run, name) is None else getattr(run, name)] for run in group])


def _steps(group: Sequence[Result]) -> np.ndarray:
    """(N, 1) steps to solve, inf where censored."""
    return np.array([[math.inf if run.solved_at is None else run.solved_at] for run in group])


def _spread(name: str, values: st.Estimate | None) -> Row:
    return dict(zip((name, f"{name}_low", f"{name}_high"), values or (None,) * 3))


def summary(results: Sequence[Result]) -> list[Row]:
    """One row for each cell on each task. solved: the share of runs that did, Wilson interval over runs; steps: the median
    to solve; all other intervals are bootstraps over seeds."""
    rows = []
    for (cell, (env, length)), group in _group(results).items():
        slot, known = group[0].slot, whole(group)
        solved = sum(run.status == SOLVED for run in group)
        row = {"cell": cell, "env": env, "length": length, "series": slot.series, "learning_rate": slot.learning_rate,
               "parameters": slot.parameters, "budget": slot.budget, "runs": len(group),
               "failed": sum(run.status == FAILED for run in group),
               "censored": sum(run.status == CENSORED for run in group)}  # fmt: skip
        row |= _spread("solved", st.wilson(solved, len(group)) if known else None)
        for name, attribute in (("success", "success"), ("return", "mean_return"), ("score", "score")):
            values = _column(group, attribute)
            row |= _spread(name, st.estimate(values) if known and not np.isnan(values).any() else None)
        scores = _column(group, "score")
        row |= _spread("score_iqm", st.estimate(scores, st.iqm) if known and not np.isnan(scores).any() else None)
        row |= _spread("steps", st.estimate(_steps(group), st.median_steps, "inverted_cdf") if known else None)
        spec = slot.spec
        rows.append(row | {"chance": spec.chance, "r0": spec.r0, "r_star": spec.r_star,
                           "memory_length": spec.memory_length, "credit_length": spec.credit_length})  # fmt: skip
    return rows


def ranking(results: Sequence[Result], baseline: str) -> list[Row]:
    """One row for each cell, over the tasks that have a score, best IQM first.

    improvement: P(a run of the cell scores above one of the baseline), mean over the tasks that have a score; faster: P(it
    solves in fewer steps), mean over all. difference: mean over the pairs of runs on the same task with the same seed; p and
    p_steps: sign-flip tests of these pairs, for the score and for which of both solved first; _holm: corrected for the number
    of cells. unscored: tasks without a score.
    """
    groups = _group(results)
    tasks = list(dict.fromkeys(result.slot.task for result in results))
    scored = [task for task in tasks if all(
        slot.spec.score(0.0) is not None for slot in (run.slot for run in results) if slot.task == task)]  # fmt: skip
    matrices = {}
    for cell in dict.fromkeys(result.slot.cell for result in results):
        if all(whole(groups[cell, task]) for task in tasks):
            scores = np.hstack([_column(groups[cell, task], "score") for task in scored]) if scored else None
            matrices[cell] = scores, np.hstack([_steps(groups[cell, task]) for task in tasks])
    rows = []
    for cell in dict.fromkeys(result.slot.cell for result in results):
        mine = [run for run in results if run.slot.cell == cell]
        row = {"cell": cell, "tasks": len(scored), "unscored": len(tasks) - len(scored), "runs": len(mine),
               "failed": sum(r.status == FAILED for r in mine)}  # fmt: skip
        score = matrices[cell][0] if cell in matrices else None
        row |= _spread("iqm", None if score is None else st.estimate(score, st.iqm))
        row |= _spread("mean", None if score is None else st.estimate(score))
        rows.append(row | _against(cell, baseline, matrices))
    for name in ("p", "p_steps"):
        tested = [row for row in rows if row[name] is not None]
        adjusted = st.holm([row[name] for row in tested])
        for row in rows:
            row[f"{name}_holm"] = None
        for row, value in zip(tested, adjusted):
            row[f"{name}_holm"] = value
    return sorted(rows, key=lambda row: (row["iqm"] is None, -(row["iqm"] or 0.0), -(row["mean"] or 0.0)))


def _against(cell: str, baseline: str, matrices: Mapping[str, tuple[np.ndarray | None, np.ndarray]]) -> Row:
    row = _spread("improvement", None) | _spread("difference", None) | {"p": None}
    row |= _spread("faster", None) | {"p_steps": None}
    if cell == baseline or cell not in matrices or baseline not in matrices:
        return row
    (score, steps), (base_score, base_steps) = matrices[cell], matrices[baseline]
    if score is not None:
        row |= _spread("improvement", st.improvement(score, base_score))
        row |= _spread("difference", st.estimate(score - base_score))
        row["p"] = st.sign_flip(score.ravel() - base_score.ravel())
    row |= _spread("faster", st.improvement(-steps, -base_steps))
    first = np.where(steps == base_steps, 0.0, np.where(steps < base_steps, 1.0, -1.0))
    return row | {"p_steps": st.sign_flip(first.ravel())}


def longest(results: Sequence[Result]) -> list[Row]:
    """One row for each cell and series of which several lengths were tried: the longest solved, None if not even the
    shortest, and the longest tried: where they are equal, the cell may reach further. None too where some runs have no
    figures (`unknown`)."""
    found: dict[tuple[str, str], list[list[Result]]] = {}
    for group in _group(results).values():
        if group[0].slot.series is not None:
            found.setdefault((group[0].slot.cell, group[0].slot.series), []).append(group)
    rows = []
    for (cell, name), groups in found.items():
        shares = [(group[0].slot.length, sum(run.status == SOLVED for run in group) / len(group)) for group in groups]
        lengths = {length for length, _ in shares}
        if len(lengths) > 1:
            unknown = sum(not whole([run]) for group in groups for run in group)
            rows.append({"cell": cell, "series": name, "longest": None if unknown else st.longest_solved(shares),
                         "tried": max(lengths), "lengths": len(lengths), "unknown": unknown})  # fmt: skip
    return rows


def profiles(results: Sequence[Result]) -> list[Row]:
    """The share of a cell's runs with a score above each threshold, with a pointwise band over seeds."""
    rows = []
    cells: dict[str, list[list[Result]]] = {}
    for (cell, _), group in _group(results).items():
        cells.setdefault(cell, []).append(group)
    for cell, groups in cells.items():
        columns = [_column(group, "score") for group in groups if group[0].slot.spec.score(0.0) is not None]
        if not columns or not all(map(whole, groups)):
            continue
        for values in zip(THRESHOLDS, *st.profile_band(np.hstack(columns), THRESHOLDS)):
            rows.append({"cell": cell} | dict(zip(("threshold", "share", "share_low", "share_high"), values)))
    return rows


def curves(results: Sequence[Result]) -> list[Row]:
    """One row for each evaluation in training."""
    return [{"cell": run.slot.cell, "env": run.slot.env, "length": run.slot.length, "seed": run.slot.seed,
             "step": step, "success": rate} for run in results for step, rate in run.curve]  # fmt: skip


def write_csv(path: Path, rows: Sequence[Row], header: Sequence[str] = ()) -> None:
    """`header` stands where there are no rows. Whole numbers in full, others with six digits. Raises RunError."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = list(rows[0]) if rows else list(header)
    writer.writerow(names)
    writer.writerows([_text(row[name]) for name in names] for row in rows)
    write_text(path, text.getvalue())


def _text(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else f"{value:.6g}"
    return str(value)


def read_tables(out: Path) -> dict[str, list[Row]]:
    """{name: rows} of the CSV files that `write_tables` made: numbers as int or float, an empty field as None.
    Raises RunError."""
    found = {}
    for name in NAMES:
        try:
            with open(out / f"{name}.csv", encoding="utf-8", newline="") as file:
                found[name] = [{key: _value(text) for key, text in row.items()} for row in csv.DictReader(file)]
        except OSError as error:
            raise RunError(f"cannot read {out / name}.csv: {error.strerror or error}") from error
    return found


def _value(text: str) -> int | float | str | None:
    if not text:
        return None
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def write_tables(out: Path, results: Sequence[Result], baseline: str,
                 reaches: Sequence[tuple[Slot, reach.Reach]] = ()) -> None:  # fmt: skip
    """Writes all of them to the folder `out`; `reaches` are of the runs whose agents were looked into. Raises RunError."""
    tables = {
        "results": [result.row() for result in results], "summary": summary(results), "curves": curves(results),
        "ranking": ranking(results, baseline), "longest": longest(results), "profiles": profiles(results),
        **reach.rows(reaches),
    }  # fmt: skip
    headers = {"curves": ("cell", "env", "length", "seed", "step", "success"),
               "longest": ("cell", "series", "longest", "tried", "lengths", "unknown"),
               "profiles": ("cell", "threshold", "share", "share_low", "share_high"), **reach.NAMES}  # fmt: skip
    for name in NAMES:
        write_csv(out / f"{name}.csv", tables[name], headers.get(name, ()))
