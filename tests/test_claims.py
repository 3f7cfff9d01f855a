"""The claims' tasks, verdict rule, files and report: benchmarks/claims."""

import importlib.util
import json
import math
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.claims import auxiliary, report, runs
from benchmarks.claims import verdict as v
from benchmarks.claims.arms import Arm, Claim
from benchmarks.claims.table import CLAIMS
from benchmarks.claims.training import Model, Run, Spec, episodes, train
from memory_cells import make_core

ROOT = Path(__file__).resolve().parents[1]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# --- training ---------------------------------------------------------------------------------------------------------

TINY = Spec("copy", "lstm", 8, 30, {"lag": 3}, batch=4, eval_every=10, eval_size=16)


def test_truncation_cuts_the_gradient_and_not_the_values():
    torch.manual_seed(0)
    model = Model(make_core("lstm", 3, 8), 2)
    x = torch.randn(20, 4, 3)

    def gradients(rows, **options):
        leaf = x.clone().requires_grad_()
        y = model(leaf, episodes(leaf), **options)
        y[rows].sum().backward()
        return y.detach(), leaf.grad.abs().sum((1, 2)) > 0

    whole, seen = gradients(-1)
    assert seen.all()
    for options, want in (
        (dict(truncation=6), range(14, 20)), (dict(truncation=6, style="every"), range(18, 20)),
        (dict(truncation=99), range(20)),
    ):  # fmt: skip
        y, seen = gradients(-1, **options)
        assert torch.allclose(y, whole, atol=1e-6) and seen.nonzero().flatten().tolist() == list(want)
    assert gradients(7, truncation=6, style="every")[1].nonzero().flatten().tolist() == [6, 7]


@pytest.mark.parametrize("kind", ["reconstruct", "predict"])
def test_the_auxiliary_loss_reaches_back_by_its_truncation(kind):
    torch.manual_seed(0)
    core = make_core("lstm", 3, 8)
    decoder = auxiliary.Decoder(core, 3, auxiliary.Settings(kind, segment=4, truncation=5, size=8))
    for seed in range(5):
        x = torch.randn(20, 2, 3)
        whole = (1, 17) if kind == "predict" else (4, 20)
        anchor = int(torch.randint(whole[0], whole[1] + 1, (), generator=generator(seed)))
        leaf = x.clone().requires_grad_()
        decoder.loss(core, leaf, episodes(leaf), generator(seed)).backward()
        seen = set((leaf.grad.abs().sum((1, 2)) > 0).nonzero().flatten().tolist())
        begin = anchor - (1 if kind == "predict" else 4)
        assert seen == set(range(max(0, anchor - 5), anchor)) | set(range(begin, begin + 4))


def test_resumed_runs_equal_uninterrupted_ones(tmp_path):
    spec = replace(TINY, auxiliary={"kind": "reconstruct", "segment": 4, "truncation": 3, "size": 8})
    whole = train(spec, 1)

    def killed(run):
        if run.step == 17:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(spec, 1, tmp_path, 5, killed)
    resumed = train(spec, 1, tmp_path, 5)
    assert resumed["curve"] == whole["curve"] and [row["step"] for row in whole["curve"]] == [10, 20, 30]
    assert train(spec, 2)["curve"] != whole["curve"]


def test_settings_that_a_cell_cannot_use_raise():
    for change in (dict(budget=1.0), dict(curriculum=(0.1, 1.0, 5)), dict(detach_until=3)):
        with pytest.raises(ValueError, match="lstm has no"):
            Run(replace(TINY, **change), 1)


def test_the_budget_closes_the_gate_and_the_curriculum_opens_it():
    spec = replace(TINY, variant="g-lstm", core={"horizon": 23}, lr=0.05)
    closed = train(replace(spec, budget=10.0, threshold=0.05), 1)["curve"]
    assert closed[-1]["updates"] < 0.6 * train(replace(spec, threshold=0.05), 1)["curve"][-1]["updates"]
    opened = train(replace(spec, curriculum=(0.01, 100.0, 20), threshold=0.5), 1)["curve"]
    assert opened[0]["updates"] < 0.9 and opened[-1]["updates"] == 1.0


# --- verdicts ---------------------------------------------------------------------------------------------------------


def made(loss, accuracy=None, steps=1000, stop=None, **more):
    """A run with the given loss at every 100 steps; scalars are constant curves."""
    at = list(range(100, (stop or steps) + 1, 100))
    value = lambda x, k: x[k] if isinstance(x, (list, tuple)) else x  # noqa: E731
    curve = [{"step": s, "loss": value(loss, k), **({} if accuracy is None else {"accuracy": value(accuracy, k)}), **more}
             for k, s in enumerate(at)]  # fmt: skip
    return {"curve": curve, "spec": {"steps": steps}, "steps": at[-1]}


def solves(at, steps=1000):
    """Solved from step `at` on (None: never)."""
    good = [at is not None and s >= at for s in range(100, steps + 1, 100)]
    return made([0.05 if g else 1.0 for g in good], [0.95 if g else 0.1 for g in good], steps)


def spread(value, by=0.01, **more):
    return [made(value + d, **more) for d in (-by, 0.0, by)]


def solve_all(*steps):
    return [solves(s) for s in steps]


JUDGED = {  # claim -> runs that show it, refute it, leave it open
    "warp": [
        {"gated": spread(0.0), "leaky": spread(0.3), "plain": spread(0.9)},
        {"gated": spread(0.5), "leaky": spread(0.3), "plain": spread(0.9)},
        {"gated": spread(0.3, 0.2), "leaky": spread(0.35, 0.2), "plain": spread(0.9)},
    ],
    "chrono": [
        {"chrono": spread(0.1), "forget bias 1": spread(0.97)}, {"chrono": spread(0.1), "forget bias 1": spread(0.1)},
        {"chrono": spread(0.5), "forget bias 1": spread(0.97)},
    ],
    "ur": [
        {"UR": spread(0.2), "chrono": spread(0.21)}, {"UR": spread(0.6), "chrono": spread(0.2)},
        {"UR": spread(0.25, 0.05), "chrono": spread(0.2, 0.05)},
    ],
    "nru": [
        {"NRU": spread(0.3), "LSTM": spread(0.1), "GRU": spread(0.9), "x": spread(0.9)},
        {"NRU": spread(0.3), "LSTM": spread(0.1), "GRU": spread(0.1), "x": spread(0.9)},
        {"NRU": spread(0.3, 0.2), "LSTM": spread(0.1), "GRU": spread(0.35, 0.2), "x": spread(0.9)},
    ],
    "hdetach": [
        {"h-detach 0.25": solve_all(200, 200, 300), "LSTM": solve_all(None, 900, 1000)},
        {"h-detach 0.25": solve_all(None, None, None), "LSTM": solve_all(300, 300, 300)},
        {"h-detach 0.25": solve_all(300, 400, 500), "LSTM": solve_all(300, 500, 500)},
    ],
    "reconstruct": [
        {"reconstruct": spread(0, accuracy=0.8), "truncated": spread(0, accuracy=0.1)},
        {"reconstruct": spread(0, accuracy=0.8), "truncated": spread(0, accuracy=0.5)},
        {"reconstruct": solve_all(None, 100, 100), "truncated": spread(0, accuracy=0.1)},
    ],
    "kaf": [
        {"KAF": solve_all(100, 200, 200), "sigmoid": solve_all(800, 900, 900)},
        {"KAF": solve_all(800, 900, None), "sigmoid": solve_all(100, 100, 200)},
        {"KAF": solve_all(300, 900, 500), "sigmoid": solve_all(400, 900, 900)},
    ],
    "budget": [
        {"g-LSTM with budget": spread(0, accuracy=0.9, updates=0.05), "LSTM": spread(0, accuracy=0.9, updates=1.0)},
        {"g-LSTM with budget": spread(0, accuracy=0.8, updates=0.05), "LSTM": spread(0, accuracy=0.9, updates=1.0)},
        {"g-LSTM with budget": solve_all(100, 100, None), "LSTM": spread(0, accuracy=0.9, updates=1.0)},
    ],
    "curriculum": [
        {"curriculum": solve_all(100, 100, 200), "LSTM": solve_all(800, 900, None)},
        {"curriculum": solve_all(900, 800, 900), "LSTM": solve_all(100, 200, 100)},
        {"curriculum": solve_all(None, None, None), "LSTM": solve_all(None, None, None)},
    ],
}  # fmt: skip
for runs_of_open in (JUDGED["budget"][2]["g-LSTM with budget"],):
    for made_run in runs_of_open:
        made_run["curve"][-1]["updates"] = 0.05


@pytest.mark.parametrize("claim", CLAIMS)
def test_every_verdict_of_every_claim_can_be_reached(claim):
    labels = [v.conclude(CLAIMS[claim].judge(found)) for found in JUDGED[claim]]
    assert labels == [v.SHOWN, v.REFUTED, v.UNDECIDED]


def test_intervals_are_students_and_welchs():
    i = v.one([1.0, 2.0, 3.0])
    assert (i.low, i.high) == pytest.approx((2 - 4.302653 / math.sqrt(3), 2 + 4.302653 / math.sqrt(3)), rel=1e-5)
    d = v.difference([1.0, 2.0, 3.0], [5.0, 6.0, 7.0])  # equal variances: 4 degrees of freedom
    assert d.mean == -4 and d.high - d.mean == pytest.approx(2.776445 * math.sqrt(2 / 3), rel=1e-5)
    assert v.difference([1.0, 1.0], [2.0, 2.0]) == v.Interval(-1, -1, -1)
    assert v.one([1.0]).high == math.inf  # one seed decides nothing


def test_the_intervals_hold_at_their_level():
    rng = np.random.default_rng(0)
    missed = sum(not v.difference(rng.normal(0, 1, 3), rng.normal(0, 3, 3)).low <= 0 for _ in range(4000)) / 4000
    assert missed <= 0.03  # one-sided 2.5 %


def test_a_run_that_did_not_solve_never_speaks_for_its_arm():
    fast, slow, never = (solve_all(*s) for s in ((100, 100, 200), (900, 900, 800), (None, None, None)))
    assert v.faster("a", fast, "b", never, "loss", 0.1).truth is True
    assert v.faster("a", solve_all(100, 100, None), "b", slow, "loss", 0.1).truth is None
    assert v.faster("a", never, "b", fast, "loss", 0.1).truth is False
    assert v.faster("a", never, "b", never, "loss", 0.1).truth is None
    assert v.surer("a", fast, "b", never, "loss", 0.1).truth is True
    assert v.surer("a", never, "b", fast, "loss", 0.1).truth is False
    assert v.surer("a", fast, "b", solve_all(None, None, 100), "loss", 0.1).truth is None


def test_scores_of_a_curve():
    assert v.solved_at(made([1, 0.05, 1, 0.05, 0.05, 1, 1, 1, 1, 0.05]), "loss", 0.1) == 400  # two in a row
    assert v.solved_at(made([1] * 9 + [0.05]), "loss", 0.1) == 1000
    assert v.area(made([1.0, 1.0, 0.0], steps=1000, stop=300)) == pytest.approx(0.2)
    assert v.best(made(0, [0.1] * 7 + [0.7, 0.8, 0.9])) == pytest.approx(0.8)


# --- files, report, the whole ----------------------------------------------------------------------------------------


def small_claim(variant="lstm"):
    arms = {name: Arm(cell, 1.0, dict(asdict(replace(TINY, steps=20))) | {"hidden": 8}) for name, cell in
            (("a", variant), ("b", "ur-lstm"))}  # fmt: skip
    for arm in arms.values():
        arm.options.pop("variant")
    judge = lambda found: [v.below("a minus b", v.difference(*([v.final(r) for r in found[n]] for n in "ab")), 0.0)]  # noqa: E731
    return Claim("small", "A sentence.", "A paper", "A metric.", "Nothing.", 1.0, {"lag 3": arms}, judge, {"steps": 10})


def test_end_to_end_with_two_seeds(tmp_path):
    claim, said = small_claim(), []
    jobs, missing = runs.plan([claim], [1, 2], False)
    assert len(jobs) == 4 and not missing
    assert report.judge(claim, tmp_path, [1, 2], False).label == "not run"
    assert runs.run_all(tmp_path, [claim], jobs[:3], 0, said.append) == []
    assert report.judge(claim, tmp_path, [1, 2], False).label == "incomplete"
    assert runs.run_all(tmp_path, [claim], jobs, 0, said.append) == []
    assert sum(line.startswith("start") for line in said) == 4  # each run once
    assert not any((tmp_path / "partial").iterdir())
    finding = report.judge(claim, tmp_path, [1, 2], False)
    assert finding.label in (v.SHOWN, v.REFUTED, v.UNDECIDED) and finding.core_hours > 0
    for quick in (False, True):
        text = report.write([claim], {"small": finding}, [1, 2], quick, tmp_path / "page").read_text()
        assert ("QUICK" in text) == quick and "--only small" in text and f"*{finding.label}" in text
    assert (tmp_path / "page" / "claims-small.png").stat().st_size > 5000


def test_a_killed_script_loses_no_result_and_goes_on(tmp_path):
    claim = small_claim()
    (first, second, *_), _ = runs.plan([claim], [1], False)
    kept = runs.execute(tmp_path, first.spec, 1)
    path = runs.result_path(tmp_path, first.spec, 1)
    written = path.stat().st_mtime_ns

    def killed(run):
        if run.step == 15:
            raise SystemExit  # what a worker does when its parent is gone; a kill leaves the same files

    with pytest.raises(SystemExit):
        runs.execute(tmp_path, second.spec, 1, killed, 5)
    assert runs.read(tmp_path, second.spec, 1) is None and any((tmp_path / "partial").iterdir())
    assert runs.run_all(tmp_path, [claim], [first, second], 0, lambda line: None) == []
    assert path.stat().st_mtime_ns == written and json.loads(path.read_text()) == kept
    assert runs.read(tmp_path, second.spec, 1)["curve"] == train(second.spec, 1)["curve"]


def test_changed_settings_are_another_run(tmp_path):
    assert runs.name(TINY, 1) != runs.name(replace(TINY, lr=2e-3), 1) != runs.name(replace(TINY, lr=2e-3), 2)
    assert Spec(**json.loads(json.dumps(asdict(TINY)))) == TINY


def test_failures_and_missing_cells_are_reported_and_not_averaged_away(tmp_path):
    claim = small_claim()
    claim.conditions["lag 3"]["a"].options.update(lr=1e38, optimiser="rmsprop")
    jobs, _ = runs.plan([claim], [1, 2], False)
    lines = runs.run_all(tmp_path, [claim], jobs, 0, lambda line: None)
    assert len(lines) == 2 and all("FAILED" in line and "the loss is" in line for line in lines)
    finding = report.judge(claim, tmp_path, [1, 2], False)
    assert finding.label == v.UNDECIDED and len(finding.notes) == 2 and not finding.statements
    jobs, missing = runs.plan([small_claim("no-such-cell")], [1], False)
    assert len(jobs) == 1 and "no-such-cell" in missing[0]
    assert report.judge(small_claim("no-such-cell"), tmp_path, [1], False).label == v.UNDECIDED


def test_the_cap_stops_further_runs(tmp_path):
    claim = replace(small_claim(), cap=1e-9)
    jobs, _ = runs.plan([claim], [1], False)
    lines = runs.run_all(tmp_path, [claim], jobs, 0, lambda line: None)
    assert len(lines) == 1 and "not started" in lines[0]
    assert report.judge(claim, tmp_path, [1], False).label == v.UNDECIDED


def test_the_table_keeps_its_budget():
    assert sum(claim.cap for claim in CLAIMS.values()) <= 12
    for claim in CLAIMS.values():
        assert claim.core_hours(3) <= claim.cap, claim.id
        for quick in (False, True):
            assert all(isinstance(spec, Spec) for spec in claim.specs(quick).values()), claim.specs(quick)
        assert all(spec.steps <= 600 for spec in claim.specs(True).values())


def script():
    spec = importlib.util.spec_from_file_location("claims_script", ROOT / "benchmarks" / "paper_claims.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_script_estimates_reports_and_refuses(tmp_path, capsys):
    main = script().main
    assert main([str(tmp_path), "--list", "--only", "warp,chrono"]) == 0
    assert "chrono" in (said := capsys.readouterr().out) and "24 of 24 runs to do" in said
    assert main([str(tmp_path), "--quick", "--only", "warp", "--report"]) == 0
    assert "QUICK warp: not run" in capsys.readouterr().out and "not run" in (tmp_path / "claims.md").read_text()
    with pytest.raises(SystemExit) as refused:
        main([str(tmp_path), "--only", "wrap"])
    assert refused.value.code == 2


def test_a_worker_process_makes_one_result(tmp_path):
    spec = replace(TINY, steps=10)
    command = [sys.executable, "-m", "benchmarks.claims.runs", str(tmp_path), "1", json.dumps(asdict(spec))]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert runs.read(tmp_path, spec, 1)["steps"] == 10


@pytest.mark.slow
@pytest.mark.parametrize("claim", CLAIMS)
def test_every_arm_takes_a_step(claim):
    for spec in CLAIMS[claim].specs(False).values():
        assert math.isfinite(Run(spec, 1).update())
