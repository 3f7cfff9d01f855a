"""MiniGrid tasks without memory against minigrid itself: steps from injected states, and the distribution of layouts."""

from __future__ import annotations

import itertools
from collections import Counter

import gymnasium
import minigrid  # noqa: F401 (registers its environments)
import numpy as np
import pytest
import torch
from minigrid.core.world_object import Ball, Door, Floor, Goal, Key, Lava, Wall
from minigrid.envs import RedBlueDoorEnv
from scipy.stats import chi2_contingency, chisquare

import envs
from envs import minigrid_view as mv
from envs.minigrid_world import kind

IDS = {id: (name, kwargs) for name, row in envs.ENVS.items() if hasattr(row.env, "plan") for id, kwargs in row.ids.items()}
SMALL = [
    "MiniGrid-Empty-8x8", "MiniGrid-Empty-Random-5x5", "MiniGrid-DoorKey-5x5", "MiniGrid-DoorKey-8x8",
    "MiniGrid-KeyCorridorS3R1", "MiniGrid-KeyCorridorS3R2", "MiniGrid-RedBlueDoors-6x6", "MiniGrid-Fetch-5x5-N2",
    "MiniGrid-Fetch-8x8-N3",
]  # fmt: skip
ODDS = torch.tensor([2.0, 2.0, 5.0, 2.0, 1.0, 3.0, 0.2])


def load(name, **kwargs):
    return gymnasium.make(f"{name}-v0", disable_env_checker=True, **kwargs).unwrapped


def start(one, rng, seed=None):
    """A new episode, half of the time one that is soon truncated."""
    one.reset(seed=seed)
    if torch.rand((), generator=rng) < 0.5:
        one.step_count = one.max_steps - int(torch.randint(1, 9, (), generator=rng))
    if isinstance(one, RedBlueDoorEnv):  # doors open in any way, and the agent before the blue one: what play seldom has
        one.red_door.is_open, one.blue_door.is_open = (torch.rand(2, generator=rng) < torch.tensor([0.5, 0.2])).tolist()
        x = one.size // 2 + one.size - 1
        (y,) = (y for y in range(one.size) if one.grid.get(x, y) is one.blue_door)
        if torch.rand((), generator=rng) < 0.5:
            one.agent_pos, one.agent_dir = (x - 1, y), 0


def play(name, steps, seed, copies=8, view_size=7, by_oracle=0.6):
    """Side by side from injected states, in part at random and in part by the oracle: [transitions, successes, other
    terminations, truncations]. Compared on every step: image, direction, reward, flags, and the state underneath."""
    ours, kwargs = IDS[name]
    theirs = [load(name, agent_view_size=view_size) for _ in range(copies)]
    env = envs.make(ours, copies, agent_view_size=view_size, **kwargs)
    assert env.max_steps == theirs[0].max_steps
    rng = torch.Generator().manual_seed(seed)
    for i, one in enumerate(theirs):
        start(one, rng, 1000 * seed + i)
    env.load_minigrid(theirs)
    state, counts = env.state, np.zeros(4, int)
    for _ in range(steps):
        action = torch.multinomial(ODDS, copies, replacement=True, generator=rng)
        if torch.rand((), generator=rng) < by_oracle:
            action = env.oracle(state)
        state, reward, terminated, truncated = env.act(state, action)
        image, success, missions, over = env.observe(state).numpy(), env.success(state), env.missions(state), []
        for i, one in enumerate(theirs):
            obs, r, end, cut, _ = one.step(int(action[i]))
            assert (obs["image"] == image[i, ..., :3]).all() and obs["mission"] == missions[i]
            assert obs["direction"] == state.direction[i], (name, i)
            assert reward[i].item() == np.float32(r) and (end, cut) == (bool(terminated[i]), bool(truncated[i]))
            assert bool(success[i]) == (r > 0) or not end
            over.append(end or cut)
            counts += [1, r > 0, end and not r, cut]
        assert all(torch.equal(*pair) for pair in zip(state, env.read(theirs), strict=True))
        for one, ended in zip(theirs, over, strict=True):
            if ended:
                start(one, rng)
        if any(over):
            state = env.read(theirs)
    return counts.tolist()


@pytest.mark.parametrize("name", SMALL)
def test_steps_are_minigrids(name):
    _, won, lost, truncated = play(name, steps=60, seed=1)
    assert won and truncated and (lost > 0) == ("Fetch" in name or "RedBlue" in name)


@pytest.mark.parametrize("view_size", [3, 5, 9])
def test_other_views(view_size):
    play("MiniGrid-KeyCorridorS3R1", steps=20, seed=2, view_size=view_size)


def test_the_rules_among_all_things():
    """Doors and keys of two colours, balls, floor, goals, lava, all over: what no single environment has together."""
    rng = np.random.default_rng(0)
    things = [lambda: None] * 6 + [Ball, Key, lambda: Key("red"), Goal, Lava, Floor, Wall]
    things += [lambda c=c, o=o, k=k: Door(c, o, k) for c in ("red", "blue") for o, k in ((1, 0), (0, 0), (0, 1), (0, 1))]
    theirs, env = [load("MiniGrid-Empty-8x8") for _ in range(40)], envs.make("minigrid_empty", 40, size=8)
    opened = 0
    for _ in range(2):
        for one in theirs:
            one.reset()
            for x, y in itertools.product(range(1, 7), range(1, 7)):
                one.grid.set(x, y, things[rng.integers(len(things))]())
            one.agent_pos, one.agent_dir = tuple(rng.integers(1, 7, 2)), int(rng.integers(4))
            one.carrying = [None, Key("blue"), Key("red"), Ball("red")][rng.integers(4)]
        state = env.read(theirs)
        for _ in range(25):
            action = torch.tensor(rng.choice(7, 40, p=np.array([1, 1, 2, 1, 1, 3, 0.1]) / 9.1))
            before = state.grid
            state, reward, terminated, _ = env.act(state, action)
            opened += (mv.unpack(before)[..., 2].eq(mv.LOCKED) & mv.unpack(state.grid)[..., 2].eq(mv.OPEN)).sum()
            outcome = [one.step(int(a))[1:3] for one, a in zip(theirs, action, strict=True)]
            assert outcome == [(pytest.approx(r), t) for r, t in zip(reward.tolist(), terminated.tolist(), strict=True)]
            assert all(torch.equal(*pair) for pair in zip(state, env.read(theirs), strict=True))
    assert opened > 5


@pytest.mark.slow
@pytest.mark.parametrize("name", IDS)
def test_many_steps_are_minigrids(name):
    played = play(name, steps=600, seed=3, by_oracle=0.15)
    print(f"{name}: {played} transitions, successes, other terminations, truncations; 0 mismatches")


# Layouts.


def resets(name, count):
    """(our state of many resets, minigrid's of `count`), and our environment."""
    row, kwargs = IDS[name]
    env = envs.make(row, 20 * count, **kwargs)
    env.reset()
    one, rows = load(name), []
    one.reset(seed=5)
    for _ in range(count):
        rows.append(env.read([one]))
        one.reset()
    return env.state, type(env.state)(*(torch.cat(field) for field in zip(*rows, strict=True)))


def features(state):
    """What a layout is made of, each a list with an entry per layout."""
    cells = state.grid.flatten(1)
    where = lambda mask: [tuple(row.nonzero()[0].tolist()) for row in mask.numpy()]  # noqa: E731
    door = kind(cells) == mv.DOOR
    locked = door & (cells >> 16 & 0xFF == mv.LOCKED)
    colour = cells >> 8 & 0xFF
    pose = (state.cell * 4 + state.direction).tolist()
    found = {
        "cell": state.cell.tolist(),
        "direction": state.direction.tolist(),
        "pose": pose,
        "pose and lock": list(zip(pose, where(locked), strict=True)),
        "walls": where(cells == mv.WALL),
        "doors": where(door),
        "keys": where(kind(cells) == mv.KEY),
        "balls": where(kind(cells) == mv.BALL),
        "colours of doors": [tuple(sorted(c[m].tolist())) for c, m in zip(colour, door, strict=True)],
        "keys, lock": [(c[k].tolist(), c[m].tolist()) for c, k, m in zip(colour, kind(cells) == mv.KEY, locked, strict=True)],
    }
    found["everything"] = list(zip(pose, found["doors"], found["keys"], found["balls"], strict=True))
    if hasattr(state, "target"):
        found["target"] = state.target.tolist()
        found["target and phrase"] = list(zip(state.target.tolist(), state.phrase.tolist(), strict=True))
    return found


def compare(name, count):
    """Two-sample chi-square tests of all features, rare values taken together; and no value of minigrid's is unknown."""
    ours, theirs = (features(state) for state in resets(name, count))
    tested = 0
    for key in ours:
        a, b = Counter(map(str, ours[key])), Counter(map(str, theirs[key]))
        if len(a) < count / 2:  # else even ours do not show all values
            assert b.keys() <= a.keys(), (name, key)
        common = [value for value in a if a[value] >= 20 * 6]
        table = np.array([[n[value] for value in common] for n in (a, b)], float)
        table = np.c_[table, [20 * count, count] - table.sum(1)]
        table = table[:, table.sum(0) > 0]
        if table.shape[1] > 1 and table[0].min() >= 20:
            tested += 1
            assert chi2_contingency(table).pvalue > 1e-4, (name, key)
    return tested


@pytest.mark.parametrize("name", ["MiniGrid-Empty-Random-5x5", *SMALL[2:]])
def test_layouts_are_distributed_as_minigrids(name):
    assert compare(name, 300) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("name", IDS)
def test_many_layouts_are_distributed_as_minigrids(name):
    compare(name, 3000)


def test_all_layouts_of_the_smallest_are_as_likely():
    """DoorKey-5x5: 2 places of the door, 3 of the key, 2 of the agent, 4 directions; minigrid has all of them too."""
    ours, theirs = (features(state)["everything"] for state in resets("MiniGrid-DoorKey-5x5", 400))
    counts = Counter(ours)
    assert counts.keys() == set(theirs) and len(counts) == 2 * 3 * 2 * 4
    assert chisquare(list(counts.values())).pvalue > 1e-4


# The oracle and the figures.


def fewest_steps(env):
    """Breadth-first over all that the seven actions can do, from the one state of `env`, by its own `act`."""
    frontier, seen, steps = env.state, set(), 0
    while True:
        steps += 1
        many = type(frontier)(*(field.repeat_interleave(7, 0) for field in frontier))
        after, reward, terminated, _ = env.act(many, torch.arange(7).repeat(len(frontier.t)))
        if (reward > 0).any():
            return steps
        pose, fresh = after.cell * 4 + after.direction, []
        for i, grid in enumerate(after.grid.numpy()):
            key = grid.tobytes(), pose[i].item(), after.hand[i].item()
            if not terminated[i] and key not in seen:
                seen.add(key)
                fresh.append(i)
        frontier = type(frontier)(*(field[fresh] for field in after))


@pytest.mark.parametrize("name", ["Empty-Random-5x5", "DoorKey-5x5", "RedBlueDoors-6x6", "Fetch-5x5-N2", "KeyCorridorS3R1"])
def test_the_oracle_goes_a_shortest_way(name):
    row, kwargs = IDS[f"MiniGrid-{name}"]
    for seed in range(4):
        env = envs.make(row, 1, seed=seed, **kwargs)
        env.reset()
        best, steps = fewest_steps(env), 0
        while not env.ended.any():
            env.step(env.oracle(env.state))
            steps += 1
        assert env.success(env.state).all() and best <= steps <= best + 4 * ("Corridor" in name)


@pytest.mark.parametrize("row, kwargs", [
    ("minigrid_keycorridor", {"room_size": 3, "num_rows": 3}), ("minigrid_keycorridor", {"room_size": 4, "num_rows": 3}),
    ("minigrid_redblue", {"size": 8}), ("minigrid_doorkey", {"size": 8}), ("minigrid_empty", {"size": 16}),
])  # fmt: skip
def test_the_oracle_never_fails(row, kwargs):
    env = envs.make(row, 24, **kwargs)
    env.reset()
    alive = torch.ones(24, dtype=torch.bool)
    for _ in range(env.max_steps):
        env.step(env.oracle(env.state))
        assert env.success(env.state)[env.ended & alive].all()
        alive &= ~env.ended
        if not alive.any():
            return
    raise AssertionError("not done by the end of the episode")


def test_a_dropped_key_does_not_stop_the_oracle():
    """Where random play let it fall, in the doorway perhaps: it is picked up and laid elsewhere."""
    for row, kwargs in (IDS["MiniGrid-DoorKey-5x5"], IDS["MiniGrid-KeyCorridorS3R1"]):
        env = envs.make(row, 64, **kwargs)
        env.reset()
        generator = torch.Generator().manual_seed(0)
        won = torch.zeros(64, dtype=torch.bool)
        for t in range(75):
            if t < 40 and t % 2:
                env.step(torch.randint(7, (64,), generator=generator))
            else:
                env.step(env.oracle(env.state))
            won |= env.ended & env.success(env.state)
        assert won.all()


def test_figures():
    env = envs.make("minigrid_empty", 4, size=8)
    assert env.spec.r_oracle == env.spec.r_star == pytest.approx(1 - 0.9 * 11 / 256, abs=1e-7)
    env = envs.make("minigrid_empty", 3000, size=5, max_steps=20)
    env.reset()
    generator, total, alive = torch.Generator().manual_seed(0), torch.zeros(3000), torch.ones(3000, dtype=torch.bool)
    for _ in range(20):
        total += env.step(torch.randint(7, (3000,), generator=generator)).reward * alive
        alive &= ~env.ended
    assert total.mean().item() == pytest.approx(env.spec.r_random, abs=4 * total.std().item() / 3000**0.5)
    assert envs.make("minigrid_doorkey", 1, size=16).spec.r_oracle is None
    assert envs.make("minigrid_fetch", 1).spec.score(0.5) is None


def test_the_twin_shows_the_direction():
    twin = envs.make("minigrid_fetch", 8, cue_visible=True)
    obs = twin.reset().obs
    assert obs.shape == (8, 7, 7, 5) and (obs[:, 3, 6, 0] == 10).all()
    assert torch.equal(obs[:, 3, 6, 1].long(), twin.state.direction)
    assert torch.equal(twin.cue(twin.state).argmax(1), twin.state.direction)
    asked = obs[..., 3:].flatten(1, 2)
    assert (asked == asked[:, :1]).all()
    target = mv.unpack(twin.state.target)
    assert torch.equal(asked[:, 0, 0] + mv.KEY, target[:, 0]) and torch.equal(asked[:, 0, 1], target[:, 1])


@pytest.mark.parametrize("name", SMALL)
def test_gymnasiums_form_is_minigrids(name):
    ours, theirs = gymnasium.make(f"gatemaze/{name}-v0"), load(name)
    assert ours.observation_space == theirs.observation_space and ours.action_space == theirs.action_space
    ours.reset(seed=1)
    for action in (0, 1, 2, 3):
        obs, *_, over, _, _ = ours.step(action)
        assert obs in theirs.observation_space
        if over:
            break


def test_refusals():
    with pytest.raises(ValueError, match="num_objects must leave the agent one of 9 cells, got 9"):
        envs.make("minigrid_fetch", 1, size=5, num_objects=9)
    with pytest.raises(ValueError, match="size must be an integer >= 5, got 4"):
        envs.make("minigrid_doorkey", 1, size=4)
    env, other = envs.make("minigrid_doorkey", 2, size=5), load("MiniGrid-DoorKey-6x6")
    other.reset(seed=0)
    with pytest.raises(ValueError, match="state 0 is of 6 x 6 cells and 360 steps, not 5 x 5 and 250"):
        env.load_minigrid([other, other])
    same = load("MiniGrid-DoorKey-5x5")
    same.reset(seed=0)
    with pytest.raises(ValueError, match="this environment has 2 copies, got 1 states"):
        env.load_minigrid([same])
