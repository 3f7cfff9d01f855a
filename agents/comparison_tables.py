"""Runs on disk -> tables: one row a run, one a cell and task, one a cell over all tasks, and learning curves.

Pure but for reading; no clock, so the same runs give the same bytes. Seeds are the unit of replication throughout.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agents import statistics as st
from agents.runlog import read_metrics, write_text

Row = dict[str, Any]


@dataclass(frozen=True)
class Entry:
    """One run and where it belongs. `why` is None where it is done."""

    cell: str
    task: str
    env: str
    length: int | None
    seed: int
    budget: int
    folder: Path
    why: str | None = None


def results(entries: Sequence[Entry], solved: float) -> list[Row]:
    """One row a run, failed ones too. `measure` is the normalised score, or where a task has none the success rate."""
    return [_result(entry, solved) for entry in entries]


def _result(e: Entry, solved: float) -> Row:
    row: Row = {"task": e.task, "env": e.env, "length": e.length, "cell": e.cell, "seed": e.seed,
                "status": "done" if e.why is None else "failed", "reason": e.why, "budget": e.budget}  # fmt: skip
    found = dict.fromkeys(("steps", "solved_at", "success", "return", "score", "measure"))
    if e.why is None:
        report = json.loads((e.folder / "evaluation.json").read_text())
        greedy = report["greedy"]
        watched = [r for r in read_metrics(e.folder / "metrics.jsonl", with_time=False) if "eval/success" in r]
        score = greedy.get("score")
        found |= {"steps": report["step"], "success": greedy["success_rate"], "return": greedy["mean_return"],
                  "score": score, "measure": greedy["success_rate"] if score is None else score,
                  "solved_at": next((r["step"] for r in watched if r["eval/success"] >= solved), None)}  # fmt: skip
    return row | found


def curves(entries: Sequence[Entry]) -> list[Row]:
    """One row a greedy evaluation in training."""
    return [{"task": e.task, "cell": e.cell, "seed": e.seed, "step": r["step"], "success": r["eval/success"]}
            for e in entries if e.why is None
            for r in read_metrics(e.folder / "metrics.jsonl", with_time=False) if "eval/success" in r]  # fmt: skip


def summary(rows: Sequence[Row]) -> list[Row]:
    """One row a cell and task: means over seeds with intervals, and steps to solve with censored runs counted as such.

    A failed run is not averaged away: with one among its seeds, a row has no means, only the counts.
    """
    found = []
    for (task, cell), group in _groups(rows, "task", "cell").items():
        good = [r for r in group if r["status"] == "done"]
        row: Row = {"task": task, "env": group[0]["env"], "length": group[0]["length"], "cell": cell, "runs": len(group),
                    "failed": len(group) - len(good), "solved": sum(r["solved_at"] is not None for r in good)}  # fmt: skip
        names = ("success", "measure")
        row |= {f"{name}{end}": None for name in names for end in ("", "_low", "_high")}
        row |= {"median_steps_to_solve": None, "censored_at": group[0]["budget"]}
        if len(good) == len(group):
            for name in names:
                mean = st.estimate([[r[name]] for r in good])
                row |= {name: mean.value, f"{name}_low": mean.low, f"{name}_high": mean.high}
            steps = [[math.inf if r["solved_at"] is None else r["solved_at"]] for r in good]
            median = float(st.median_steps(steps))
            row["median_steps_to_solve"] = median if math.isfinite(median) else None
        found.append(row)
    return found


def overall(rows: Sequence[Row], baseline: str) -> list[Row]:
    """One row a cell over all tasks: IQM and mean of the measure, the probability that a run of it beats one of the baseline,
    and the p-value of no difference, paired by task and seed, by Holm's correction for the number of cells.

    Cells with a failed run come last, without figures.
    """
    matrices = {cell: matrix for (cell,), group in _groups(rows, "cell").items() if (matrix := _matrix(group)) is not None}
    failed = {cell: sum(r["status"] != "done" for r in group) for (cell,), group in _groups(rows, "cell").items()}
    rivals = [cell for cell in matrices if cell != baseline] if baseline in matrices else []
    values = st.holm([st.sign_flip((matrices[c] - matrices[baseline]).ravel()) for c in rivals])
    adjusted = dict(zip(rivals, values, strict=True))
    found = []
    for cell, count in failed.items():
        row: Row = {"cell": cell, "failed": count} | dict.fromkeys(
            ("iqm", "iqm_low", "iqm_high", "mean", "mean_low", "mean_high", "beats_baseline", "beats_low", "beats_high",
             "difference", "p_holm"))  # fmt: skip
        if cell in matrices:
            for name, statistic in (("iqm", st.iqm), ("mean", st.mean)):
                e = st.estimate(matrices[cell], statistic)
                row |= {name: e.value, f"{name}_low": e.low, f"{name}_high": e.high}
        if cell in rivals:
            e = st.improvement(matrices[cell], matrices[baseline])
            row |= {"beats_baseline": e.value, "beats_low": e.low, "beats_high": e.high, "p_holm": adjusted[cell],
                    "difference": float((matrices[cell] - matrices[baseline]).mean())}  # fmt: skip
        found.append(row)
    return sorted(found, key=lambda r: -math.inf if r["iqm"] is None else r["iqm"], reverse=True)


def longest(rows: Sequence[Row]) -> list[Row]:
    """One row a cell and environment that has lengths: the longest up to which at least half of the runs solve."""
    found = []
    for (env, cell), group in _groups([r for r in rows if r["length"] is not None], "env", "cell").items():
        lengths = {r["length"] for r in group}
        if len(lengths) < 2:
            continue
        shares = [(n, np.mean([r["solved_at"] is not None for r in group if r["length"] == n])) for n in sorted(lengths)]
        found.append({"env": env, "cell": cell, "longest_solved": st.longest_solved(shares), "longest_tried": max(lengths)})
    return found


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Numbers in their shortest exact form, None as an empty field; nothing where there are no rows."""
    if not rows:
        return
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def _groups(rows: Sequence[Row], *keys: str) -> dict[tuple, list[Row]]:
    found: dict[tuple, list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row[key] for key in keys), []).append(row)
    return found


def _matrix(group: Sequence[Row]) -> np.ndarray | None:
    """(seeds, tasks) of the measure; None with a failed run among them."""
    if any(row["status"] != "done" for row in group):
        return None
    tasks = _groups(group, "task")
    return np.array([[row["measure"] for row in column] for column in tasks.values()], float).T
