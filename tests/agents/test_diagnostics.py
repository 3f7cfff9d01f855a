"""Gates, gradients by lag, replay and credit on cells and rollouts whose answer is known."""

import json
import math

import pytest
import torch
from torch.nn import functional as F

from agents import diagnose, diagnostics
from agents.agent import Agent
from agents.diagnose import plain
from agents.diagnostics import (
    ages,
    credit,
    decay_length,
    ends,
    gate_summary,
    gradient_by_lag,
    head_pull,
    replay_error,
)
from agents.encoders import VectorEncoder
from agents.rollout import Rollout, collect, start
from envs.env import Step
from memory_cells import unroll
from memory_cells.cells import Cell, GatedRNN, Memoryless
from memory_cells.gates import Coupled
from memory_cells.inits import Constant
from memory_cells.variants import make_core
from tests.agents.counting import CountingEnv

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


def test_all_environments_are_looked_at_up_to_a_bound(monkeypatch):
    agent = agent_with(make_core("lstm", 8, H))
    env = CountingEnv(B)
    rollout, _ = collect(env, agent, start(env, agent), T, torch.Generator().manual_seed(0))
    for bound, seen in ((256, B), (2, 2)):
        monkeypatch.setattr(diagnostics, "LOOKED_AT", bound)
        scalars, histograms = diagnostics.gates_of(agent, rollout)
        rows, state = Step(*(x[:, :seen] for x in rollout.rows)), tuple(s[:seen] for s in rollout.state)
        with torch.no_grad():
            _, _, traces = agent(rows, state, (), record=("keep", "write"))
        assert scalars == diagnostics.gate_levels(traces["keep"], traces["write"])
        assert histograms["keep"].shape == (13, seen, H) and histograms["log10_horizon"].shape == (H,)


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


def test_the_reach_of_an_agent_is_over_episodes_and_clocks_have_none():
    for name in ("gru", "phased-lstm"):
        agent = agent_with(make_core(name, 8, H))
        env = CountingEnv(B)
        rollout, _ = collect(env, agent, start(env, agent), T, torch.Generator().manual_seed(0))
        assert rollout.rows.first[1:].any(0).all()
        found = diagnose._gradient(agent, rollout)
        assert found["norm"].keys() == ({"h"} if name == "gru" else {"h", "c"})
        assert all(n > 0 for n in found["norm"]["h"][:12]) and found["total_error"] < 1e-3


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
    norm[lag % 8 != 0] = 0  # a dilated layer
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
    return Rollout(step, reward[1:], torch.zeros(rows - 1, 1, 2), (), (), ended, ended)


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
