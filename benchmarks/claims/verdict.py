"""Runs -> statements with intervals -> a verdict. All rules are here, stated in code and nowhere else.

A *statement* bounds a quantity estimated from the seeds by a two-sided 95 % Student interval: of a mean (`one`), or of a
difference of two arms' means without assuming equal variances (`difference`, Welch). Seeds are not paired: two arms share a
seed's data, but their spread comes from the initial weights, which differ. A statement is True where the whole interval lies
on the claimed side, False where it lies on the other, None (open) otherwise. A claim is *shown* if all its statements are
True, *refuted* if one is False, *undecided within budget* otherwise. No correction for several statements is made: "shown"
needs all of them, which makes it harder, but for `either` and `all_but`, which make it easier; "refuted" is at 97.5 %
one-sided per statement.

Steps to solve are compared as log2. A run that did not solve stands at its last step, which is less than it would need: so
for the claimed slower arm its bound is safe, and for the claimed faster arm the interval is opened to infinity.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

SHOWN, REFUTED, UNDECIDED = "shown", "refuted", "undecided within budget"
LEVEL = 0.95


@dataclass(frozen=True)
class Statement:
    """`truth` is True, False or None (open); `text` holds the numbers."""

    text: str
    truth: bool | None


@dataclass(frozen=True)
class Interval:
    mean: float
    low: float
    high: float

    def __str__(self):
        return f"{self.mean:.3g} [{self.low:.3g}, {self.high:.3g}]"


# --- what is estimated ------------------------------------------------------------------------------------------------


def final(run: dict, metric: str = "loss") -> float:
    """The last evaluation; "loss" is in units of the memoryless one."""
    return run["curve"][-1][metric]


def best(run: dict, metric: str = "accuracy") -> float:
    """Mean of the last three evaluations, which a single lucky one cannot move far."""
    return float(np.mean([row[metric] for row in run["curve"][-3:]]))


def area(run: dict) -> float:
    """Mean loss over the budget, in units of the memoryless one: where a run stopped early, it stays at its last value."""
    steps = np.array([0, *(row["step"] for row in run["curve"]), run["spec"]["steps"]])
    loss = np.array([row["loss"] for row in run["curve"]])
    return float((np.diff(steps) * np.append(loss, loss[-1])).sum() / steps[-1])


def solved_at(run: dict, metric: str, bound: float) -> int | None:
    """The step of the first of two evaluations in a row at or beyond `bound` (a last one may stand alone), or None."""
    good = [row[metric] <= bound if metric == "loss" else row[metric] >= bound for row in run["curve"]]
    for k, row in enumerate(run["curve"]):
        if good[k] and (k + 1 == len(good) or good[k + 1]):
            return row["step"]
    return None


# --- intervals --------------------------------------------------------------------------------------------------------


def one(values: Sequence[float]) -> Interval:
    """Of the mean; needs two values to be finite."""
    x = np.asarray(values, float)
    if len(x) < 2:
        return Interval(float(x.mean()), -math.inf, math.inf)
    half = stats.t.ppf(0.5 + LEVEL / 2, len(x) - 1) * x.std(ddof=1) / math.sqrt(len(x))
    return Interval(float(x.mean()), float(x.mean() - half), float(x.mean() + half))


def difference(a: Sequence[float], b: Sequence[float]) -> Interval:
    """Of mean(a) - mean(b), Welch."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    mean = float(a.mean() - b.mean())
    if min(len(a), len(b)) < 2:
        return Interval(mean, -math.inf, math.inf)
    va, vb = a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)
    if va + vb == 0:
        return Interval(mean, mean, mean)
    freedom = (va + vb) ** 2 / (va**2 / (len(a) - 1) + vb**2 / (len(b) - 1))
    half = float(stats.t.ppf(0.5 + LEVEL / 2, freedom)) * math.sqrt(va + vb)
    return Interval(mean, mean - half, mean + half)


# --- statements -------------------------------------------------------------------------------------------------------


def below(text: str, interval: Interval, bound: float) -> Statement:
    truth = True if interval.high < bound else False if interval.low > bound else None
    return Statement(f"{text}: {interval}, claimed below {bound:.3g}", truth)


def above(text: str, interval: Interval, bound: float) -> Statement:
    truth = True if interval.low > bound else False if interval.high < bound else None
    return Statement(f"{text}: {interval}, claimed above {bound:.3g}", truth)


def faster(name: str, fast: Sequence[dict], other: str, slow: Sequence[dict], metric: str, bound: float) -> Statement:
    """`fast` needs fewer steps than `slow` to reach `bound`."""
    steps, censored = [], []
    for runs in (fast, slow):
        found = [solved_at(run, metric, bound) for run in runs]
        steps.append([math.log2(s or run["spec"]["steps"]) for s, run in zip(found, runs)])
        censored.append(None in found)
    interval = difference(*steps)
    interval = Interval(interval.mean, -math.inf if censored[1] else interval.low,
                        math.inf if censored[0] else interval.high)  # fmt: skip
    # steps that an unsolved run of the slow arm would still have taken only widen its lead: the upper bound stands
    text = f"log2 of steps to {metric} {bound:g}, {name} ({_count(fast, metric, bound)}) minus {other}"
    return below(f"{text} ({_count(slow, metric, bound)})", interval, 0.0)


def surer(name: str, sure: Sequence[dict], other: str, unsure: Sequence[dict], metric: str, bound: float) -> Statement:
    """More runs of `sure` than of `unsure` solve: Fisher's exact test, one-sided, at 5 % (3 of 3 against 0 of 3 is 0.05)."""
    a, b = (sum(solved_at(run, metric, bound) is not None for run in runs) for runs in (sure, unsure))
    table = [[a, len(sure) - a], [b, len(unsure) - b]]
    more, fewer = (float(stats.fisher_exact(table, side).pvalue) for side in ("greater", "less"))
    truth = True if more <= 0.05 + 1e-9 else False if fewer <= 0.05 + 1e-9 else None
    return Statement(
        f"solved ({metric} {bound:g}): {name} {a}/{len(sure)}, {other} {b}/{len(unsure)}, p = {more:.3g}", truth
    )


def _count(runs: Sequence[dict], metric: str, bound: float) -> str:
    return f"solved {sum(solved_at(run, metric, bound) is not None for run in runs)}/{len(runs)}"


def either(*statements: Statement) -> Statement:
    """True if one is, False if all are."""
    truths = [s.truth for s in statements]
    truth = True if True in truths else False if all(t is False for t in truths) else None
    return Statement(" — or — ".join(s.text for s in statements), truth)


def all_but(k: int, statements: Sequence[Statement], text: str) -> Statement:
    """At most k of them fail: True if all but k are True at least, False if more than k are False."""
    truths = [s.truth for s in statements]
    truth = True if len(truths) - truths.count(True) <= k else False if truths.count(False) > k else None
    return Statement(f"{text}: " + "; ".join(s.text for s in statements), truth)


def conclude(statements: Sequence[Statement]) -> str:
    truths = [s.truth for s in statements]
    return REFUTED if False in truths else SHOWN if truths and all(truths) else UNDECIDED
