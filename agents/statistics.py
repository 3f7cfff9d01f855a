"""Statistics of a comparison, as pure functions of numbers. The seed is the unit of replication: one number a run.

Scores of one method are a matrix (N runs, M tasks). Its uncertainty is that of other seeds on the same tasks, so a resample
draws N runs anew within each task, independently of the other tasks (stratified bootstrap; Agarwal et al. 2021, arXiv
2108.13264; their package rliable computes the same, and the tests compare). With few runs its intervals are too narrow: of
nominal 95 %, 75 % cover the mean of one task with N = 3, 84 % with 5, 89 % with 8 (simulated normal scores). Episodes are not
resampled: those of one run share one agent, and agents differ far more than their episodes.

Every statistic takes (..., N, M), so that all resamples (R, N, M) go through at once.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

LEVEL = 0.95
RESAMPLES = 2000
#: pairs up to which all 2^n sign flips are tried
EXACT_PAIRS = 16
FLIPS = 100_000
Array = NDArray[np.float64]


class Estimate(NamedTuple):
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float


# --- what is estimated -----------------------------------------------------------------------------------------------


def mean(scores: ArrayLike) -> Array:
    """Mean over runs and tasks."""
    return np.mean(scores, axis=(-2, -1))


def iqm(scores: ArrayLike) -> Array:
    """Interquartile mean: of the middle half of all N M runs, whatever their task; floor(N M / 4) are cut at each end."""
    flat = np.sort(np.reshape(scores, (*np.shape(scores)[:-2], -1)), axis=-1)
    cut = flat.shape[-1] // 4
    return flat[..., cut : flat.shape[-1] - cut].mean(-1)


def profile(scores: ArrayLike, thresholds: ArrayLike) -> Array:
    """Performance profile: the share of all runs above each threshold, (..., len(thresholds))."""
    flat = np.reshape(scores, (*np.shape(scores)[:-2], -1, 1))
    return np.mean(flat > np.asarray(thresholds), axis=-2)


def better(x: ArrayLike, y: ArrayLike) -> Array:
    """Probability of improvement: P(X > Y) + P(X = Y) / 2 for a run of x and one of y on the same task, mean over tasks.

    Steps to solve go in with a minus sign and -inf for a censored run: two of these are a tie, and one is worse than
    any run that solved, which is all that is known.
    """
    a, b = np.asarray(x)[..., :, None, :], np.asarray(y)[..., None, :, :]
    return np.mean((a > b) + 0.5 * (a == b), axis=(-3, -2, -1))


def median_steps(steps: ArrayLike) -> Array:
    """The fewest steps by which at least half of the runs had solved (Kaplan and Meier's median, runs censored at one
    common budget); inf where fewer did. Censored runs are inf; (..., N, 1) only, for steps of different tasks differ in kind.
    """
    ordered = np.sort(np.asarray(steps, float)[..., 0], axis=-1)
    return ordered[..., (ordered.shape[-1] + 1) // 2 - 1]


# --- intervals -------------------------------------------------------------------------------------------------------


def draw(shape: tuple[int, int], resamples: int = RESAMPLES, seed: int = 0) -> NDArray[np.int64]:
    """(R, N, M) indices of runs: R stratified resamples of a matrix (N, M)."""
    return np.random.default_rng(seed).integers(0, shape[0], (resamples, *shape))


def resample(scores: ArrayLike, indices: NDArray[np.int64]) -> Array:
    """(N, M) -> (R, N, M)."""
    return np.take_along_axis(np.asarray(scores, float)[None], indices, axis=1)


def band(values: Array, method: str = "linear") -> tuple[Array, Array]:
    """The 95 % percentile interval of (R, ...) resampled values. `method` as in numpy.quantile: "inverted_cdf" where values
    may be infinite and only those that were seen have a meaning."""
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(values, [tail, 1 - tail], axis=0, method=method)
    return low, high


def estimate(scores: ArrayLike, statistic: Callable[[ArrayLike], Array] = mean, method: str = "linear",
             indices: NDArray[np.int64] | None = None) -> Estimate:  # fmt: skip
    """A statistic of (N, M) scores with its stratified bootstrap interval, which is NaN for a single run: its spread is not
    known. Raises ValueError where a score is NaN: a run without one is not averaged away."""
    scores = np.asarray(scores, float)
    if np.isnan(scores).any():
        raise ValueError("a run has no score")
    if len(scores) < 2:
        return Estimate(float(statistic(scores)), np.nan, np.nan)
    low, high = band(statistic(resample(scores, draw(scores.shape) if indices is None else indices)), method)
    return Estimate(float(statistic(scores)), float(low), float(high))


def improvement(x: ArrayLike, y: ArrayLike) -> Estimate:
    """`better` with its interval; the runs of x and of y are resampled independently."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    if min(len(x), len(y)) < 2:
        return Estimate(float(better(x, y)), np.nan, np.nan)
    low, high = band(better(resample(x, draw(x.shape, seed=1)), resample(y, draw(y.shape, seed=2))))
    return Estimate(float(better(x, y)), float(low), float(high))


def profile_band(scores: ArrayLike, thresholds: ArrayLike) -> tuple[Array, Array, Array]:
    """The performance profile and its pointwise band, NaN for a single run."""
    scores = np.asarray(scores, float)
    of = partial(profile, thresholds=thresholds)
    if len(scores) < 2:
        return of(scores), *[np.full(np.shape(thresholds), np.nan)] * 2
    return (of(scores), *band(of(resample(scores, draw(scores.shape)))))


def wilson(successes: int, trials: int) -> Estimate:
    """A share of independent trials with its Wilson interval."""
    from scipy import stats  # slow to import

    interval = stats.binomtest(successes, trials).proportion_ci(LEVEL, method="wilson")
    return Estimate(successes / trials, float(interval.low), float(interval.high))


# --- comparisons -----------------------------------------------------------------------------------------------------


def sign_flip(differences: ArrayLike) -> float:
    """Two-sided p-value of "no difference" for paired differences (n,): the share of sign patterns whose |sum| reaches the
    one seen. Exact up to EXACT_PAIRS pairs that differ, else from FLIPS random patterns, the one seen among them."""
    d = np.asarray(differences, float)
    d = d[d != 0]
    if not len(d):
        return 1.0
    exact = len(d) <= EXACT_PAIRS
    if exact:
        signs = np.array(list(itertools.product((1.0, -1.0), repeat=len(d))))
    else:
        signs = np.random.default_rng(0).choice((1.0, -1.0), (FLIPS, len(d)))
    reach = np.abs(signs @ d) >= abs(d.sum()) * (1 - 1e-12)
    return float(reach.mean() if exact else (1 + reach.sum()) / (1 + FLIPS))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) adjusted p-values, in the order given; rejecting below a level keeps the family-wise error below it."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = highest
    return adjusted


def longest_solved(solved: Sequence[tuple[int, float]]) -> int | None:
    """The longest length up to which, at every length tried, at least half of the runs solve; None where not even the
    shortest. `solved`: (length, share of runs that solved)."""
    longest = None
    for length, share in sorted(solved):
        if share < 0.5:
            break
        longest = length
    return longest
