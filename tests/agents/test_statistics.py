"""Statistics against rliable (committed figures), scipy, and slow obvious twins; and that the seed is what is resampled."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from agents import statistics as st

FIGURES = json.loads((Path(__file__).parents[1] / "data" / "rliable.json").read_text())
STATISTICS = {"mean": st.mean, "iqm": st.iqm, "profile": lambda x: st.profile(x, FIGURES["thresholds"])}


def rliable_indices(rng: np.random.RandomState, shape: tuple[int, int]) -> np.ndarray:
    return rng.choice(shape[0], shape, replace=True)


@pytest.mark.parametrize("statistic", STATISTICS)
@pytest.mark.parametrize("case", FIGURES["cases"])
def test_equals_rliable(case, statistic):
    """Point estimates, and intervals from the same resamples, to 1e-12."""
    entry, function = FIGURES["cases"][case], STATISTICS[statistic]
    scores, rng = np.array(entry["scores"]), np.random.RandomState(entry["seed"])
    indices = np.array([rliable_indices(rng, scores.shape) for _ in range(FIGURES["reps"])])
    assert np.allclose(function(scores), entry[statistic]["point"], rtol=0, atol=1e-12)
    interval = st.band(function(st.resample(scores, indices)))
    assert np.allclose(np.reshape(interval, (2, -1)), entry[statistic]["interval"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("case", FIGURES["pairs"])
def test_probability_of_improvement_equals_rliable(case):
    entry = FIGURES["pairs"][case]
    x, y, rng = np.array(entry["x"]), np.array(entry["y"]), np.random.RandomState(entry["seed"])
    drawn = [(rliable_indices(rng, x.shape), rliable_indices(rng, y.shape)) for _ in range(FIGURES["reps"])]
    of_x, of_y = (np.array(indices) for indices in zip(*drawn))
    assert math.isclose(st.better(x, y), entry["point"][0], abs_tol=1e-12)
    interval = st.band(st.better(st.resample(x, of_x), st.resample(y, of_y)))
    assert np.allclose(interval, np.ravel(entry["interval"]), rtol=0, atol=1e-12)
    own = st.improvement(x, y)  # with resamples of our own: Monte Carlo error
    assert math.isclose(own.value, entry["point"][0], abs_tol=1e-12)
    assert np.allclose(own[1:], np.ravel(entry["interval"]), atol=0.06)


@pytest.mark.parametrize("case", FIGURES["cases"])
def test_own_resamples_agree_within_monte_carlo_error(case):
    entry = FIGURES["cases"][case]
    for name in ("mean", "iqm"):
        own = st.estimate(entry["scores"], STATISTICS[name])
        assert np.allclose(own[1:], np.ravel(entry[name]["interval"]), atol=0.06), name


def test_equals_scipy():
    x, y = np.random.default_rng(0).normal(size=(2, 9, 5))
    assert math.isclose(st.iqm(x), stats.trim_mean(x, 0.25, axis=None), rel_tol=1e-12)
    u = [stats.mannwhitneyu(x[:, k], y[:, k]).statistic / 81 for k in range(5)]
    assert math.isclose(st.better(x, y), np.mean(u), rel_tol=1e-12)
    wilson = stats.binomtest(3, 7).proportion_ci(0.95, "wilson")
    assert st.wilson(3, 7) == (3 / 7, wilson.low, wilson.high)


def test_resamples_are_stratified():
    """Each resample takes every task N times, from that task's runs, and the tasks are drawn independently."""
    scores = np.arange(12.0).reshape(4, 3)  # run r of task m: 3 r + m
    indices = st.draw(scores.shape, 500)
    drawn = st.resample(scores, indices)
    assert drawn.shape == (500, 4, 3) and (drawn % 3 == np.arange(3)).all()
    assert set(indices.ravel()) == {0, 1, 2, 3}
    together = np.corrcoef(drawn.mean(1).T)[np.triu_indices(3, 1)]
    assert np.abs(together).max() < 0.15
    assert (st.draw((4, 3), 500) == indices).all()  # the same in every process


# --- the seed is the unit of replication --------------------------------------------------------------------------------


def coverage(interval, runs: int = 8, episodes: int = 400, experiments: int = 150) -> float:
    """How often a 95 % interval of the mean success covers the truth where agents differ: each run has a success rate of its
    own, with mean 0.6, and is evaluated on many episodes."""
    rng, hits = np.random.default_rng(0), 0
    for _ in range(experiments):
        rates = rng.beta(1.2, 0.8, runs)
        wins = rng.binomial(1, rates[:, None], (runs, episodes))
        low, high = interval(wins)
        hits += low <= 0.6 <= high
    return hits / experiments


def test_intervals_are_over_seeds():
    """A bootstrap over episodes covers the truth in a small part of the cases, ours with eight runs in nine of ten."""
    indices = {n: st.draw((n, 1), 400) for n in (8, 3200)}
    over_seeds = coverage(lambda wins: st.estimate(wins.mean(1)[:, None], indices=indices[8])[1:])
    over_episodes = coverage(lambda wins: st.band(wins.ravel()[indices[3200][..., 0]].mean(-1)))
    assert over_seeds > 0.85 and over_episodes < 0.35, (over_seeds, over_episodes)


def test_more_episodes_do_not_narrow_an_interval():
    rates = np.array([[1.0], [0.5], [1.0], [0.5]])
    wide = st.estimate(rates)
    assert wide.value == 0.75 and (wide.low, wide.high) == (0.5, 1.0)


def test_a_run_without_a_score_is_not_averaged_away():
    with pytest.raises(ValueError, match="a run has no score"):
        st.estimate([[1.0], [math.nan]])


def test_one_run_has_no_interval():
    assert st.estimate([[0.3, 0.5]]).value == 0.4 and np.isnan(st.estimate([[0.3, 0.5]])[1:]).all()
    assert np.isnan(st.improvement([[1.0]], [[0.0], [1.0]])[1:]).all()
    share, low, high = st.profile_band([[0.3]], [0.0, 0.5])
    assert share.tolist() == [1, 0] and np.isnan([low, high]).all()


def test_both_sides_are_resampled_apart():
    """Drawn together, the same numbers on both sides would always give a half."""
    x = np.arange(5.0)[:, None]
    rng = np.random.default_rng(0)
    apart = st.band(np.array([st.better(x[rng.integers(0, 5, 5)], x[rng.integers(0, 5, 5)]) for _ in range(4000)]))
    together = st.band(np.array([st.better(x[i], x[i]) for i in (rng.integers(0, 5, 5) for _ in range(4000))]))
    assert together == (0.5, 0.5)
    assert np.allclose(st.improvement(x, x)[1:], apart, atol=0.04)


# --- censored steps ------------------------------------------------------------------------------------------------------


def kaplan_meier_median(steps: list[float], budget: float) -> float:
    """The definition, slowly: the product over the times at which runs solved; inf where it stays above a half."""
    surviving = 1.0
    for t in sorted({s for s in steps if math.isfinite(s)}):
        at_risk = sum(min(s, budget) >= t for s in steps)
        surviving *= 1 - steps.count(t) / at_risk
        if surviving <= 0.5 + 1e-12:
            return t
    return math.inf


def test_median_steps_are_kaplan_and_meiers():
    rng = np.random.default_rng(0)
    for n in range(1, 8):
        for _ in range(40):
            steps = rng.integers(1, 6, n).astype(float)
            steps[rng.random(n) < 0.4] = math.inf
            assert st.median_steps(steps[:, None]) == kaplan_meier_median(list(steps), 10), steps


def test_censoring_is_never_filled_in():
    half = np.array([[100.0], [200.0], [math.inf], [math.inf]])
    assert st.estimate(half, st.median_steps, "inverted_cdf") == (200, 100, math.inf)
    assert st.median_steps([[100.0], [math.inf], [math.inf]]) == math.inf
    never = np.full((3, 1), math.inf)
    assert st.better(-half, -np.full((4, 1), math.inf)) == 0.5 * 1 + 0.5 * 0.5  # two censored runs tie
    assert st.estimate(never, st.median_steps, "inverted_cdf") == (math.inf,) * 3


# --- comparisons ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 4, 9])
def test_sign_flip_is_scipys_permutation_test(n):
    d = np.random.default_rng(n).normal(0.4, 1, n)
    d[: n // 4] = 0
    known = stats.permutation_test((d,), np.sum, permutation_type="samples", n_resamples=np.inf)
    assert math.isclose(st.sign_flip(d), known.pvalue, rel_tol=1e-9)


def test_sign_flip_of_many_pairs():
    rng = np.random.default_rng(1)
    few, many = rng.normal(0.2, 1, 16), rng.normal(0.2, 1, 17)
    slow = np.mean([abs(np.dot(s, many)) >= abs(many.sum()) for s in itertools.product((1, -1), repeat=17)])
    assert math.isclose(st.sign_flip(many), slow, abs_tol=0.005)
    assert math.isclose(st.sign_flip([*few, 0.0]), st.sign_flip(few), rel_tol=1e-12)  # a tie says nothing
    assert st.sign_flip(np.ones(40)) == 1 / (1 + st.FLIPS)  # random patterns: the one seen counts, so p is never 0
    assert st.sign_flip([0.0, 0.0]) == 1 and st.sign_flip([1.0] * 3) == 0.25


def test_holm():
    """Against the step-down procedure itself: rejected at a level exactly if the adjusted value is not above it."""
    assert np.allclose(st.holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])  # Wikipedia's worked example
    rng = np.random.default_rng(3)
    for n in (1, 2, 7):
        p = list(rng.beta(0.3, 2, n))
        for level in (0.01, 0.05, 0.2):
            rejected: set[int] = set()
            for rank, i in enumerate(np.argsort(p)):
                if p[i] > level / (n - rank):
                    break
                rejected.add(int(i))
            assert {i for i, q in enumerate(st.holm(p)) if q <= level} == rejected
    assert st.holm([]) == [] and st.holm([0.7, 0.9]) == [1.0, 1.0]


def test_longest_solved():
    assert st.longest_solved([(100, 0.0), (10, 1.0), (50, 0.5), (250, 1.0)]) == 50  # a gap ends it
    assert st.longest_solved([(10, 0.4), (20, 1.0)]) is None
    assert st.longest_solved([(10, 1.0), (20, 1.0)]) == 20
