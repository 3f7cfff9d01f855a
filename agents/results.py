"""What the runs of a comparison ended with: run folders -> rows. The rows hold nothing that depends on the clock."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agents.runlog import RunError, read_metrics
from agents.statistics import wilson
from envs.env import Spec

SOLVED, CENSORED, FAILED, PENDING = "solved", "censored", "failed", "pending"


@dataclass(frozen=True)
class Slot:
    """A run that the comparison wants, done or not. `env` is NAME or NAME-LEVEL; `budget` its steps at most; `series` the
    tasks that differ from its task in length alone, None where it has no length."""

    folder: Path
    cell: str
    env: str
    length: int | None
    seed: int
    learning_rate: float
    budget: int
    parameters: int
    spec: Spec
    solved: float
    series: str | None

    @property
    def task(self) -> tuple[str, int | None]:
        return self.env, self.length

    @property
    def label(self) -> str:
        return self.env if self.length is None else f"{self.env} {self.length}"


@dataclass(frozen=True)
class Result:
    """A slot and how it ended. Figures are None unless `status` is solved or censored.

    steps: environment steps made, which may be more than the budget by a part of the last update. solved_at: steps at the
    first greedy evaluation, in training or after it, with a success rate of `slot.solved`; None if there was none
    (censored). success, mean_return: greedy, after training.
    score: mean_return between the best without the ability under test (0) and the optimum (1); None where undefined.
    curve: (steps, success rate) of each evaluation in training.
    """

    slot: Slot
    status: str
    steps: int | None = None
    solved_at: int | None = None
    episodes: int | None = None
    success: float | None = None
    mean_return: float | None = None
    score: float | None = None
    curve: tuple[tuple[int, float], ...] = field(default=(), repr=False)

    def row(self) -> dict[str, Any]:
        """A line of results.csv."""
        slot = self.slot
        own = wilson(round(self.success * self.episodes), self.episodes) if self.episodes else None
        return {
            "cell": slot.cell, "env": slot.env, "length": slot.length, "seed": slot.seed,
            "learning_rate": slot.learning_rate, "parameters": slot.parameters, "budget": slot.budget, "steps": self.steps,
            "solved_at": self.solved_at, "success": self.success, "success_low": own and own.low,
            "success_high": own and own.high, "return": self.mean_return, "score": self.score, "status": self.status,
        }  # fmt: skip


def whole(runs: Iterable[Result]) -> bool:
    """Whether every run has its figures: none failed, none is still to be made."""
    return all(run.status in (SOLVED, CENSORED) for run in runs)


def done(folder: Path) -> bool:
    """Whether a run has ended with its final evaluation."""
    return (folder / "evaluation.json").is_file()


def makers(results: Iterable[Result]) -> dict[str, int]:
    """Code, versions and machine -> how many of the runs with figures they made."""
    found: dict[str, int] = {}
    for run in results:
        if not whole([run]):
            continue
        try:
            seen = json.loads((run.slot.folder / "versions.json").read_text())
            maker = "; then ".join(dict.fromkeys(_maker(part) for part in (seen, *seen.get("resumed", ()))))
        except (OSError, ValueError, KeyError, TypeError):
            maker = "not recorded"
        found[maker] = found.get(maker, 0) + 1
    return found


def _maker(seen: dict[str, Any]) -> str:
    git = seen["git"] or {}
    code = f"commit {git['commit'][:7]}{' with changes' if git['dirty'] else ''}" if git.get("commit") else "no commit"
    return ", ".join([code, *(f"{name} {seen[name]}" for name in ("torch", "numpy", "python")),
                      seen["gpu"] if seen.get("gpu") else seen["cpu"]])  # fmt: skip


def read_result(slot: Slot, failed: bool) -> Result:
    """`failed`: the run broke off with an error and is not done. Raises RunError where a run that is done is damaged."""
    if not done(slot.folder):
        return Result(slot, FAILED if failed else PENDING)
    rows = read_metrics(slot.folder / "metrics.jsonl")
    try:
        report = json.loads((slot.folder / "evaluation.json").read_text())
        curve = tuple((int(row["step"]), float(row["eval/success"])) for row in rows if "eval/success" in row)
        greedy, steps, episodes = report["greedy"], int(report["step"]), int(report["episodes"])
        success, mean_return = float(greedy["success_rate"]), float(greedy["mean_return"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{slot.folder} is damaged ({type(error).__name__}: {error}); remove it to run it again") from None
    solved_at = next((step for step, rate in (*curve, (steps, success)) if rate >= slot.solved), None)
    return Result(slot, CENSORED if solved_at is None else SOLVED, steps, solved_at, episodes, success, mean_return,
                  slot.spec.score(mean_return), curve)  # fmt: skip


def area(result: Result) -> float:
    """Mean success rate over the budget, each evaluation standing for the steps since the one before; a run that stopped
    early stays at its last."""
    total, before, rate = 0.0, 0, 0.0
    for step, rate in result.curve:
        step = min(step, result.slot.budget)
        total += rate * (step - before)
        before = step
    return (total + rate * (result.slot.budget - before)) / result.slot.budget


def best_rate(results: Sequence[Result]) -> float | None:
    """The learning rate of a sweep on one task: the highest mean score (of success rates, where no score is defined) to two
    decimals, then the largest area under the success curve, then the one listed first. A rate of which a run failed is not
    eligible; None where none is."""
    rates = dict.fromkeys(result.slot.learning_rate for result in results)
    best, choice = None, None
    for rate in rates:
        runs = [result for result in results if result.slot.learning_rate == rate]
        if not whole(runs):
            continue
        scores = [run.success if run.score is None else run.score for run in runs]
        merit = round(sum(scores) / len(runs), 2), sum(map(area, runs))
        if best is None or merit > best:
            best, choice = merit, rate
    return choice
