"""What a comparison shows of gates and gradients: from diagnoses made up by hand to the tables and the figures."""

import math

import numpy as np
import pytest
from matplotlib import pyplot as plt

from agents.figures import draw_all, lags
from agents.plotting import Look
from agents.reach import reach, read, write
from agents.runlog import RunError
from agents.tables import read_tables, write_tables
from tests.agents.compared import compared


def diagnosis(decay: float, rows: int = 200, horizons=None) -> dict:
    k = np.arange(rows)
    parts = {"h": (0.6 * decay**k).tolist(), "c": (0.8 * decay**k).tolist()}
    return {"gradient": {"norm": parts}, "gates": horizons and {"horizon_of_unit": horizons}}


def test_all_parts_of_the_state_together():
    found = reach(diagnosis(0.9))
    assert found["lags"][:4] == [0, 1, 2, 3] and found["lags"][-1] == 199 and found["horizons"] is None
    assert found["norm"] == pytest.approx([0.9**k for k in found["lags"]])  # 0.6^2 + 0.8^2 = 1


def test_quantiles_over_the_units_are_units():
    units = [float(n) for n in range(1, 101)] + [math.inf]
    assert reach(diagnosis(0.9, horizons=units))["horizons"] == [101, 6, 26, 51, 76, 96, math.inf]
    assert reach(diagnosis(0.9, horizons=[2.0, math.inf]))["horizons"][-1] == math.inf


def test_a_file_comes_back_and_a_damaged_one_is_told(tmp_path):
    path = tmp_path / "reach.json"
    for horizons in (None, [1.5, math.inf, math.inf]):
        found = reach(diagnosis(0.5, horizons=horizons))
        write(path, found)
        assert read(path) == found
    write(path, found | {"horizons": found["horizons"][:-1]})  # of an earlier version, without the longest unit
    with pytest.raises(RunError, match=r"not the quantiles that are kept now.*remove it"):
        read(path)
    path.write_text('{"lags": [0], "norm": [1')
    with pytest.raises(RunError, match=r"is damaged.*remove it"):
        read(path)


def test_tables_and_figures(tmp_path):
    results = compared("memoryless lstm gru", {"tmaze_passive": (10, 50)}, 2, lambda *_: (1.0, 30_000))
    reaches = [(r.slot, reach(diagnosis(0.0 if r.slot.cell == "memoryless" else 0.98,
                                        horizons=[2.0, 9.0] if r.slot.cell == "gru" else None))) for r in results]  # fmt: skip
    write_tables(tmp_path, results, "lstm", reaches)
    tables = read_tables(tmp_path)
    assert {(row["cell"], row["length"], row["seed"]) for row in tables["lags"]} == {
        (r.slot.cell, r.slot.length, r.slot.seed) for r in results}  # fmt: skip
    assert [(row["cell"], row["units"], row["q05"], row["q95"]) for row in tables["horizons"]] == [("gru", 2, 2, 9)] * 4
    drawn = {path.stem for path in draw_all(tmp_path, tables, "lstm")}
    assert {"lags", "horizons"} <= drawn

    write_tables(tmp_path, results, "lstm", reaches[:-1])  # gru has lost a run on the last task, and has no mean there
    tables = read_tables(tmp_path)
    look = Look(["memoryless", "lstm", "gru"])
    axes = lags(tables["lags"], tables["summary"], look).axes
    assert ["gru" in {text.get_text() for text in axis.texts} for axis in axes] == [True, False]
    assert axes[1].get_xlabel().endswith("not known: gru")
    for bad in (None, math.inf):  # a gradient that exploded
        rows = [row | {"norm": bad if (row["cell"], row["lag"]) == ("lstm", 2) else row["norm"]} for row in tables["lags"]]
        axes = lags(rows, tables["summary"], look).axes
        assert all("not known: lstm" in axis.get_xlabel() for axis in axes)
    plt.close("all")

    write_tables(tmp_path, results, "lstm")
    assert (tmp_path / "lags.csv").read_text() == "cell,env,length,seed,lag,norm\n"
    assert not {"lags", "horizons"} & {path.stem for path in draw_all(tmp_path, read_tables(tmp_path), "lstm")}
