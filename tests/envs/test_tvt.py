"""The TVT tasks: rules against a slow twin, draws, arguments, the cue-visible twin, frames."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from slow_tvt import BLUE, GREEN, PLACES, RED, KeyDoor, Match, Passive

import envs
from envs.tvt import NOTHING, ORDERS

NAMES = ("passive_match", "active_match", "key_to_door")
COLOURS = {7: RED, 8: GREEN, 9: BLUE}
every = pytest.mark.parametrize("name", NAMES)


def make(name, num_envs, lengths=None, **kwargs):
    """With the least lengths that are allowed, and no apples, unless said otherwise."""
    lengths = lengths or {"passive_match": (1, 2, 9), "active_match": (10, 2, 9), "key_to_door": (8, 2, 2)}[name]
    phases = dict(zip(("explore_length", "distractor_length", "reward_length"), lengths, strict=True))
    return envs.make(name, num_envs, **{"apples": 0, "final_reward": 5.0, **phases, **kwargs})


def place(cell):
    return divmod(int(cell), 11)


def slow(env, i):
    """The slow twin of environment i, which stands on its first row."""
    s = type(env.state)(*(field[i].tolist() for field in env.state))
    lengths = (env.explore_length, env.distractor_length, env.reward_length)
    apples = [p for p, ripe in zip(PLACES, s.ripe) if ripe == 0]
    common = (lengths, place(s.cell), apples, s.worth, env.final_reward)
    if isinstance(env, envs.tvt.KeyToDoor):
        return KeyDoor(*common, key_at=place(s.key))
    kind = Passive if isinstance(env, envs.tvt.PassiveMatch) else Match
    return kind(*common, sign=place(s.sign), colours=tuple(COLOURS[c] for c in ORDERS[s.order]), goal=s.goal)


def pixels(obs):
    return [tuple(rgb) for rgb in obs.flatten(0, 1).tolist()]


@every
@pytest.mark.parametrize("lengths", [(10, 45, 15), (12, 0, 9), (10, 1, 20)])
@pytest.mark.parametrize("skill", [0.3, 0.85])
def test_follows_the_rules(name, lengths, skill):
    """`skill`: the share of the oracle's actions; the others are random. Two episodes in a row."""
    env = make(name, 12, lengths, apples=14, apple_reward=2.0, apple_reward_high=3.0, seed=5)
    rng = np.random.default_rng(1)
    row, won, gained = env.reset(), [], 0
    for _ in range(2):
        twins = [slow(env, i) for i in range(12)]
        for _ in range(sum(lengths)):
            for i, twin in enumerate(twins):
                assert pixels(row.obs[i]) == list(twin.obs), (i, twin.t)
                assert place(env.state.cell[i]) == twin.place
            best = env.oracle(env.state).numpy()
            action = np.where(rng.random(12) < skill, best, rng.integers(4, size=12))
            row = env.step(torch.from_numpy(action))
            for i, twin in enumerate(twins):
                reward, over, _ = twin.step(int(action[i]))
                assert (row.reward[i], env.ended[i], row.discount[i]) == (reward, over, not over)
                gained += reward in (2.0, 3.0)
        assert env.ended.all() and [pixels(obs) for obs in row.obs] == [list(twin.obs) for twin in twins]
        won += [twin.won for twin in twins]
        assert env.success(env.state).tolist() == won[-12:]
        row = env.step(torch.zeros(12, dtype=torch.int64))
        assert row.first.all()
    assert any(won) or skill < 0.5
    assert (gained > 0) == (lengths[1] > 1)


def even(counts, total):
    p = 1 / len(counts)
    assert (counts - total * p).abs().max() <= 5 * (total * p * (1 - p)) ** 0.5, counts


@every
def test_draws_are_fair(name):
    B = 4000
    env = make(name, B, apples=9, apple_reward_high=4.0)
    env.reset()
    s, room = env.state, env.areas[0]
    even(torch.bincount(s.cell)[list(room.starts)], B)
    apples = s.ripe == 0
    assert (apples.sum(1) == 9).all() and not apples[:, -1].any()
    share = apples[:, :-1].double().mean(0)
    assert (share - 9 / 22).abs().max() < 5 * (9 / 22 * 13 / 22 / B) ** 0.5
    pairs = apples[:, :-1].double().T @ apples[:, :-1].double() / B  # any two places: 9/22 8/21
    off = pairs[~torch.eye(22, dtype=torch.bool)]
    assert (off - 9 * 8 / 22 / 21).abs().max() < 5 * (0.156 * 0.844 / B) ** 0.5
    even(torch.stack([(s.worth == 1).sum(), (s.worth == 4).sum()]), B)
    if name == "key_to_door":
        return even(torch.bincount(s.key)[list(room.marks)], B)
    even(torch.bincount(s.sign)[list(room.marks)], B)
    even(torch.bincount(3 * s.order + s.goal, minlength=18), B)
    return None


def test_within_an_environment_a_colour_is_no_position():
    env = make("passive_match", 6, (1, 0, 9))
    pairs = [set() for _ in range(6)]
    for _ in range(14):
        env.reset()
        for i, (colour, goal) in enumerate(zip(env.cue(env.state).argmax(1).tolist(), env.state.goal.tolist())):
            pairs[i].add((colour, goal))
    assert all(len(p) > 3 for p in pairs)


@every
def test_the_twin_shows_the_cue_in_the_middle_pixel(name):
    plain, twin = (make(name, 32, seed=2, cue_visible=c) for c in (False, True))
    a, b = plain.reset(), twin.reset()
    for _ in range(15):
        outside = torch.arange(25) != 12
        assert (a.obs.flatten(1, 2)[:, outside] == b.obs.flatten(1, 2)[:, outside]).all()
        assert (b.obs[:, 2, 2].float() - 255 * twin.cue(twin.state)).abs().max() < 0.5
        a, b = (env.step(env.oracle(env.state)) for env in (plain, twin))


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("passive_match", {"explore_length": 0}, "explore_length must be an integer >= 1, got 0"),
        ("active_match", {"explore_length": 9}, "explore_length must be an integer >= 10, got 9"),
        ("key_to_door", {"reward_length": 1}, "reward_length must be an integer >= 2"),
        ("passive_match", {"reward_length": 8}, "reward_length must be an integer >= 9"),
        ("passive_match", {"distractor_length": -1}, "distractor_length must be an integer >= 0"),
        ("passive_match", {"apples": 23}, "apples must be at most 22, got 23"),
        ("passive_match", {"apple_reward_high": float("inf")}, "apple_reward_high must be a finite number, got inf"),
        ("passive_match", {"final_reward": 0}, "final_reward must be positive, got 0"),
    ],
)
def test_arguments_are_checked(name, kwargs, message):
    with pytest.raises(ValueError, match=message) as error:
        envs.make(name, 2, **kwargs)
    assert "\n" not in str(error.value)


@every
def test_frames(name):
    env = make(name, 2, (10, 4, 9), apples=10)
    env.reset()
    before, seen = [field.clone() for field in env.state], set()
    for t in range(24):
        frames = env.render()
        assert frames.dtype == np.uint8 and frames.shape[0] == 2 and frames.shape[3] == 3 and frames.std() > 10
        assert frames.shape[1] % 2 == frames.shape[2] % 2 == 0
        assert t % 8 or (env.render([1, 0]) == frames[::-1]).all()
        assert t or all(torch.equal(x, y) for x, y in zip(before, env.state, strict=True))
        seen.add(frames[0].tobytes())
        if t < 23:
            env.step(env.oracle(env.state))
    assert len(seen) == 24 and env.success(env.state).all()
    if name == "key_to_door":
        env.state.opened.fill_(False)
    else:
        env.state.touched.fill_(NOTHING)
    assert (env.render() != frames).any((1, 2, 3)).all()  # a lost episode looks otherwise
