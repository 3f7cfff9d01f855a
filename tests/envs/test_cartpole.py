"""CartPole without velocities against Gymnasium's CartPole-v1."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.envs.classic_control.cartpole import CartPoleEnv

import envs


def inject(env, states, t=0):
    """Puts the batch into these states (B, 4), at step t."""
    env.state.x.copy_(torch.from_numpy(states))
    env.state.t.fill_(t)
    env.ended.fill_(False)


def test_every_step_from_injected_states():
    """Random states, beyond what play reaches: the new state to the last bits of float64, the observation in float32 equal,
    the same end."""
    many, rng, theirs = 6_000, np.random.default_rng(0), CartPoleEnv()
    states = rng.uniform(-1, 1, (many, 4)) * [2.5, 6.0, 0.22, 6.0]
    actions = rng.integers(2, size=many)
    env = envs.make("cartpole_pomdp", many)
    env.reset()
    inject(env, states)
    row = env.step(torch.from_numpy(actions))
    ends = 0
    for i in range(many):
        theirs.reset(seed=0)
        theirs.state = states[i]
        obs, reward, terminated, _, _ = theirs.step(int(actions[i]))
        assert env.state.x[i].numpy() == pytest.approx(theirs.state, rel=1e-14, abs=1e-14)
        assert (row.obs[i].numpy() == obs[::2]).all() and row.reward[i] == reward == 1
        assert bool(row.discount[i] == 0) == terminated == bool(env.ended[i])
        ends += terminated
    assert 0.1 * many < ends < 0.9 * many


def test_whole_episodes():
    """As gymnasium.make builds it, time limit included: a good policy, and one that falls."""
    theirs = gymnasium.make("CartPole-v1")
    env = envs.make("cartpole_pomdp", 6, seed=5, cue_visible=True)
    row, lengths = env.reset(), []
    starts, noise = env.state.x.clone().numpy(), np.random.default_rng(1)
    seen, rewards, actions, ended = [row.obs.numpy()], [], [], []
    for _ in range(501):
        best = env.oracle(env.state).numpy()
        action = np.where(np.arange(6) < 3, best, noise.integers(2, size=6))
        row = env.step(torch.from_numpy(action))
        seen.append(row.obs.numpy()), actions.append(action), rewards.append(row.reward.numpy())
        ended.append((row.discount.numpy() == 0, env.ended.clone().numpy()))
    for i in range(6):
        theirs.reset()
        theirs.unwrapped.state = starts[i]
        for t in range(500):
            obs, reward, terminated, truncated, _ = theirs.step(int(actions[t][i]))
            assert seen[t + 1][i] == pytest.approx(obs[[0, 2, 1, 3]], rel=1e-5, abs=1e-6)
            assert rewards[t][i] == reward
            assert (bool(ended[t][0][i]), bool(ended[t][1][i])) == (terminated, terminated or truncated)
            if terminated or truncated:
                lengths.append(t + 1)
                break
    assert lengths[:3] == [500] * 3 and max(lengths[3:]) < 200


def test_scaled_observations_are_shares_of_the_limits():
    plain, scaled = envs.make("cartpole_pomdp", 64), envs.make("cartpole_pomdp", 64, scaled=True)
    share = plain.reset().obs.double() / torch.tensor([2.4, np.deg2rad(12)])
    assert torch.allclose(scaled.reset().obs.double(), share, rtol=1e-6)


def test_starts_are_gymnasiums():
    env = envs.make("cartpole_pomdp", 50_000)
    x = env.state.x
    assert x.abs().max() <= 0.05 and x.mean(0).abs().max() < 1e-3
    assert x.std(0).tolist() == pytest.approx([0.1 / 12**0.5] * 4, rel=0.02)
    assert torch.corrcoef(x.T).fill_diagonal_(0).abs().max() < 0.03


def play(env, policy):
    row, total = env.reset(), torch.zeros(env.num_envs)
    alive, won = torch.ones(env.num_envs, dtype=torch.bool), torch.zeros(env.num_envs, dtype=torch.bool)
    while alive.any():
        row = env.step(policy(row))
        total += alive
        won |= alive & env.ended & env.success(env.state)
        alive &= ~env.ended
    return total, won


def test_the_oracle_balances_to_the_limit():
    env = envs.make("cartpole_pomdp", 2000, seed=9)
    total, won = play(env, lambda row: env.oracle(env.state))
    assert (total == 500).all() and won.all()
    assert env.spec.r_oracle == env.spec.r_star == 500 and env.spec.max_rows == 501


def test_a_script_that_sees_positions_only_balances_to_the_limit():
    """Differences of the last two rows give the velocities of the row before; the action since is the agent's own."""
    env = envs.make("cartpole_pomdp", 1000, seed=8)
    before, action = None, torch.zeros(1000, dtype=torch.int64)

    def policy(row):
        nonlocal before, action
        x, angle = row.obs.double().unbind(1)
        if before is None:
            action = (angle > 0).long()
        else:
            push = 2.0 * action - 1
            v, spin = (x - before[0]) / 0.02 + 0.195 * push, (angle - before[1]) / 0.02 - 0.29 * push  # one step of it
            action = (0.3 * x + 0.5 * v + 5.0 * angle + spin > 0).long()
        before = (x, angle)
        return action

    total, won = play(env, policy)
    assert (total == 500).all() and won.all()


def test_falling_on_the_last_step_is_no_success():
    env = envs.make("cartpole_pomdp", 2, step_limit=100)
    env.reset()
    inject(env, np.array([[0.0, 0, 0, 0], [0, 0, 0.209, 3.0]]), t=99)
    row = env.step(torch.tensor([1, 1]))
    assert env.ended.all() and row.discount.tolist() == [1, 0]
    assert env.success(env.state).tolist() == [True, False]


def test_random_return_by_gymnasium():
    """The spec sheet's simulation against Gymnasium's own environment."""
    theirs, rng, lengths = CartPoleEnv(), np.random.default_rng(3), []
    theirs.reset(seed=3)
    for _ in range(1000):
        theirs.reset()
        length, over = 0, False
        while not over:
            over = theirs.step(int(rng.integers(2)))[2]
            length += 1
        lengths.append(length)
    spec = envs.make("cartpole_pomdp", 1).spec
    assert spec.r_random == pytest.approx(np.mean(lengths), abs=4 * np.std(lengths) / 1000**0.5)
    assert spec.score(500.0) == 1 and spec.score(spec.r_random) == 0


def test_the_twin_shows_the_velocities():
    env = envs.make("cartpole_pomdp", 3, cue_visible=True)
    row = env.reset()
    assert torch.equal(row.obs, env.state.x[:, [0, 2, 1, 3]].float())
    low, high = env.obs_low, env.obs_high
    env = envs.make("cartpole_pomdp", 64, cue_visible=True)
    for push in (0, 1):  # nothing goes faster than a cart that is pushed one way
        env.reset()
        for _ in range(30):
            row = env.step(torch.full((64,), push))
            assert row.obs.min() >= low and row.obs.max() <= high
