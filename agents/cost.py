"""How long the runs of a comparison will take, from a quick measurement or the record of an earlier one."""

from __future__ import annotations

import hashlib
import json
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from agents.runlog import write_text
from agents.trainer import Trainer

#: seconds from the start of a process to its first update: importing torch, mainly
START = 4.0
Pair = tuple[str, str]
Config = TypeVar("Config")


def of_run(trainer: Trainer, watch: Callable[[], object], evaluate_every: int, final: float) -> float:
    """Seconds of a whole run: its updates, an evaluation every `evaluate_every` of them, and two, greedy and sampled, at the
    end, each `final` times as long. Measures one update (after another that fills caches) and one evaluation."""
    trainer.iterate()
    step, began = trainer.step, time.perf_counter()
    trainer.iterate()
    update = time.perf_counter() - began
    updates = trainer.steps / max(trainer.step - step, 1)
    began = time.perf_counter()
    watch()
    evaluation = time.perf_counter() - began
    return START + updates * (update + evaluation / evaluate_every) + 2 * final * evaluation


def estimate(record: Path, configs: Mapping[Pair, Config], measure: Callable[[Config], float]) -> dict[Pair, float]:
    """Seconds of a run of each (cell, task). Every cell is measured on the first task and every task with the first cell; the
    rest follows in proportion. A cell that fails is taken as the median of the others. What was measured is kept in the file
    `record`, and not measured again with the same config. Raises RunError."""
    cells, tasks = (list(dict.fromkeys(pair[k] for pair in configs)) for k in (0, 1))
    try:
        known: dict[str, float | None] = json.loads(record.read_text())
    except (OSError, ValueError):
        known = {}
    found: dict[Pair, float | None] = {}
    for pair in [(cell, tasks[0]) for cell in cells] + [(cells[0], task) for task in tasks[1:]]:
        key = " ".join((*pair, hashlib.sha256(repr(configs[pair]).encode()).hexdigest()[:16]))
        if key not in known:
            try:
                known[key] = measure(configs[pair])
            except Exception:  # it will be told of as a failed run
                known[key] = None
        found[pair] = known[key]
    write_text(record, json.dumps(known, indent=1) + "\n")
    of_cell = _filled({cell: found[cell, tasks[0]] for cell in cells})
    of_task = _filled({task: found[cells[0], task] for task in tasks})
    base = of_task[tasks[0]]
    return {(cell, task): of_cell[cell] * of_task[task] / base for cell, task in configs}


def _filled(values: Mapping[str, float | None]) -> dict[str, float]:
    middle = statistics.median([v for v in values.values() if v is not None] or [START])
    return {key: middle if value is None else value for key, value in values.items()}
