"""Diagnostics on cells whose answer is known, and on runs."""

import json
import math

import pytest
import torch
from torch.nn import functional as F

import build
import evaluate_agent
import train_agent
from agents import diagnostics
from agents.agent import Agent
from agents.diagnose import diagnose, plain, recording_size, summary
from agents.diagnostics import (
    ages,
    credit,
    decay_length,
    ends,
    gate_summary,
    gates_now,
    gradient_by_lag,
    head_pull,
    replay_error,
)
from agents.encoders import VectorEncoder
from agents.probe import cross_validated, memory_probe, targets
from agents.rollout import Rollout, collect, start
from agents.runlog import TensorBoardMirror, read_metrics
from agents.session import Interrupt, Session
from configs.load import load_config
from envs import make
from envs.env import Step
from memory_cells import unroll
from memory_cells.cells import Cell, GatedRNN, Memoryless
from memory_cells.gates import Coupled
from memory_cells.inits import Constant
from memory_cells.variants import make_core
from tests.agents.counting import CountingCell, CountingEnv

T, B, H = 24, 3, 4


class Decay(Cell):
    """h' = a h + x."""

    def __init__(self, size, a):
        super().__init__(size, size)
        self.a, self.scale = a, torch.nn.Parameter(torch.ones(size, dtype=torch.float64))

    def project(self, x):
        return (x * self.scale,)

    def step(self, z, state):
        return (self.a * state[0] + z[0],)


def unit(t, y):
    """A fixed unit vector for every environment."""
    return torch.full_like(y, y.shape[-1] ** -0.5)


def rows_of(core, length=T, batch=B):
    torch.manual_seed(1)
    like = next(core.parameters())
    x = torch.randn(length, batch, core.input_size, dtype=like.dtype)
    return x, torch.zeros(length, batch, dtype=torch.bool), core.initial_state(batch)


def agent_with(core, inputs=2, actions=4):
    return Agent(VectorEncoder((inputs,), 0, core.input_size), actions, core)


# --- gates -----------------------------------------------------------------------------------------------------------


def test_a_unit_that_keeps_nine_tenths_has_horizon_ten():
    core = GatedRNN(2, 3, Coupled(), Constant(0.0))
    with torch.no_grad():
        for p in (core.weight_x, core.weight_h):
            p.zero_()
        core.bias[:3] = torch.tensor([math.log(9), math.log(99), 40.0])  # keep 0.9, 0.99, 1
    x, first, state = rows_of(core)
    first[0] = first[5, 1] = True
    _, _, traces = unroll(core, x, first, state, record=("keep", "write"))
    found = gate_summary(traces["keep"], traces["write"], first)
    assert found["horizon_of_unit"] == pytest.approx([10, 100, math.inf], rel=1e-4)
    assert found["horizon_q50"] == pytest.approx(100, rel=1e-4)
    assert found["keep_mean"] == pytest.approx((0.9 + 0.99 + 1) / 3) and found["write_mean"] == pytest.approx(0.11 / 3)
    assert found["keep_open"] == pytest.approx(2 / 3) and found["write_closed"] == pytest.approx(2 / 3)
    assert found["keep_closed"] == found["write_open"] == 0
    by_row = found["by_row"]
    assert by_row["rows"] == [4, 4, 4, 4, 4] + [3] * 14 + [2] * 5 and sum(by_row["rows"]) == T * B
    assert by_row["horizon_q50"] == pytest.approx([100] * T, rel=1e-4)
    json.dumps(plain(found), allow_nan=False)


def test_by_row_is_the_row_of_the_episode():
    first = torch.tensor([[1, 1], [0, 0], [1, 0], [0, 0]], dtype=torch.bool)
    assert ages(first).tolist() == [[0, 0], [1, 1], [0, 2], [1, 3]]
    keep = (ages(first) / 10).unsqueeze(-1).expand(4, 2, 5)
    assert gate_summary(keep, 1 - keep, first)["by_row"]["keep_mean"] == pytest.approx([0, 0.1, 0.2, 0.3])
    with pytest.raises(ValueError, match="begin with the first row"):
        ages(first[1:])


# --- gradient by lag -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("a", [0.5, 0.9, 0.999])
def test_a_linear_recurrence_has_the_gradient_one_can_write_down(a):
    core = Decay(H, a)
    found = gradient_by_lag(core, *rows_of(core), [T - 1, T - 4], unit)
    want = a ** torch.arange(T - 2, dtype=torch.float64)
    torch.testing.assert_close(found.norm["h"], want, rtol=1e-12, atol=0)
    assert list(found.norm) == ["h"] and found.total_error < 1e-12
    assert decay_length(found.norm["h"]) == pytest.approx(-1 / math.log(a), rel=1e-9)


def test_what_does_not_decay_and_what_does_not_pass():
    core = Decay(H, 1.0)
    assert decay_length(gradient_by_lag(core, *rows_of(core), [T - 1], unit).norm["h"]) == math.inf
    grows = gradient_by_lag(Decay(H, 1.1), *rows_of(core), [T - 1], unit).norm["h"]
    assert decay_length(grows) == math.inf
    x, first, state = rows_of(core)
    first[10] = True  # behind a reset there is nothing
    norm = gradient_by_lag(core, x, first, state, [T - 1], unit).norm["h"]
    assert norm[: T - 10].tolist() == pytest.approx([1] * (T - 10)) and not norm[T - 10 :].any()
    none = gradient_by_lag(Memoryless(H, H), *rows_of(Memoryless(H, H)), [T - 1], unit)
    assert none.norm["h"][0] == pytest.approx(1) and not none.norm["h"][1:].any()
    assert decay_length(none.norm["h"]) == 0


def test_the_fit_is_robust():
    lag = torch.arange(300, dtype=torch.float64)
    norm = torch.exp(-lag / 40)
    norm[:3] = torch.tensor([50.0, 20.0, 5.0])
    norm[100:110] *= 1e3
    assert decay_length(norm) == pytest.approx(40, rel=0.02)
    norm[200:] = 0  # underflow
    assert decay_length(norm) == pytest.approx(40, rel=0.02)


CELLS = ("lstm", "ur-gru", "nru", "slstm", "g-lstm", "stacked-lstm", "mingru", "memoryless", "zoneout-lstm", "hdetach-lstm")


@pytest.mark.parametrize("name", CELLS)
def test_every_lag_of_every_part_and_the_total(name):
    """Held against rows unrolled anew from each state, one lag and one part at a time."""
    torch.manual_seed(0)
    core = make_core(name, H, H, horizon=20)
    x, first, state = rows_of(core, length=8)
    noise = core.draw(8, B, torch.Generator().manual_seed(3))
    found = gradient_by_lag(core, x, first, state, [7], unit, noise=noise)
    assert list(found.norm) == list(core.state_names) and found.total_error < 1e-4
    if name == "lstm":
        assert list(found.norm) == ["h", "c"]
        assert found.norm["h"][0] == pytest.approx(1) and found.norm["c"][0] == 0  # the output is h itself
    for k in range(1, 9):
        at, part = 8 - k, tuple(n[8 - k :] for n in noise)
        before, early = state, tuple(n[:at] for n in noise)
        if at:
            _, before = unroll(core, x[:at], first[:at], state, path="loop", noise=early)
        before = tuple(s.detach().clone().requires_grad_() for s in before)
        y, _ = unroll(core, x[at:], first[at:], before, path="loop", noise=part)
        grads = torch.autograd.grad((unit(7, y[-1]) * y[-1]).sum(), before, allow_unused=True)
        for entry, grad in zip(core.state_names, grads, strict=True):
            want = 0.0 if grad is None else grad.double().norm(dim=1).mean()
            assert float(found.norm[entry][k]) == pytest.approx(float(want), rel=1e-4, abs=1e-9), (entry, k)


def test_a_wrong_fast_path_is_seen(monkeypatch):
    core = make_core("lstm", H, H)
    whole = diagnostics.unroll

    def short(core, x, first, state, **options):
        """Cuts the gradient half way."""
        y, middle = whole(core, x[: T // 2], first[: T // 2], state, **options)
        rest, end = whole(core, x[T // 2 :], first[T // 2 :], tuple(s.detach() for s in middle), **options)
        return torch.cat([y, rest]), end

    monkeypatch.setattr(diagnostics, "unroll", short)
    assert gradient_by_lag(core, *rows_of(core), [T - 1], unit).total_error > 0.5


def test_the_pull_of_the_heads():
    agent = agent_with(make_core("gru", H, H))
    torch.nn.init.normal_(agent.policy.weight)
    action, y = torch.tensor([[0, 3, 1]]), torch.randn(B, H)
    found = head_pull(agent, action)(0, y)
    pi = agent.policy(y).softmax(-1)
    want = agent.value.weight - (F.one_hot(action[0], 4) - pi) @ agent.policy.weight
    torch.testing.assert_close(found, want / want.norm(dim=-1, keepdim=True))


# --- replay, ends, credit --------------------------------------------------------------------------------------------


def test_replay_and_ends():
    torch.manual_seed(0)
    env, agent = CountingEnv(6), agent_with(make_core("lstm", H, H), actions=2)
    torch.nn.init.normal_(agent.policy.weight)
    rollout, _ = collect(env, agent, start(env, agent), 40, torch.Generator().manual_seed(0))
    assert replay_error(agent, rollout) < 1e-4
    found = ends(rollout)
    truncated = sum(int((rollout.ended & (rollout.rows.discount[1:] == 1))[:, b].sum()) for b in range(6))
    assert found["truncated"] == truncated > 0 and found["terminated"] == int((rollout.rows.discount == 0).sum()) > 0
    assert found["terminated"] + found["truncated"] == int(rollout.ended.sum())
    # a row that ends its episode is followed by a reset row inside the rollout, unless it is the last
    assert found["episodes"] == 6 + int(rollout.ended[:-1].sum()) and found["unfinished"] == 6 - int(rollout.ended[-1].sum())
    with torch.no_grad():
        agent.policy.bias += torch.tensor([0.5, 0.0])
    assert replay_error(agent, rollout) > 0.1


def played(first, ended, reward):
    """A rollout of one environment with these columns; ended is about rows 1..T."""
    first = torch.tensor(first, dtype=torch.bool).unsqueeze(1)
    ended, rows = torch.tensor(ended, dtype=torch.bool).unsqueeze(1), len(first)
    discount = torch.cat([torch.ones(1, 1), 1 - ended.float()])
    reward = torch.tensor(reward, dtype=torch.float32).unsqueeze(1)
    step = Step(torch.zeros(rows, 1, 1), torch.zeros(rows, 1, dtype=torch.int64), reward, discount, first)
    return Rollout(step, torch.zeros(rows - 1, 1, 2), (), (), ended, ended)


def test_credit_by_hand():
    """Episodes of two, one and (unfinished) one actions, with rewards 4 and 2 at the end of the first two."""
    rollout = played([1, 0, 0, 1, 0, 1, 0], [0, 1, 0, 1, 0, 0], [0, 0, 4.0, 0, 2.0, 0, 0])
    whole = credit(torch.zeros(7, 1), rollout, 1.0, 1.0)
    assert whole["episodes"] == 2 and whole["total"] == (4 + 4 + 2) / 2
    assert whole["by_end"]["advantage"] == [3, 4] and whole["by_end"]["actions"] == [2, 1]
    assert whole["by_end"]["share"] == pytest.approx([0.6, 0.4]) and whole["by_row"]["share"] == pytest.approx([0.6, 0.4])
    assert credit(torch.zeros(7, 1), rollout, 1.0, 0.0)["by_end"]["share"] == [1, 0]  # lambda 0: one step back only
    assert credit(torch.zeros(7, 1), rollout, 0.5, 1.0)["by_end"]["advantage"] == [3, 2]
    value = torch.tensor([1.0, 3, 9, 2, 9, 9, 9]).unsqueeze(1)
    found = credit(value, rollout, 1.0, 1.0)
    assert found["value_at_start"] == 1.5 and found["value_at_decision"] == 2.5 and found["by_row"]["value"] == [1.5, 3]
    assert found["by_end"]["advantage"] == [0.5, 3]  # 4 - 3 and 2 - 2; 4 - 1
    assert credit(torch.zeros(3, 1), played([1, 0, 0], [0, 0], [0, 0, 1.0]), 1.0, 1.0) is None


# --- the probe -------------------------------------------------------------------------------------------------------


class Sum(CountingCell):
    """Holds the sum of what it has seen, and with it the cue that it was shown once."""

    def project(self, x):
        return (x,)


class Same(torch.nn.Module):
    """Hands on the observation as it is."""

    def forward(self, obs, extra):
        return obs


def probed(core):
    env = make("tmaze_passive", num_envs=256, device="cpu", seed=0, corridor_length=6)
    agent = Agent(Same(), env.num_actions, core)
    return diagnose(agent, env, length=20, unroll_length=8, gamma=0.99, trace_lambda=0.95, seed=5)


def test_a_cell_that_copies_the_cue_is_read_perfectly():
    (found,) = probed(Sum(2))["probe"].values()
    assert found["step"] == list(range(8)) and found["accuracy"] == [1] * 8 and min(found["low"]) > 0.97


def test_the_memoryless_cell_is_at_chance():
    report = probed(Memoryless(2, 8))
    (found,) = report["probe"].values()
    assert found["accuracy"][0] == 1  # the cue is on show
    for low, chance, high in list(zip(found["low"], found["chance"], found["high"], strict=True))[1:]:
        assert low <= chance <= high < 0.6
    assert report["gates"] is None and "gates: this cell has no gate" in summary(report)


def test_what_there_is_to_read():
    bits = torch.tensor([[1.0, -1], [1, 1], [-1, 1], [-1, 1]])
    assert {n: c.tolist() for n, c in targets(bits).items()} == {"cue 0": [1, 1, 0, 0], "cue 1": [0, 1, 1, 1]}
    hot = torch.eye(4)[[2, 0, 3]]
    assert {n: c.tolist() for n, c in targets(hot).items()} == {"class": [2, 0, 3]}
    assert {n: c.tolist() for n, c in targets(torch.tensor([[0.1, 5], [0.7, 5], [0.9, 5]])).items()} == {"cue 0": [0, 0, 1]}
    x = torch.randn(200, 6, generator=torch.Generator().manual_seed(0))
    classes = x[:, :3].argmax(1)
    assert cross_validated(x, classes).double().mean() > 0.85
    shuffled = classes[torch.randperm(200, generator=torch.Generator().manual_seed(1))]
    assert cross_validated(x, shuffled).double().mean() < 0.45  # of episodes it has not seen, it knows nothing


def test_the_probe_equals_scikit_learn():
    linear = pytest.importorskip("sklearn.linear_model")
    x = torch.randn(60, 5, generator=torch.Generator().manual_seed(0)).double()
    classes = (x[:, 0] + torch.randn(60, generator=torch.Generator().manual_seed(1)) > 0).long()
    found, want = cross_validated(x, classes), torch.zeros(60, dtype=torch.bool)
    for k in range(5):
        train = torch.arange(60) % 5 != k
        z = (x - x[train].mean(0)) / x[train].std(0, correction=0)
        ridge = linear.Ridge(alpha=0.1 * 48).fit(z[train].numpy(), 2.0 * classes[train].numpy() - 1)
        want[~train] = torch.from_numpy(ridge.predict(z[~train].numpy()) > 0) == classes[~train].bool()
    assert torch.equal(found, want) and 0.5 < found.double().mean() < 1


def test_an_episode_counts_while_it_lasts():
    """Two environments of episodes of 3 and 1 rows; only what is there is probed."""
    age = torch.stack([torch.arange(90) % 3, torch.zeros(90, dtype=torch.int64)], 1)
    cue = torch.randint(2, (90, 2, 1), generator=torch.Generator().manual_seed(0)) * 2.0 - 1
    (found,) = memory_probe(cue, age, cue).values()
    assert found["step"] == [0, 1, 2] and found["episodes"] == [120, 30, 30] and found["accuracy"][0] == 1
    assert memory_probe(cue[:9], age[:9], cue[:9]) == {}  # too few


# --- in training and of a run ----------------------------------------------------------------------------------------

TINY = [
    "smoke", "device=cpu", "train.threads=1", "env.corridor_length=5", "cell.hidden_size=8", "agent.embedding_size=8",
    "train.num_envs=8", "train.steps=800", "train.log_every=2", "train.evaluate_every=0", "evaluate.episodes=32",
    "evaluate.num_envs=32",
]  # fmt: skip


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    run = tmp_path_factory.mktemp("diagnose") / "run"
    assert train_agent.main([*TINY, "train.diagnose_every=3", f"run_dir={run}"]) == 0
    return run


def test_looking_at_the_gates_changes_nothing():
    config = load_config([*TINY, "cell=zoneout-lstm"], build.KNOWN_CELLS)
    one, two = (build.make_trainer(config, torch.device("cpu")) for _ in range(2))
    for _ in range(3):
        found, histograms = gates_now(one.learner.agent, one.carry)
        assert 0 < found["keep_mean"] < 1 and histograms["keep"].shape == (8, 8) and histograms["log10_horizon"].shape == (8,)
        logs = one.iterate(), two.iterate()
        assert all(torch.equal(a, b) for a, b in zip(*(log.values() for log in logs), strict=True))
    left, right = one.state(), two.state()
    assert all(torch.equal(left["generators"][k], right["generators"][k]) for k in left["generators"])
    assert one.learner.agent.training
    torch.testing.assert_close(torch.tensor(found["horizon_q50"]).log10(), histograms["log10_horizon"].median().float(),
                               rtol=0.2, atol=0)  # fmt: skip
    assert gates_now(agent_with(Memoryless(H, H)), one.carry) == ({}, {})


def test_the_record_and_tensorboard(watched):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import metadata

    rows = read_metrics(watched / "metrics.jsonl")
    seen = [row["update"] for row in rows if "gates/keep_mean" in row]
    assert seen and all(update % 3 == 0 for update in seen)
    looked = next(row for row in rows if row["update"] == seen[-1])
    assert {"gates/write_open", "gates/horizon_q05", "gates/horizon_q95"} <= set(looked)
    events = EventAccumulator(str(watched / "tensorboard"), size_guidance={"histograms": 0})
    events.Reload()
    tags = events.Tags()
    assert {tag.split("/")[0] for tag in tags["scalars"]} == {"train", "learner", "gates", "time", "final"}
    steps = [row["step"] for row in rows if "gates/keep_mean" in row]
    assert sorted(tags["histograms"]) == ["gates/keep", "gates/log10_horizon"]
    assert [e.step for e in events.Histograms("gates/keep")] == steps
    assert [e.step for e in events.Scalars("gates/keep_mean")] == steps
    assert metadata.PLUGIN_NAME in events.summary_metadata["_hparams_/session_start_info"].plugin_data.plugin_name
    evaluation = json.loads((watched / "evaluation.json").read_text())
    assert events.Scalars("final/greedy_success")[-1].value == pytest.approx(evaluation["greedy"]["success_rate"])


def test_the_step_axis_after_a_resume(tmp_path):
    """What was written before the checkpoint is there once, what a killed run wrote after it is hidden."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def session():
        trainer = build.make_trainer(load_config(TINY, build.KNOWN_CELLS), torch.device("cpu"))
        return Session(tmp_path, trainer, log_every=1, checkpoint_every=100, keep=1, diagnose_every=1)

    class Soon(Interrupt):
        def __bool__(self):
            return one.trainer.update == 3

    one, two = session(), session()
    assert not one.run(Soon())
    later = TensorBoardMirror(tmp_path / "tensorboard")
    later.write(one.trainer.step + 1, {"train/return": 99.0})
    later.close()
    two.restore()
    assert two.run(Interrupt())
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    steps = [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")]
    assert [e.step for e in events.Scalars("gates/keep_mean")] == steps and len(steps) > 4
    assert 99.0 not in [e.value for e in events.Scalars("train/return")]


def report_of(capsys, *arguments):
    capsys.readouterr()
    assert evaluate_agent.main(list(map(str, arguments))) == 0
    told = capsys.readouterr()
    assert told.err == ""
    return told.out


def test_diagnose_adds_to_the_report_and_changes_nothing_of_it(watched, capsys):
    plainly = json.loads(report_of(capsys, watched, "--json"))
    assert not (watched / "diagnose").exists()
    full = json.loads(report_of(capsys, watched, "--json", "--diagnose"))
    found = full.pop("diagnose")
    assert full == plainly and found == json.loads((watched / "diagnose" / "diagnose.json").read_text())
    assert sorted(p.name for p in (watched / "diagnose").iterdir()) == [
        "credit.png", "diagnose.json", "gates.png", "gradient.png", "probe.png",
    ]  # fmt: skip
    assert found["replay_error"] < 1e-4 and found["gradient"]["total_error"] < 1e-3
    assert list(found["gradient"]["norm"]) == ["h", "c"] and len(found["gates"]["horizon_of_unit"]) == 8
    assert len(found["gradient"]["norm"]["h"]) > found["unroll_length"]  # beyond the rollout
    assert found["memory_length"] == 5 and found["credit_length"] == 1 and found["ends"]["terminated"] > 32
    lines = report_of(capsys, watched, "--diagnose").splitlines()
    assert [line.split(":")[0] for line in lines[1:]] == [
        "recorded", "replay", "gates", "gradient by lag", "memory probe", "credit", "figures",
    ]  # fmt: skip
    assert lines[0] == report_of(capsys, watched).strip()
    assert evaluate_agent.main([str(watched), "--diagnose", "--lengths", "3,5"]) == 2
    assert "not with --lengths" in capsys.readouterr().err


def test_how_much_is_recorded():
    assert recording_size(7, 16, 256) == (32, 256)  # twice the rollout
    assert recording_size(251, 64, 256) == (251, 256)  # a whole episode
    assert recording_size(None, 64, 8) == (128, 8)
    assert recording_size(100_000, 64, 256) == (1000, 100) and recording_size(5, 3000, 256) == (2000, 50)
