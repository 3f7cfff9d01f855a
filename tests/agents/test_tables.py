"""The tables, figures and lines of comparisons made up by hand; the numbers expected can be worked out on paper."""

import dataclasses
import itertools
import json
import math
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot as plt

import envs
from agents import figures
from agents.digest import control_lines, ranking_lines, remarks
from agents.figures import draw_all
from agents.plotting import Look, apart, aside
from agents.results import CENSORED, FAILED, PENDING, SOLVED, Result, Slot, area, best_rate, done, makers, read_result
from agents.runlog import RunError
from agents.tables import NAMES, read_tables, write_tables
from memory_cells import VARIANTS
from tests.agents.compared import compared

matplotlib.use("Agg")


def tables(tmp_path: Path, results: list[Result], baseline: str = "lstm") -> dict[str, list[dict]]:
    tmp_path.mkdir(exist_ok=True)
    write_tables(tmp_path, results, baseline)
    return read_tables(tmp_path)


def row(rows: list[dict], **wanted) -> dict:
    (found,) = [r for r in rows if all(r[key] == value for key, value in wanted.items())]
    return found


#: gru solves everything early; lstm the short one, late, with two of three seeds; memoryless nothing
def usual(cell, env, length, seed):
    if cell == "gru":
        return 1.0, 20_000 + seed
    if cell == "lstm" and length == 10 and seed < 3:
        return 1.0, 60_000
    return (0.5 + 0.01 * (seed - 2), None)


@pytest.fixture(scope="module")
def results() -> list[Result]:
    return compared("memoryless lstm gru", {"tmaze_passive": (10, 50), "tmaze_bakker": (10,)}, 3, usual)


@pytest.fixture
def made(tmp_path, results) -> dict[str, list[dict]]:
    return tables(tmp_path, results)


def test_a_row_for_each_run(made, results):
    assert len(made["results"]) == len(results) == 27
    first = row(made["results"], cell="gru", env="tmaze_bakker", seed=2)
    assert (first["length"], first["solved_at"], first["steps"], first["status"]) == (10, 20_002, 20_002, "solved")
    assert (first["success"], first["return"], first["score"]) == (1, 4, 1) and first["success_low"] > 0.995
    censored = row(made["results"], cell="lstm", env="tmaze_passive", length=50, seed=1)
    assert (censored["status"], censored["solved_at"], censored["steps"]) == ("censored", None, 100_000)


def test_summary(made):
    half = row(made["summary"], cell="lstm", env="tmaze_passive", length=10)
    assert (half["runs"], half["failed"], half["censored"]) == (3, 0, 1) and math.isclose(half["solved"], 2 / 3, rel_tol=1e-5)
    assert math.isclose(half["success"], (1 + 1 + 0.51) / 3, rel_tol=1e-5)
    assert (half["success_low"], half["success_high"]) == (0.51, 1)  # seeds, not 3,000 episodes
    assert (half["steps"], half["steps_low"], half["steps_high"]) == (60_000, 60_000, math.inf)
    assert (half["chance"], half["r0"], half["r_star"], half["memory_length"]) == (0.5, 0.5, 1, 10)
    never = row(made["summary"], cell="memoryless", env="tmaze_bakker")
    assert (never["steps"], never["censored"], never["solved"]) == (math.inf, 3, 0) and never["solved_high"] > 0.5
    assert row(made["summary"], cell="gru", env="tmaze_bakker")["steps"] == 20_002


def test_ranking(made):
    ranked = made["ranking"]
    assert [r["cell"] for r in ranked] == ["gru", "lstm", "memoryless"] and all(r["tasks"] == 3 for r in ranked)
    assert (ranked[0]["iqm"], ranked[0]["iqm_low"]) == (1, 1) and ranked[1]["improvement"] is None
    # 9 pairs: gru above lstm in 5, equal in 4; five differences of one sign: 2 / 2^5
    assert ranked[0]["p"] == 0.0625 and ranked[0]["p_holm"] == 0.125
    wins = [2 / 3 * 0.5 + 1 / 3, 1.0, 2 / 3 * 0.5 + 1 / 3]
    assert math.isclose(ranked[0]["improvement"], np.mean(wins), rel_tol=1e-5)
    assert ranked[0]["faster"] == 1 and math.isclose(ranked[0]["p_steps"], 2 / 2**9, rel_tol=1e-5)
    assert math.isclose(ranked[2]["difference"], -(1.02 + 1.0 + 0) * 2 / 9, rel_tol=1e-5)


def test_each_p_is_corrected_by_its_own(tmp_path):
    """gru scores better in all of 6 pairs and solves sooner in none; janet the other way round."""
    def rule(cell, env, length, seed):
        return {"lstm": (0.9, 50_000), "gru": (1.0, 50_000), "janet": (0.9, 10_000)}[cell]

    ranked = tables(tmp_path, compared("lstm gru janet", {"tmaze_passive": (10, 50)}, 3, rule))["ranking"]
    gru, janet = (row(ranked, cell=cell) for cell in ("gru", "janet"))
    assert (gru["p_holm"], gru["p_steps_holm"]) == (0.0625, 1) and (janet["p_holm"], janet["p_steps_holm"]) == (1, 0.0625)


def test_a_task_without_a_score_counts_for_speed(tmp_path):
    """gru is never better where there is a score, and solves the other task, which lstm does not."""
    def rule(cell, env, length, seed):
        return (1.0, 20_000) if cell == "gru" or env == "tmaze_passive" else (0.5, None)

    def unscored(run):
        if run.slot.env == "tmaze_passive":
            return run
        slot = dataclasses.replace(run.slot, spec=dataclasses.replace(run.slot.spec, r_star=None))
        return dataclasses.replace(run, slot=slot, score=None)

    found = [unscored(run) for run in compared("lstm gru", {"tmaze_passive": (10,), "tmaze_bakker": (10,)}, 3, rule)]
    ranked = tables(tmp_path / "a", found)["ranking"]
    gru = row(ranked, cell="gru")
    assert (gru["tasks"], gru["unscored"], gru["iqm"], gru["improvement"], gru["faster"]) == (1, 1, 1, 0.5, 0.75)
    assert remarks(ranked, found, "lstm")[0] == "no score, and so no part in its columns, have tmaze_bakker 10"
    alone = [run for run in found if run.slot.env == "tmaze_bakker"]
    gru = row(tables(tmp_path / "b", alone)["ranking"], cell="gru")
    assert (gru["iqm"], gru["improvement"], gru["p"], gru["faster"], gru["p_steps"]) == (None, None, None, 1, 0.25)
    broken = [dataclasses.replace(run, status=FAILED) if (run.slot.cell, run.slot.env, run.slot.seed) ==
              ("gru", "tmaze_bakker", 2) else run for run in found]  # fmt: skip
    gru = row(tables(tmp_path / "c", broken)["ranking"], cell="gru")
    assert (gru["failed"], gru["iqm"], gru["faster"]) == (1, None, None)


def test_lengths_profiles_and_curves(made, results):
    assert {r["series"] for r in made["longest"]} == {"tmaze_passive"} and {r["unknown"] for r in made["longest"]} == {0}
    known = {r["cell"]: (r["longest"], r["tried"], r["lengths"]) for r in made["longest"]}
    assert known == {"memoryless": (None, 50, 2), "lstm": (10, 50, 2), "gru": (50, 50, 2)}
    assert row(made["profiles"], cell="lstm", threshold=0.9)["share"] == pytest.approx(4 / 9, rel=1e-5)
    assert row(made["profiles"], cell="gru", threshold=1)["share"] == 0  # none is above the optimum
    assert len(made["curves"]) == sum(len(result.curve) for result in results)


@pytest.mark.parametrize("what", [FAILED, PENDING])
def test_a_run_without_figures_is_not_averaged_away(tmp_path, what):
    def rule(cell, env, length, seed):
        return what if (cell, length, seed) == ("gru", 10, 2) else usual(cell, env, length, seed)

    found = compared("lstm gru", {"tmaze_passive": (10, 50)}, 3, rule)
    made = tables(tmp_path, found)
    missing = row(made["results"], cell="gru", length=10, seed=2)
    assert missing["status"] == what and all(missing[name] is None for name in ("steps", "success", "return", "score"))
    broken = row(made["summary"], cell="gru", length=10)
    assert broken["failed"] == (what == FAILED) and broken["runs"] == 3
    assert all(broken[name] is None for name in ("success", "score", "solved", "steps", "return", "score_iqm"))
    assert row(made["summary"], cell="gru", length=50)["score"] == 1
    ranked = made["ranking"]
    assert ranked[-1]["cell"] == "gru" and ranked[-1]["iqm"] is None and ranked[-1]["p"] is None
    reached = row(made["longest"], cell="gru")
    assert (reached["longest"], reached["unknown"]) == (None, 1) and not [r for r in made["profiles"] if r["cell"] == "gru"]
    assert ranking_lines(ranked, found, "lstm")[-1].split()[:4] == ["gru", "-", "-", "5/6"]


def test_a_length_of_zero_is_a_length(tmp_path):
    """Who solves it alone has reached 0, who does not none; and the axis has a place for it."""
    def rule(cell, env, length, seed):
        return (1.0, 30_000) if cell == "gru" or (cell == "lstm" and length == 0) else (0.5, None)

    made = tables(tmp_path, compared("memoryless lstm gru", {"tmaze_delayed": (0, 20)}, 2, rule))
    assert {r["cell"]: r["longest"] for r in made["longest"]} == {"memoryless": None, "lstm": 0, "gru": 20}
    figure = figures.lengths(made["summary"], Look(["memoryless", "lstm", "gru"]))
    low, high = figure.axes[0].get_xlim()
    plt.close(figure)
    assert low < 0 and high > 20, (low, high)


def test_points_keep_close_to_their_length():
    """However many cells: at most six points aside."""
    figure, axis = plt.subplots()
    for count in (1, 2, 25):
        moved = [aside(axis, k, count).transform((0, 0)) - axis.transData.transform((0, 0)) for k in range(count)]
        sideways, up = np.transpose(moved) * 72 / figure.dpi
        assert np.all(np.diff(sideways) > 0) and np.abs(sideways).max() <= 6 + 1e-9 and sideways.sum() == pytest.approx(0)
        assert not up.any()
    plt.close(figure)


def test_levels_that_differ_in_more_than_length_are_not_joined(tmp_path):
    found = compared("lstm gru", {"tmaze_passive": (10, 50)}, 2, lambda *_: (1.0, 30_000))
    found = [dataclasses.replace(r, slot=dataclasses.replace(r.slot, series=f"level {r.slot.length}")) for r in found]
    made = tables(tmp_path, found)
    assert made["longest"] == [] and figures.lengths(made["summary"], Look(["lstm", "gru"])) is None


def test_without_the_baseline_nothing_is_compared(tmp_path, results):
    made = tables(tmp_path, results, baseline="ur-lstm")
    assert all(r["p"] is None and r["improvement"] is None for r in made["ranking"]) and made["ranking"][0]["iqm"] == 1


def test_tables_do_not_depend_on_the_order_of_anything_random(tmp_path, results):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_tables(tmp_path / name, results, "lstm")
    assert all((tmp_path / "a" / f"{n}.csv").read_bytes() == (tmp_path / "b" / f"{n}.csv").read_bytes() for n in NAMES)


def test_an_empty_comparison_has_headers(tmp_path):
    made = tables(tmp_path, compared("lstm", {"tmaze_passive": (10,)}, 1, lambda *_: PENDING))
    assert (tmp_path / "curves.csv").read_text() == "cell,env,length,seed,step,success\n" and made["curves"] == []
    with pytest.raises(RunError, match=r"cannot read .*results\.csv"):
        read_tables(tmp_path / "nowhere")


# --- the control, the sweep ------------------------------------------------------------------------------------------------


def test_the_control_is_judged_against_chance_where_memory_is_needed():
    """tmaze_delayed without a corridor needs none: who sees the cue at the junction may always be right."""
    def rule(cell, env, length, seed):
        if env == "tmaze_active" and cell == "memoryless" and seed == 2:
            return FAILED
        told = {"tmaze_bakker": 0.56, "tmaze_delayed": 1.0, "tmaze_noisy": 0.2}
        return told.get(env, 0.49 + 0.01 * seed), None

    tasks = {name: (10,) for name in ("tmaze_passive", "tmaze_bakker", "tmaze_active", "tmaze_noisy")}
    tasks["tmaze_delayed"] = (0,)
    passive, bakker, active, noisy = control_lines(compared("memoryless lstm", tasks, 3, rule))
    assert "control on tmaze_passive 10: success 0.510" in passive and passive.endswith("chance 0.5")
    assert "control on tmaze_bakker 10" in bakker and bakker.endswith("chance 0.5 - ABOVE chance")
    assert active == "control on tmaze_active 10: not judged, for a run of it failed or is still to be made"
    assert noisy.endswith("chance 0.5 - below chance")
    assert "0.560 [0.529, 0.590]" in bakker  # 1,000 episodes, for all three play the same ones


def test_what_no_number_of_wins_can_show_is_said(tmp_path):
    """9 pairs: p of at least 2 / 2^9 = 0.0039, times 20 comparisons 0.078, times 12 0.047."""
    def said(cells, baseline="lstm"):
        results = compared(" ".join(cells), {"tmaze_passive": (10, 20, 30)}, 3, lambda *_: (1.0, 1000))
        return remarks(tables(tmp_path, results, baseline)["ranking"], results, baseline)

    many = sorted(set(VARIANTS) - {"lstm"})
    assert said(["lstm", *many[:12]]) == []
    assert said(["lstm", *many[:20]]) == ["with 9 pairs and 20 comparisons no corrected p can fall below 0.078: "
                                          "whatever the cells do, none is significant"]  # fmt: skip
    assert said(["gru", "janet"]) == ["the baseline lstm is not among the cells: none is compared with it"]


def test_who_made_the_runs_is_told(tmp_path):
    results = []
    made = compared("lstm", {"tmaze_passive": (10,)}, 4, lambda c, e, n, seed: FAILED if seed == 3 else (1.0, 1000))
    for k, run in enumerate(made):
        folder = tmp_path / str(k)
        folder.mkdir()
        git = {"commit": "abcdef0123" if k else "0123456789", "dirty": k == 1}
        versions = {"git": git, "torch": "2.13.0", "numpy": "2.4.6", "python": "3.11.7", "gpu": None, "cpu": "A chip"}
        if k == 1:
            versions["resumed"] = [versions | {"git": {"commit": "5555555555", "dirty": False}}, dict(versions)]
        (folder / "versions.json").write_text(json.dumps(versions) if k < 3 else "{")
        results.append(dataclasses.replace(run, slot=dataclasses.replace(run.slot, folder=folder)))
    rest = "torch 2.13.0, numpy 2.4.6, python 3.11.7, A chip"
    both = f"commit abcdef0 with changes, {rest}; then commit 5555555, {rest}"
    assert makers(results) == {f"commit 0123456, {rest}": 1, both: 1, "not recorded": 1}


def test_learning_rates_are_chosen_by_score_then_by_area_and_failures_are_not_eligible():
    def sweep(rule):
        made = []
        for rate in (1e-3, 1e-2, 1e-1):
            for result in compared("lstm", {"tmaze_passive": (10,)}, 2, lambda *a, rate=rate: rule(rate, *a)):
                made.append(dataclasses.replace(result, slot=dataclasses.replace(result.slot, learning_rate=rate)))
        return best_rate(made)

    assert sweep(lambda rate, *_: (1.0 if rate == 1e-2 else 0.8, None)) == 1e-2
    assert sweep(lambda rate, *_: (1.0, 20_000 if rate == 1e-1 else 50_000)) == 1e-1  # all solve; the fastest
    assert sweep(lambda *_: (0.5, None)) == 1e-3  # equal: the one listed first
    assert sweep(lambda rate, c, e, n, seed: FAILED if rate < 1e-1 and seed == 2 else (0.6, None)) == 1e-1
    assert sweep(lambda *_: FAILED) is None


def test_area_holds_the_last_value():
    slot = compared("lstm", {"tmaze_passive": (10,)}, 1, usual)[0].slot
    curve = ((20_000, 0.0), (50_000, 1.0))
    assert area(Result(slot, SOLVED, curve=curve)) == pytest.approx(0.8)  # 1 from 20,000 to 100,000
    assert area(Result(slot, CENSORED, curve=((100_000, 0.5),))) == 0.5


# --- from run folders ------------------------------------------------------------------------------------------------------


def test_reading_a_run(tmp_path):
    spec = envs.make("tmaze_passive", 1, corridor_length=4).spec
    slot = Slot(tmp_path, "gru", "tmaze_passive", 4, 1, 1e-3, 1000, 10, spec, 0.9, None)
    assert (read_result(slot, False).status, read_result(slot, True).status, done(tmp_path)) == (PENDING, FAILED, False)
    rows = [{"step": 100, "loss": 1.0}, {"step": 200, "eval/success": 0.4}, {"step": 300, "eval/success": 0.9},
            {"step": 400, "eval/success": 0.2}]  # fmt: skip
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    report = {"step": 1010, "episodes": 50, "greedy": {"success_rate": 0.8, "mean_return": 0.75}}
    (tmp_path / "evaluation.json").write_text(json.dumps(report))
    result = read_result(slot, True)  # it failed once, and is done
    assert (result.status, result.solved_at, result.steps, result.score) == (SOLVED, 300, 1010, 0.5)
    assert result.curve == ((200, 0.4), (300, 0.9), (400, 0.2))
    late = read_result(dataclasses.replace(slot, solved=0.95), False)
    assert (late.status, late.solved_at) == (CENSORED, None)
    report["greedy"]["success_rate"] = 0.95  # solved after the last evaluation in training
    (tmp_path / "evaluation.json").write_text(json.dumps(report))
    late = read_result(dataclasses.replace(slot, solved=0.95), False)
    assert (late.status, late.solved_at, late.curve) == (SOLVED, 1010, result.curve)
    (tmp_path / "evaluation.json").write_text('{"step": 1010}')
    with pytest.raises(RunError, match=r"is damaged.*remove it"):
        read_result(slot, False)


# --- figures ---------------------------------------------------------------------------------------------------------------


def test_figures_from_the_tables_alone(tmp_path, made):
    written = draw_all(tmp_path / "figures", made, "lstm")
    assert [p.stem for p in written] == ["lengths", "curves", "scores", "ranking", "steps", "profiles"]
    for path in written:
        assert path.stat().st_size > 5000 and path.with_suffix(".svg").read_text().startswith("<?xml")


def test_figures_where_little_is_known(tmp_path):
    """One seed has no intervals; failed runs have no means; nothing at all gives no figure."""
    def rule(cell, env, length, seed):
        return FAILED if cell == "gru" else (1.0, 30_000)

    one = tables(tmp_path, compared("lstm gru", {"tmaze_passive": (10, 20)}, 1, rule))
    assert {"lengths", "curves", "scores", "ranking", "steps"} <= {p.stem for p in draw_all(tmp_path / "one", one, "lstm")}
    none = tables(tmp_path, compared("lstm", {"tmaze_passive": (10,)}, 1, lambda *_: FAILED))
    assert draw_all(tmp_path / "none", none, "lstm") == []


def drawn(axis) -> dict[str, list]:
    """{label: the line of which it shows a piece}."""
    pieces = [line for line in axis.lines if not line.get_clip_on()]
    return {text.get_text(): [line for line in axis.lines if line.get_clip_on() and _like(line) == _like(piece)]
            for text, piece in zip(axis.texts, pieces, strict=True)}  # fmt: skip


def _like(line) -> tuple:
    return line.get_color(), line.get_marker()


def test_each_of_25_cells_can_be_told_by_its_line(tmp_path):
    cells = [f"cell{k}" for k in range(24)] + ["memoryless"]
    made = tables(tmp_path, compared(" ".join(cells), {"tmaze_passive": (10, 50)}, 1, usual), "cell0")
    for figure in (figures.lengths(made["summary"], Look(cells)), figures.curves(made["curves"], made["summary"], Look(cells)),
                   figures.profiles(made["profiles"], made["summary"], Look(cells))):  # fmt: skip
        found = drawn(figure.axes[0])
        assert set(found) == set(cells) and all(len(lines) == 1 for lines in found.values())
        plt.close(figure)


def test_curves_begin_at_the_first_evaluation_and_end_at_the_last(tmp_path):
    """Nothing is known before the first; the last update may go beyond the budget, and may be the one that solves."""
    made, look = tables(tmp_path, compared("lstm", {"tmaze_passive": (10,)}, 2, lambda *_: (1.0, 103_000))), Look(["lstm"])
    curves = figures.curves(made["curves"], made["summary"], look).axes[0]
    assert curves.get_xlim()[1] >= 103_000 and figures.steps(made["results"], look).axes[0].get_xlim()[1] >= 103_000
    (line,) = drawn(curves)["lstm"]
    assert (line.get_xdata()[0], line.get_ydata()[0]) == (20_000, 0.5) and line.get_ydata()[-1] == 1
    plt.close("all")


def test_a_cell_that_failed_is_named_where_it_is_not_drawn(tmp_path):
    made = tables(tmp_path, compared("lstm gru", {"tmaze_passive": (10,)}, 2, lambda cell, env, length, seed: (
        FAILED if cell == "gru" and seed == 2 else (1.0, 30_000))))  # fmt: skip
    look = Look(["lstm", "gru"])
    for figure in (figures.curves(made["curves"], made["summary"], look),
                   figures.profiles(made["profiles"], made["summary"], look)):  # fmt: skip
        assert set(drawn(figure.axes[0])) == {"lstm"} and figure.axes[0].get_xlabel().endswith("\nfailed: gru")
    ranked = figures.ranking(made["ranking"], "lstm", look).axes[0]
    assert [text.get_text() for text in ranked.get_yticklabels()] == ["gru", "lstm"]
    assert [text.get_text() for text in ranked.texts] == ["1 of 2 runs failed"]
    plt.close("all")


@pytest.mark.parametrize("tasks", [10, 11])
def test_a_heat_map_of_many_tasks_has_a_row_for_each(tmp_path, tasks):
    made = tables(tmp_path, compared("lstm gru", {"tmaze_passive": tuple(range(5, 5 + tasks))}, 1, usual))
    axis = figures.scores(made["summary"], Look(["lstm", "gru"])).axes[0]
    rows = [text.get_text() for text in axis.get_yticklabels()]
    assert rows == (["lstm", "gru"] if tasks == 10 else [f"tmaze_passive {n}" for n in range(5, 16)])
    at = {text.get_position(): text.get_text() for text in axis.texts}
    last = row(made["summary"], cell="gru", length=4 + tasks)["score"]
    assert at[(tasks - 1, 1) if tasks == 10 else (1, 10)] == f"{last:.2f}" == "1.00" and len(at) == 2 * tasks
    plt.close("all")


def test_labels_keep_apart():
    rng = np.random.default_rng(0)
    for n in (1, 3, 8):
        values = np.sort(rng.choice([0.0, 0.5, 0.98, 1.0], n))
        places = apart(values, 0.06, 0.0, 1.0)
        assert all(b - a > 0.06 - 1e-9 for a, b in itertools.pairwise(places))
        assert min(places) >= 0 and max(places) <= 1 + 1e-9
    assert apart([0.2, 0.6], 0.06, 0, 1) == [0.2, 0.6]
    assert np.allclose(apart([0.5] * 5, 0.5, 0, 1), np.linspace(0, 1, 5))  # too many: as far apart as fits
