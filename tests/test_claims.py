"""The claims' tasks, verdict rule, files and report: benchmarks/claims."""

import gzip
import importlib.util
import itertools
import json
import math
import struct
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
from benchmarks.claims.digits import Digits, permutation, read_idx
from benchmarks.claims.table import CLAIMS
from benchmarks.claims.tasks import BLANK, DELIMITER, Adding, Copy, Denoise, Warp
from benchmarks.claims.training import Model, Run, Spec, episodes, task_loss, train
from memory_cells import make_core

ROOT = Path(__file__).resolve().parents[1]
TASKS = [
    Copy(5), Copy(5, scalar=True), Copy(7, variable=True), Adding(20), Denoise(15), Warp(60, 5), Warp(60, 5, "uniform"),
    Warp(60, 5, padding=True), Warp(60, 5, "uniform", True),
]  # fmt: skip
IDS = [str(t) for t in TASKS]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def digits(**options):
    pytest.importorskip("sklearn")
    return Digits(**options)


# --- tasks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS, ids=IDS)
def test_shapes_weights_and_determinism(task):
    b = task.batch(generator(3), 8)
    T = b.x.shape[0]
    assert b.x.shape == (T, 8, task.inputs) and b.x.dtype == torch.float32
    assert b.target.shape == b.weight.shape == b.scored.shape == (T, 8)
    assert torch.allclose(b.weight.sum(0), torch.ones(8)) and (b.weight[b.scored] > 0).all()
    for again, part in zip(task.batch(generator(3), 8), b):
        assert torch.equal(again, part)
    assert not torch.equal(task.batch(generator(4), 8).x, b.x)
    assert torch.equal(task.held_out(8).x, task.held_out(8).x)


def test_copy_layout_by_hand():
    b = Copy(3).batch(generator(), 4)
    shown = b.x.argmax(-1)
    assert shown.shape[0] == 23
    assert (shown[:10] < 8).all() and (shown[10:12] == BLANK).all()  # T - 1 = 2 blanks
    assert (shown[12] == DELIMITER).all() and (shown[13:] == BLANK).all()
    assert (b.target[:13] == BLANK).all() and torch.equal(b.target[13:], shown[:10])
    assert not b.scored[:13].any() and b.scored[13:].all()
    assert torch.equal(Copy(3, scalar=True).batch(generator(), 4).x[..., 0], shown.float())


def test_variable_copy_asks_after_the_delimiter():
    b = Copy(6, variable=True).batch(generator(), 2000)
    shown = b.x.argmax(-1)
    when = (shown == DELIMITER).int().argmax(0)
    assert ((shown == DELIMITER).sum(0) == 1).all()
    lags, counts = (when - 9).unique(return_counts=True)
    assert lags.tolist() == [1, 2, 3, 4, 5, 6] and counts.min() > 250
    for k in range(50):
        assert torch.equal(b.target[when[k] + 1 : when[k] + 11, k], shown[:10, k])
        assert (b.target[: when[k] + 1, k] == BLANK).all() and (b.target[when[k] + 11 :, k] == BLANK).all()


def test_adding_has_a_marker_in_each_half_and_the_sum_at_the_end():
    b = Adding(11).batch(generator(), 4000)
    value, marker = b.x.unbind(-1)
    assert (marker[:5].sum(0) == 1).all() and (marker[5:].sum(0) == 1).all()
    assert torch.allclose((value * marker).sum(0), b.target[-1])
    share = marker.mean(1)
    assert torch.allclose(share[:5], torch.tensor(1 / 5), atol=0.03)
    assert torch.allclose(share[5:], torch.tensor(1 / 6), atol=0.03)
    assert (b.weight[:-1] == 0).all()


def test_denoise_positions_are_distinct_sorted_and_uniform():
    b = Denoise(15).batch(generator(), 4000)
    shown = b.x.argmax(-1)
    assert shown.shape[0] == 26 and (shown[15] == DELIMITER).all() and (shown[16:] == BLANK).all()
    assert ((shown[:15] < 8).sum(0) == 10).all()
    assert torch.equal(shown[:15].t()[(shown[:15] < 8).t()].view(-1, 10), b.target[-10:].t())
    assert torch.allclose((shown[:15] < 8).float().mean(1), torch.tensor(10 / 15), atol=0.04)
    with pytest.raises(ValueError, match="at least 10"):
        Denoise(9)


@pytest.mark.parametrize("kind", ["variable", "uniform"])
def test_warp_repeats_and_answers_the_character_before(kind):
    plain, padded = (Warp(40, 4, kind, p).batch(generator(), 300) for p in (False, True))
    lengths = []
    for k in range(300):
        shown = plain.x[:, k].argmax(-1).tolist()
        blocks = [[shown[0], 0]]
        for symbol in shown:
            if symbol != blocks[-1][0]:
                blocks.append([symbol, 0])
            blocks[-1][1] += 1
        assert all(1 <= s <= 9 for s, _ in blocks)
        lengths += [n for _, n in blocks[:-1]]
        row = blocks[0][1]
        assert (plain.weight[:row, k] == 0).all()
        for (before, _), (symbol, n) in itertools.pairwise(blocks):
            assert plain.target[row : row + n, k].tolist() == [before] * n
            assert padded.x[row : row + n, k].argmax(-1).tolist() == [symbol] + [0] * (n - 1)
            assert padded.weight[row, k] > 0 and (padded.weight[row + 1 : row + n, k] == 0).all()
            row += n
    found = np.bincount(lengths, minlength=5)[1:] / len(lengths)
    assert np.allclose(found, [0.25] * 4, atol=0.05) if kind == "variable" else found.tolist() == [0, 0, 0, 1]


def memoryless_output(task, b):
    """What the best predictor without the data says: logits (T, B, outputs), or the mean."""
    out = torch.zeros(*b.target.shape, task.outputs)
    if isinstance(task, Adding):
        return out + 1.0
    if isinstance(task, Copy):
        out[..., BLANK] = torch.where(b.scored, -1e9, 1e9)
    if isinstance(task, Warp):  # anything but the dummy and the present character; under padding no row shows another
        out = torch.where(b.x > 0, -1e9, 0.0)
        out[..., 0] = -1e9
    return out


@pytest.mark.parametrize("task", TASKS, ids=IDS)
def test_the_memoryless_loss_is_that_of_the_best_memoryless_predictor(task):
    b = task.batch(generator(1), 6000)
    out = memoryless_output(task, b)
    assert float(task_loss(task, out, b)) == pytest.approx(task.memoryless, rel=0.03)
    if task.chance is not None:
        guess = (out + 1e-3 * torch.rand(out.shape, generator=generator(2))).argmax(-1)
        assert float((guess == b.target)[b.scored].float().mean()) == pytest.approx(task.chance, abs=0.01)
        worse = task_loss(task, out + 0.5 * torch.randn(task.outputs, generator=generator(5)), b)
        assert float(worse) > task.memoryless


def test_closed_forms():
    assert Copy(200).memoryless == pytest.approx(0.0945, abs=5e-5)
    assert Copy(2000).memoryless == pytest.approx(0.0103, abs=5e-5)
    assert Denoise(100).memoryless == pytest.approx(2.079, abs=1e-3)


def test_digits_are_the_images_in_order_permuted_and_with_blanks():
    plain, mixed, rows = digits(), digits(permuted=True), digits(per_row=8, blanks=5, marked=True)
    a, b, c = (task.held_out(20) for task in (plain, mixed, rows))
    assert a.x.shape == b.x.shape == (64, 20, 1) and c.x.shape == (13, 20, 9)
    assert torch.equal(a.x[permutation(64)], b.x) and not torch.equal(a.x, b.x)
    assert torch.equal(mixed.order, digits(permuted=True).order) and mixed.order.sort().values.tolist() == list(
        range(64)
    )
    assert torch.equal(c.x[:8, :, :8].transpose(0, 1).reshape(20, 64).t(), a.x[..., 0])
    assert (c.x[8:] == 0).all() and (c.x[:8, :, 8] == 1).all()
    assert torch.equal(a.target[-1], c.target[-1]) and set(a.target[-1].tolist()) <= set(range(10))
    assert len(plain.images) == 1437 and len(plain.test_images) == 360 and float(plain.images.max()) == 1.0
    frequency = plain.test_labels.bincount() / 360
    full = plain.held_out(360)
    assert float(task_loss(plain, frequency.log().expand(64, 360, 10), full)) == pytest.approx(
        plain.memoryless, rel=1e-5
    )
    assert plain.memoryless == pytest.approx(math.log(10)) and plain.chance == pytest.approx(0.1)


def test_mnist_from_a_folder(tmp_path):
    def idx(name, array, pack=lambda data: data, suffix=""):
        head = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
        (tmp_path / (name + suffix)).write_bytes(pack(head + array.astype(np.uint8).tobytes()))

    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (12, 28, 28)), np.arange(12) % 10
    idx("train-images-idx3-ubyte", images, gzip.compress, ".gz")
    idx("train-labels-idx1-ubyte", labels)
    idx("t10k-images-idx3-ubyte", images[:10])
    idx("t10k-labels-idx1-ubyte", labels[:10])
    task = Digits(folder=str(tmp_path))
    b = task.held_out(10)
    assert b.x.shape == (784, 10, 1) and b.target[-1].tolist() == list(range(10))
    assert torch.allclose(b.x[:, 3, 0], torch.tensor(images[3].ravel() / 255, dtype=torch.float32))
    with pytest.raises(FileNotFoundError, match="nothing"):
        read_idx(tmp_path, "nothing")
    (tmp_path / "short").write_bytes(struct.pack(">HBBI", 0, 8, 1, 9))
    with pytest.raises(ValueError, match="promises"):
        read_idx(tmp_path, "short")


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
    assert report.judge(claim, tmp_path, [1], False, lines).label == v.UNDECIDED


def test_the_table_keeps_its_budget():
    assert sum(claim.cap for claim in CLAIMS.values()) <= 12
    for claim in CLAIMS.values():
        assert claim.core_hours(3) <= claim.cap, claim.id
        for quick in (False, True):
            assert all(isinstance(spec, Spec) for spec in claim.specs(quick).values()), claim.specs(quick)
        assert all(spec.steps <= 600 for spec in claim.specs(True).values())


def script():
    spec = importlib.util.spec_from_file_location("claims_script", ROOT / "benchmarks" / "claims.py")
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
