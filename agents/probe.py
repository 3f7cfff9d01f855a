"""The memory probe: how well a linear map reads the cue from the state, row by row after it was shown."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from agents.statistics import wilson

FOLDS = 5
#: strength of the ridge, per episode
RIDGE = 0.1
#: episodes that a step needs for its probe, and is given at most
FEWEST, MOST_EPISODES = 4 * FOLDS, 4096


def targets(cue: Tensor) -> dict[str, Tensor]:
    """What there is to read in the cues (N, k) of N episodes: a name and (N,) int64 classes each; constant ones left out.

    One-hot cues of three or more columns are one question, "class". Otherwise every column is one, "cue j": its value where
    it takes two of them, as a bit of +1 and -1 does, and else whether it lies above its median.
    """
    hot = cue.shape[1] > 2 and bool(((cue == 0) | (cue == 1)).all() and (cue.sum(1) == 1).all())
    if hot:
        found = {"class": cue.argmax(1)}
    else:
        middle = cue.median(0).values
        found = {f"cue {j}": (c == c.max() if len(c.unique()) == 2 else c > middle[j]).long()
                 for j, c in enumerate(cue.unbind(1))}  # fmt: skip
    return {name: classes for name, classes in found.items() if len(classes.unique()) > 1}


def cross_validated(x: Tensor, classes: Tensor, folds: int = FOLDS) -> Tensor:
    """(N,) bool: does a probe that never saw the episode name its class? x (N, D), classes (N,) int64; episode i is in fold
    i % `folds`.

    The probe is ridge regression from the states, standardised on the other folds, to +1 for the class and -1 for the
    others, in closed form; it names the class of the largest value. Units that do not move are left out of it.
    """
    x, fold = x.double(), torch.arange(len(x), device=x.device) % folds
    y = torch.nn.functional.one_hot(classes).double() * 2 - 1
    right = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    for k in range(folds):
        train = fold != k
        mean, spread = x[train].mean(0), x[train].std(0, correction=0)
        z = torch.where(spread > 1e-6 * (1 + mean.abs()), (x - mean) / spread.clamp(min=1e-12), 0)
        bias = y[train].mean(0)
        a, n = z[train], int(train.sum())
        weight = torch.linalg.solve(a.T @ a + RIDGE * n * torch.eye(x.shape[1], device=x.device).double(),
                                    a.T @ (y[train] - bias))  # fmt: skip
        right[~train] = (z[~train] @ weight + bias).argmax(1) == classes[~train]
    return right


def memory_probe(states: Tensor, age: Tensor, cue: Tensor, most: int) -> dict[str, dict[str, Any]]:
    """For each of `targets`: the accuracy of `cross_validated` by the step since the cue.

    states (T, B, D), the core's whole state after every row; cue (T, B, k); age (T, B): rows since it was new. What is to be
    read is the cue of the row itself. At most `most` steps, at equal distances, are probed, each by its own probe on
    MOST_EPISODES rows at most, and none with under 20. Lists: "step", "accuracy" with its 95 % Wilson "low" and "high",
    "chance" (the share of the commonest class) and "episodes". An environment that shows its cue later has its curve start
    at chance.
    """
    asked = {name: classes.view_as(age) for name, classes in targets(cue.flatten(0, 1)).items()}
    found = {name: {key: [] for key in ("step", "accuracy", "low", "high", "chance", "episodes")} for name in asked}
    longest = int(age.max())
    for step in torch.linspace(0, longest, min(most, longest + 1)).round().int().tolist():
        row, env = (age == step).nonzero(as_tuple=True)  # in order of the rows
        n = min(len(row), MOST_EPISODES)
        some = torch.arange(n, device=age.device) * len(row) // max(n, 1)
        row, env = row[some], env[some]
        for name, classes in asked.items():
            own = classes[row, env].unique(return_inverse=True)
            if n < FEWEST or len(own[0]) < 2:
                continue
            right = wilson(int(cross_validated(states[row, env], own[1]).sum()), n)
            now = (step, *right, float(own[1].bincount().max()) / n, n)
            for key, value in zip(found[name], now, strict=True):
                found[name][key].append(value)
    return {name: lists for name, lists in found.items() if lists["step"]}
