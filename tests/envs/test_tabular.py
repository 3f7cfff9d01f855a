"""The tool that computes exact values, against closed forms and against the T-mazes' own sheets."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from tabular import Tabular

import envs


class CoinState(NamedTuple):
    t: torch.Tensor
    shown: torch.Tensor
    held: torch.Tensor  # (B, 2): a field of more than one number


class Coins(envs.Env):
    """Three coins: two are thrown at the start, of which the sum shows, one on each of two steps with heads at 0.3. Action 1
    bets on that one: +1 for heads, -1 for tails, and +2 more if both first coins were heads; action 0 passes."""

    num_actions, action_names = 2, ("pass", "bet")

    def spawn(self):
        held = torch.randint(2, (self.num_envs, 2), generator=self.generator)
        zero = torch.zeros(self.num_envs, dtype=torch.int64)
        return CoinState(zero, zero - 1, held)

    def act(self, state, action):
        heads = torch.rand(self.num_envs, generator=self.generator) < 0.3
        reward = action * (2.0 * heads - 1 + 2 * state.held.prod(1))
        over = state.t == 1
        return CoinState(state.t + 1, heads.long(), state.held), reward, over, over & False

    def observe(self, state):
        return state.held.sum(1, keepdim=True).float()

    def success(self, state):
        return state.t > 1

    def oracle(self, state):
        return state.held.prod(1)

    def cue(self, state):
        return state.held.float()

    def describe(self):
        return envs.Spec(*[None] * 8, 3, None)


HEADS = [(0.3, 0.1), (0.7, 0.9)]


@pytest.mark.parametrize("last", [False, True])
def test_closed_forms(last):
    table = Tabular(Coins(4), last, HEADS)
    rate = 2 * 0.3 - 1
    assert table.uniform() == pytest.approx(2 * 0.5 * (rate + 2 / 4))
    best = 2 * (rate + 2) / 4  # bet only where both coins are heads, which shows
    assert table.full_information() == pytest.approx(best) == pytest.approx(table.search(starts=4, steps=40))
    assert table.relaxed(lambda seen: seen[0] == 2) == pytest.approx(best)
    blind = table.relaxed(lambda seen: True)
    assert blind == pytest.approx(best)  # blind to nothing that shows
    assert table.credit_length() == 1
    # what is seen besides: nothing on the first row, then action 0 or 1 and a reward of 0, -1 or 1, or 1 or 3 at the sum 2
    assert len(table.contexts) == (3 * (1 + 3) if last else 3)
    policy = torch.zeros(2, len(table.contexts), 2, dtype=torch.float64)
    policy[0, :, 1] = 1
    policy[1, :, 0] = 1
    assert table.value(policy).tolist() == pytest.approx([2 * (rate + 0.5), 0.0])


def test_the_outcomes_of_every_draw_are_needed():
    with pytest.raises(TypeError, match="needs `uniform`"):
        Tabular(Coins(4))
    coins = Coins(4)
    coins.act = lambda state, action: torch.randn(4)
    with pytest.raises(TypeError, match="cannot enumerate the outcomes of randn"):
        Tabular(coins, uniform=HEADS)
    coins = Coins(4)
    coins.describe = lambda: envs.Spec(*[None] * 8, 2, None)
    with pytest.raises(ValueError, match="beyond its 2 rows"):
        Tabular(coins, uniform=HEADS)


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("tmaze_passive", {"corridor_length": 3}),
        ("tmaze_active", {"corridor_length": 2}),
        ("tmaze_active", {"corridor_length": 2, "penalty_mode": "action"}),
        ("tmaze_bakker", {"corridor_length": 2, "step_limit": 6}),
    ],
)
def test_sheets_of_the_first_mazes(name, kwargs):
    env, twin = (envs.make(name, 8, cue_visible=c, **kwargs) for c in (False, True))
    for last in (False, True):
        table = Tabular(env, last)
        assert table.uniform() == pytest.approx(env.spec.r_random, abs=1e-7)
        assert table.full_information() == pytest.approx(env.spec.r_oracle)
        r0 = env.spec.r0_memory_last if last else env.spec.r0_memory
        assert table.search(starts=12, steps=60) == pytest.approx(r0, abs=3e-4 if kwargs.get("penalty_mode") else 1e-6)
    assert Tabular(twin).credit_length(0.99) == twin.spec.credit_length
