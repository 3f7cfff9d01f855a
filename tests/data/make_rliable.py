"""Makes rliable.json: what the package rliable (Agarwal et al. 2021) says of a few score matrices.

    pip install rliable "pandas<3"          # in an environment of its own; arch 7.2 does not load with pandas 3
    python tests/data/make_rliable.py

A case holds its scores, a seed, point estimates and 95 % intervals. Before each interval numpy's global generator, which
rliable draws its resamples from, is seeded with the case's seed; so the same resamples can be drawn again.
"""

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np

TARGET = Path(__file__).with_name("rliable.json")
REPS = 400
THRESHOLDS = [0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0]


def cases() -> dict[str, np.ndarray]:
    """Matrices (runs, tasks): smooth, with ties, saturated at 0 and 1, one task, many runs."""
    rng = np.random.default_rng(2021)
    return {
        "smooth": rng.normal(0.5, 0.3, (5, 4)),
        "ties": rng.integers(0, 5, (7, 3)) / 4,
        "saturated": (rng.random((3, 3)) < 0.6).astype(float),
        "one task": rng.random((10, 1)),
        "wide": rng.beta(0.5, 0.5, (6, 9)),
    }


def measure() -> dict:
    from rliable import library, metrics

    statistics = {
        "mean": lambda x: np.array([metrics.aggregate_mean(x)]),
        "iqm": lambda x: np.array([metrics.aggregate_iqm(x)]),
        "profile": lambda x: library.score_distributions(x, np.array(THRESHOLDS)),
    }
    found = {"versions": {name: version(name) for name in ("rliable", "arch", "numpy", "scipy")}, "reps": REPS,
             "thresholds": THRESHOLDS, "cases": {}, "pairs": {}}  # fmt: skip
    for seed, (name, scores) in enumerate(cases().items()):
        entry = found["cases"][name] = {"seed": seed, "scores": scores.tolist()}
        for statistic, function in statistics.items():
            np.random.seed(seed)
            point, interval = library.get_interval_estimates({"x": scores}, function, reps=REPS)
            entry[statistic] = {"point": point["x"].tolist(), "interval": interval["x"].tolist()}
    rng = np.random.default_rng(7)
    for seed, (name, scores) in enumerate(cases().items()):
        other = np.clip(np.round(scores[:-1] + rng.normal(-0.1, 0.2, scores[:-1].shape), 1), 0, 1)
        np.random.seed(seed)
        point, interval = library.get_interval_estimates(
            {"x": [scores, other]}, lambda x, y: np.array([metrics.probability_of_improvement(x, y)]), reps=REPS)
        found["pairs"][name] = {"seed": seed, "x": scores.tolist(), "y": other.tolist(), "point": point["x"].tolist(),
                                "interval": interval["x"].tolist()}  # fmt: skip
    return found


if __name__ == "__main__":
    TARGET.write_text(json.dumps(measure(), indent=1) + "\n")
