"""Comparisons that nobody has run: results by hand, for the tests of tables, figures and the page."""

from collections.abc import Callable
from pathlib import Path

import envs
from agents.results import CENSORED, FAILED, PENDING, SOLVED, Result, Slot

BUDGET = 100_000
#: (cell, env, length, seed) -> (success, steps to solve or None), or FAILED or PENDING
Rule = Callable[[str, str, int, int], tuple[float, int | None] | str]


def compared(cells: str, tasks: dict[str, tuple[int, ...]], seeds: int, rule: Rule) -> list[Result]:
    """The results that `rule` gives; returns and scores follow from the success rate by the environment's figures."""
    found = []
    for seed in range(1, seeds + 1):
        for env, lengths in tasks.items():
            for length in lengths:
                spec = envs.make(env, 1, corridor_length=length).spec
                for cell in cells.split():
                    folder = Path(f"{env}-{length}-{cell}-s{seed}")
                    slot = Slot(folder, cell, env, length, seed, 1e-3, BUDGET, 1000, spec, 0.95, env.partition("-")[0])
                    found.append(_result(slot, rule(cell, env, length, seed)))
    return found


def _result(slot: Slot, what: tuple[float, int | None] | str) -> Result:
    if what in (FAILED, PENDING):
        return Result(slot, what)
    success, solved_at = what
    mean_return = slot.spec.r0 + (slot.spec.r_star - slot.spec.r0) * (2 * success - 1)  # chance is a half
    end = solved_at or BUDGET
    curve = tuple((step, success if step == end else 0.5) for step in sorted({20_000, end}) if step <= end)
    return Result(slot, CENSORED if solved_at is None else SOLVED, end, solved_at, 1000, success, mean_return,
                  slot.spec.score(mean_return), curve)  # fmt: skip
