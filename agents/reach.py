"""How far the gates and the gradients of a trained agent reach: what a comparison shows of a run's diagnosis."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agents.diagnose import plain
from agents.results import Slot
from agents.runlog import RunError, write_text

#: environments that it is measured on, and lags that are kept
ENVS, LAGS = 16, 32
QUANTILES = (5, 25, 50, 75, 95, 100)
NAMES = {"lags": ("cell", "env", "length", "seed", "lag", "norm"),
         "horizons": ("cell", "env", "length", "seed", "units", *(f"q{q:02}" for q in QUANTILES))}  # fmt: skip
Reach = dict[str, Any]


def reach(report: dict[str, Any]) -> Reach:
    """Of a diagnosis (agents/diagnose.py). lags, norm: norm of d loss_t / d state_{t-k} over all parts of the state together,
    the root of the sum of their squares, at lags k from 0 on; horizons: quantiles over the units of 1 / (1 - mean keep), in
    rows, the last of them the longest unit's, with the number of units, None of a core without a gate."""
    parts = np.array(list(report["gradient"]["norm"].values()))
    norm = np.sqrt((parts**2).sum(0))
    lags = sorted({0, *np.geomspace(1, len(norm) - 1, LAGS).round().astype(int).tolist()})
    gates = report["gates"]
    horizons = None
    if gates:
        units = np.array(gates["horizon_of_unit"])
        horizons = [len(units), *np.percentile(units, QUANTILES, method="nearest").tolist()]
    return {"lags": lags, "norm": norm[lags].tolist(), "horizons": horizons}


def write(path: Path, found: Reach) -> None:
    """Raises RunError."""
    write_text(path, json.dumps(plain(found), allow_nan=False) + "\n")


def read(path: Path) -> Reach:
    """Raises RunError where the file is missing or damaged."""
    try:
        found = json.loads(path.read_text())
        units = found["horizons"]
        if units and len(units) != 1 + len(QUANTILES):
            raise ValueError("not the quantiles that are kept now")
        return {"lags": [int(k) for k in found["lags"]], "norm": [float(x) for x in found["norm"]],
                "horizons": units and [int(units[0]), *map(float, units[1:])]}  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} is damaged ({type(error).__name__}: {error}); remove it to measure again") from None


def rows(found: Sequence[tuple[Slot, Reach]]) -> dict[str, list[dict[str, Any]]]:
    """The tables lags.csv and horizons.csv: a row a run and lag, and a row a run whose cell has a gate."""
    tables: dict[str, list[dict[str, Any]]] = {name: [] for name in NAMES}
    for slot, one in found:
        run = (slot.cell, slot.env, slot.length, slot.seed)
        tables["lags"] += [dict(zip(NAMES["lags"], (*run, lag, norm))) for lag, norm in zip(one["lags"], one["norm"])]
        if one["horizons"]:
            tables["horizons"].append(dict(zip(NAMES["horizons"], (*run, *one["horizons"]))))
    return tables
