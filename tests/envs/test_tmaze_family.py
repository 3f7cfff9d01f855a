"""The noisy, rewriting, multi-cue and delayed T-mazes against their rules written out once more."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from plain_tmazes import PlainDelayed, PlainEndless, PlainMultiCue, PlainNoisy

import envs

B = 8


def follow(env, episode, step, steps=150, forward=0.5):
    """Random actions, with extra weight on 0, through `env` and its slow twins, row by row.

    `episode(i)` is a new twin of environment i, whose fresh state is in `env.state`; `step(i, twin, action, row)` moves
    it and gives its reward, whether it ended, whether it was cut off, its observation and its success.
    """
    rng = np.random.default_rng(0)
    env.reset()
    twins, ended = [episode(i) for i in range(env.num_envs)], [False] * env.num_envs
    ends = wins = cut = 0
    for _ in range(steps):
        action = np.where(rng.random(env.num_envs) < forward, 0, rng.integers(env.num_actions, size=env.num_envs))
        row = env.step(torch.from_numpy(action))
        won = env.success(env.state).tolist()
        for i in range(env.num_envs):
            assert row.first[i] == ended[i]
            if ended[i]:
                twins[i], ended[i] = episode(i), False
                assert row.reward[i] == 0 and row.discount[i] == 1
                continue
            reward, terminated, truncated, obs, success = step(i, twins[i], int(action[i]), row)
            assert row.reward[i].item() == pytest.approx(reward, abs=1e-6)
            assert row.obs[i].tolist() == pytest.approx(obs, abs=1e-6)
            assert row.discount[i] == (0.0 if terminated else 1.0)
            ended[i] = terminated or truncated
            assert env.ended[i] == ended[i]
            if ended[i]:
                assert won[i] == success
                ends, wins, cut = ends + 1, wins + won[i], cut + (truncated and not terminated)
    assert ends > 0
    return wins, cut


def goal(env, i):
    return 1 if env.state.goal[i] == env.junction + 1 else -1


@pytest.mark.parametrize(("L", "limit"), [(1, 2), (2, 9), (4, None)])
@pytest.mark.parametrize(("D", "sigma", "slip"), [(0, 0, 0), (3, 0.5, 0.3), (1, 1, 0.9)])
def test_noisy(L, limit, D, sigma, slip):
    env = envs.make("tmaze_noisy", B, corridor_length=L, distractors=D, sigma=sigma, slip=slip, step_limit=limit)
    slips = [0, 0]

    def episode(i):
        assert env.observe(env.state)[i, 3:].tolist() == [0.0] * D
        twin = PlainNoisy(goal(env, i), L, env.step_limit)
        assert env.observe(env.state)[i, :3].tolist() == list(twin.code())
        return twin

    def step(i, twin, action, row):
        tried = twin.in_corridor and action == 0
        slipped = tried and env.state.cell[i].item() == twin.x
        slips[0], slips[1] = slips[0] + slipped, slips[1] + tried
        reward, terminated, truncated = twin.step(action, slipped)
        code, seen = np.array(twin.code()), row.obs[i].numpy()
        if twin.in_corridor:
            blur = code - seen[:3]
            assert blur[1] == 0 and (blur[[0, 2]] >= 0).all() and (blur[[0, 2]] <= sigma).all()
            assert sigma == 0 or blur[0] != blur[2] != 0
            code = seen[:3]
        assert set(seen[3:].tolist()) <= {0.0, 1.0}
        return reward, terminated, truncated, [*code, *seen[3:]], twin.y == twin.goal

    wins = [follow(env, episode, step, forward=forward) for forward in (0.2, 0.9)]
    assert sum(w for w, _ in wins) > 0 or L > 2
    assert slip == 0 or abs(slips[0] / slips[1] - slip) < 5 * (slip * (1 - slip) / slips[1]) ** 0.5
    assert slip > 0 or slips[0] == 0


def test_noise_is_uniform_and_bits_are_fair():
    env = envs.make("tmaze_noisy", 512, corridor_length=30, distractors=3, sigma=0.6)
    env.reset()
    seen = torch.stack([env.step(torch.zeros(512, dtype=torch.int64)).obs for _ in range(20)]).double()
    n = 512 * 20
    for column in (0, 2):
        u = (1 - seen[..., column]) / 0.6
        assert abs(u.mean() - 1 / 2) < 5 * (1 / 12 / n) ** 0.5 and abs(u.square().mean() - 1 / 3) < 5 * (4 / 45 / n) ** 0.5
        assert u.max() > 0.999 and u.min() < 0.001
    pairs = torch.cat((seen, seen.roll(1, 0)), -1)[1:].reshape(-1, 12)[:, [0, 2, 3, 4, 5, 6, 8, 9, 10, 11]]
    correlation = torch.corrcoef(pairs.T) - torch.eye(10)
    assert correlation.abs().max() < 5 / n**0.5  # within a row and from one row to the next
    assert (seen[..., 3:].mean((0, 1)) - 0.5).abs().max() < 2.5 / n**0.5


def test_without_noise_it_is_bakkers_but_for_the_cost_of_going_back():
    plain = envs.make("tmaze_bakker", B, corridor_length=3, seed=2)
    noisy = envs.make("tmaze_noisy", B, corridor_length=3, distractors=0, sigma=0.0)
    generator = torch.Generator().manual_seed(0)
    plain.reset(), noisy.reset()
    for _ in range(200):
        noisy.state.goal.copy_(plain.state.goal)
        before = plain.state.cell.clone()
        action = torch.randint(4, (B,), generator=generator)
        a, b = plain.step(action), noisy.step(action)
        noisy.state.goal.copy_(plain.state.goal)
        back = (action == 2) & (before > 0) & ~a.first
        assert torch.equal(b.reward, torch.where(back, -0.1, a.reward)) and torch.equal(a.discount, b.discount)
        assert torch.equal(a.first, b.first) and torch.equal(a.obs, noisy.observe(noisy.state))


@pytest.mark.parametrize(("L", "D", "sigma"), [(0, 0, 0), (0, 4, 1), (1, 1, 0.5), (3, 0, 1), (6, 5, 2)])
def test_delayed(L, D, sigma):
    env = envs.make("tmaze_delayed", B, corridor_length=L, delay=D, sigma=sigma)
    signs = []

    def step(i, twin, action, row):
        noise = env.state.noise[i].item()
        assert abs(noise) == (sigma if twin.waiting else 0)
        signs.extend([noise] if twin.waiting and sigma else [])
        reward, over = twin.step(action, noise)
        return reward, over, False, twin.obs, twin.y == twin.goal

    def episode(i):
        twin = PlainDelayed(goal(env, i), L, D)
        assert env.observe(env.state)[i].tolist() == list(twin.obs)
        return twin

    assert follow(env, episode, step, forward=0.0 if L == 0 else 0.8)[1] == 0
    assert not signs or abs(np.mean(signs)) < 5 * sigma / len(signs) ** 0.5


def test_noise_of_the_reward_is_independent():
    env = envs.make("tmaze_delayed", 2048, corridor_length=0, delay=6, sigma=1.0)
    env.reset()
    rows = torch.stack([env.step(torch.zeros(2048, dtype=torch.int64)).reward for _ in range(7)])[1:].double()
    assert (torch.corrcoef(rows) - torch.eye(6)).abs().max() < 5 / 2048**0.5
    total = rows.sum(0)  # nobody turns
    assert abs(total.mean()) < 5 * (6 / 2048) ** 0.5 and abs(total.var() - 6) < 5 * 6 * (2 / 2048) ** 0.5


def test_without_delay_it_is_the_passive_tmaze():
    plain = envs.make("tmaze_passive", B, corridor_length=4, seed=2)
    late = envs.make("tmaze_delayed", B, corridor_length=4, delay=0)
    generator = torch.Generator().manual_seed(0)
    plain.reset(), late.reset()
    for _ in range(100):
        late.state.goal.copy_(plain.state.goal)
        action = torch.where(torch.rand(B, generator=generator) < 0.8, 0, torch.randint(4, (B,), generator=generator))
        action = torch.where(plain.state.t == 4, torch.randint(1, 4, (B,), generator=generator), action)
        a, b = plain.step(action), late.step(action)
        assert all(torch.equal(x, y) for x, y in zip(a[1:], b[1:], strict=True))
        running = ~plain.ended & ~a.first
        assert torch.equal(a.obs[running], b.obs[running, :2])


REWRITE = [(1, 1, None), (2, 3, None), (5, 2, 1), (4, 4, 3)]


@pytest.mark.parametrize(("l", "K", "shortest"), REWRITE)
@pytest.mark.parametrize(("wrong", "limit", "position"), [(1.0, None, True), (0.01, 20, False)])
def test_rewrite(l, K, shortest, wrong, limit, position):
    """With both costs 0.01 these are the published rules."""
    env = envs.make("tmaze_rewrite", B, corridor_length=l, corridors=K, min_length=shortest, wrong_turn_cost=wrong,
                    step_limit=limit, show_position=position)  # fmt: skip
    lengths = set()

    def new(i):
        length, hint = env.state.length[i].item(), int(env.cue(env.state)[i].item())
        assert (shortest or l) <= length <= l and abs(hint) == 1
        lengths.add(length)
        return length, hint

    def episode(i):
        return PlainEndless(K, 0.01, wrong, env.step_limit, lambda: new(i))

    def step(i, twin, action, row):
        reward, terminated, truncated = twin.step(action)
        obs = (*twin.obs, twin.x / l) if position else twin.obs
        return reward, terminated, truncated, obs, twin.passed == K

    wins = [follow(env, episode, step, 200, forward) for forward in (0.1, 0.6)]
    assert env.step_limit == (limit or 6 * K * (l + 1))
    assert K > 2 or l > 2 or sum(w for w, _ in wins) > 0
    assert lengths == set(range(shortest or l, l + 1))


def test_hints_and_lengths_are_fair():
    env = envs.make("tmaze_rewrite", 1024, corridor_length=3, corridors=30, min_length=1)
    env.reset()
    hints, lengths = [], []
    for _ in range(60):
        before = env.state.corridor.clone()
        env.step(env.oracle(env.state))
        new = env.state.corridor > before
        hints.append(env.cue(env.state)[new, 0])
        lengths.append(env.state.length[new])
    hints, lengths = torch.cat(hints), torch.cat(lengths)
    n = len(hints)
    assert abs(hints.mean().item()) < 5 / n**0.5
    assert (torch.bincount(lengths, minlength=4)[1:] / n - 1 / 3).abs().max() < 5 * (2 / 9 / n) ** 0.5
    assert abs((hints * (lengths - 2)).mean().item()) < 5 / n**0.5


MULTICUE = [(1, 1, None), (1, 3, None), (3, 2, 11), (2, 4, 30)]


@pytest.mark.parametrize(("l", "K", "limit"), MULTICUE)
def test_multicue(l, K, limit):
    env = envs.make("tmaze_multicue", B, corridor_length=l, cues=K, step_limit=limit)

    def episode(i):
        return PlainMultiCue([1 if env.state.cues[i].item() >> j & 1 else -1 for j in range(K)], l, 0.1, env.step_limit)

    def step(i, twin, action, row):
        reward, terminated, truncated = twin.step(action)
        if not terminated:
            assert env.cue(env.state)[i].item() == twin.cues[len(twin.turns)]
        return reward, terminated, truncated, twin.obs, twin.won

    found = [follow(env, episode, step, 200, forward) for forward in (0.1, 0.6)]
    assert limit is None or sum(cut for _, cut in found) > 0
    assert K > 3 or sum(wins for wins, _ in found) > 0


def test_cues_are_fair_up_to_the_last_bit():
    env = envs.make("tmaze_multicue", 2048, corridor_length=1, cues=62)
    assert env.spec.r_star == 62
    env.reset()
    bits = env.state.cues.unsqueeze(1) >> torch.arange(62) & 1
    assert (bits.double().mean(0) - 0.5).abs().max() < 2.5 / 2048**0.5
    assert (torch.corrcoef(bits.double().T) - torch.eye(62)).abs().max() < 6 / 2048**0.5
    for _ in range(61 + 62 * 2):
        assert not env.ended.any()
        env.step(env.oracle(env.state))
    assert env.ended.all() and env.success(env.state).all()


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("tmaze_noisy", {"sigma": 1.5}, "sigma must be a number from 0 to 1, got 1.5"),
        ("tmaze_noisy", {"slip": float("nan")}, "slip must be a number from 0 to 0.99, got nan"),
        ("tmaze_noisy", {"distractors": -1}, "distractors must be an integer >= 0, got -1"),
        ("tmaze_noisy", {"corridor_length": 5, "step_limit": 5}, "step_limit .* >= 6, got 5"),
        ("tmaze_delayed", {"delay": 1.5}, "delay must be an integer >= 0, got 1.5"),
        ("tmaze_delayed", {"sigma": "1"}, "sigma must be a number from 0 to 1e[+]06, got '1'"),
        ("tmaze_rewrite", {"corridors": 0}, "corridors must be an integer >= 1, got 0"),
        ("tmaze_rewrite", {"corridor_length": 3, "min_length": 4}, "min_length must be at most corridor_length = 3, got 4"),
        ("tmaze_rewrite", {"wrong_turn_cost": 2}, "wrong_turn_cost must be a number from 0 to 1, got 2"),
        ("tmaze_rewrite", {"corridor_length": 3, "corridors": 2, "step_limit": 7}, "step_limit must be an integer >= 8"),
        ("tmaze_multicue", {"cues": 63}, "cues must be at most 62, got 63"),
        ("tmaze_multicue", {"corridor_length": 3, "cues": 2, "step_limit": 8}, "step_limit must be an integer >= 9"),
    ],
)
def test_arguments_are_checked(name, kwargs, message):
    with pytest.raises(ValueError, match=message) as error:
        envs.make(name, 2, **kwargs)
    assert "\n" not in str(error.value)
