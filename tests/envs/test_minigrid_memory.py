"""MiniGrid-Memory against minigrid itself: the same seeds, the same actions, every field of every row."""

from __future__ import annotations

import gymnasium
import minigrid  # noqa: F401 (registers its environments)
import numpy as np
import pytest
import torch
from minigrid.envs import MemoryEnv

import envs
from envs.minigrid_maze import make_maze
from envs.minigrid_memory import MISSION
from envs.minigrid_view import BALL, EMPTY, GREEN, KEY, code, inject

SIZES = ("S7", "S9", "S11", "S13", "S13Random", "S17Random")
VIEWS = (3, 5, 7, 9)


class Wide(MemoryEnv):
    """minigrid's own generator on a rectangle."""

    def __init__(self, width, **kwargs):
        super().__init__(size=7, max_steps=8 * width, **kwargs)
        self.width = width


def theirs(size, V, count):
    if size.startswith("W"):
        return [Wide(int(size[1:]), agent_view_size=V) for _ in range(count)]
    made = [gymnasium.make(f"MiniGrid-Memory{size}-v0", agent_view_size=V, disable_env_checker=True) for _ in range(count)]
    return [env.unwrapped for env in made]


def ours(size, V, count, **kwargs):
    if size.startswith("W"):
        return envs.make("minigrid_memory_long", count, width=int(size[1:]), agent_view_size=V, **kwargs)
    return envs.make("minigrid_memory", count, size=size, agent_view_size=V, **kwargs)


def policy(env, rng):
    """Half of the episodes (by environment) random, half mostly towards one of the objects: all ends occur."""
    action = torch.from_numpy(rng.integers(env.num_actions, size=env.num_envs))
    straight = torch.from_numpy(rng.random(env.num_envs) < 0.8) & (torch.arange(env.num_envs) % 2 == 0)
    wanted = torch.where(torch.arange(env.num_envs) % 4 == 0, env.oracle(env.state), away(env))
    return torch.where(straight, wanted, action)


def away(env):
    """Left at the end of the hallway, else as the oracle: fails half of the time."""
    _, cell, direction = env._places[:, env.state.place]
    junction = cell % env.maze.grids.shape[2] == env.maze.ends[env.maze.layout[env.state.place]] + 1
    return torch.where(junction & (direction == 0), 0, torch.where(junction, 2, env.oracle(env.state)))


def compare(size, V, count, steps, seed, **kwargs):
    """Drive `count` copies of both from the same seeds. Returns (transitions, resets, kinds of ends seen)."""
    env, others = ours(size, V, count, seed=seed, draws="minigrid", **kwargs), theirs(size, V, count)
    rng, row, kinds, transitions, resets = np.random.default_rng(seed), env.reset(), set(), 0, count
    shown = [other.reset(seed=seed + i)[0] for i, other in enumerate(others)]
    over = np.zeros(count, bool)
    want = [np.zeros(count), np.zeros(count, bool), np.zeros(count, bool)]
    for _ in range(steps):
        obs = env.gym_observation(row.obs)
        assert (obs["image"].numpy() == np.stack([s["image"] for s in shown])).all()
        assert obs["direction"].tolist() == [s["direction"] for s in shown]
        assert all(s["mission"] == MISSION for s in shown)
        for got, expected in zip(env.gym_outcome(row), want, strict=True):
            assert (got.numpy() == expected).all()
        assert (row.reward.numpy() == want[0].astype(np.float32)).all()
        assert (row.discount.numpy() == 1 - want[1]).all() and (env.ended.numpy() == want[1] | want[2]).all()
        kinds |= set(zip(*(w.tolist() for w in want[1:]), (want[0] > 0).tolist(), strict=True))
        action, first = policy(env, rng), over
        shown, reward, terminated, truncated = [], np.zeros(count), np.zeros(count, bool), np.zeros(count, bool)
        for i, other in enumerate(others):
            if first[i]:
                shown.append(other.reset()[0])
            else:
                o, reward[i], terminated[i], truncated[i], _ = other.step(int(action[i]))
                shown.append(o)
        over = terminated | truncated
        want = [reward, terminated, truncated]
        transitions, resets = transitions + count - int(first.sum()), resets + int(first.sum())
        row = env.step(action)
    return transitions, resets, kinds


@pytest.mark.parametrize("size", [*SIZES, "W16"])
@pytest.mark.parametrize("V", VIEWS)
def test_every_step_is_minigrids(size, V):
    actions = 3 if V in (3, 9) else 7
    path = "grid" if V == 5 else "auto"
    transitions, _, _ = compare(size, V, 4, 70, seed=V, actions=actions, path=path)
    assert transitions > 240


def test_success_and_the_limit_may_come_together():
    """(terminated, truncated, rewarded): both flags, as minigrid has them; in the stream, terminated wins."""
    kinds = set()
    for limit in (5, 7, 8):
        env, others = ours("S7", 7, 16, max_steps=limit, draws="minigrid"), theirs("S7", 7, 16)
        env.reset()
        for i, other in enumerate(others):
            other.max_steps = limit
            other.reset(seed=i)
        alive = np.ones(16, bool)
        for _ in range(limit):
            action = env.oracle(env.state)
            row = env.step(action)
            reward, terminated, truncated = (value.numpy() for value in env.gym_outcome(row))
            for i in np.flatnonzero(alive):
                assert others[i].step(int(action[i]))[1:4] == (reward[i], terminated[i], truncated[i])
                kinds.add((bool(terminated[i]), bool(truncated[i]), bool(reward[i] > 0)))
            assert (row.discount.numpy() == 1 - terminated)[alive].all()
            alive &= ~env.ended.numpy()
        assert not alive.any()
    assert kinds == {(False, False, False), (True, False, True), (True, True, True), (False, True, False)}


@pytest.mark.slow
@pytest.mark.timeout(1800)  # some four minutes of a quiet core
def test_a_million_steps():
    total, kinds = 0, set()
    for size in SIZES:
        for V in VIEWS:
            transitions, _, seen = compare(size, V, 16, 2_800, seed=100 + V, actions=3 if V in (3, 9) else 7)
            total, kinds = total + transitions, kinds | seen
    assert total >= 1_000_000
    assert kinds >= {(True, False, True), (True, False, False), (False, True, False)}
    print(f"{total} transitions, 0 mismatches")


def replay(size, seeds, resets):
    env, others = ours(size, 7, len(seeds), draws="minigrid"), theirs(size, 7, 1)
    env.seed(seeds[0])
    rows = [env.reset() and env.state.place.clone() for _ in range(resets)]
    for i, seed in enumerate(seeds):
        for number, place in enumerate(rows):
            others[0].reset(seed=seed if number == 0 else None)
            layout, cell, direction = env._places[:, place[i]].tolist()
            assert torch.equal(env.maze.grids[layout], inject(others).grid[0])
            assert tuple(others[0].agent_pos) == (cell % others[0].width, cell // others[0].width)
            assert others[0].agent_dir == direction == 0
            for outcome, position in ((True, others[0].success_pos), (False, others[0].failure_pos)):
                there = env.maze.index.view(len(env.maze.grids), -1, 4)[layout, position[1] * others[0].width + position[0]]
                assert (env._succeeded(there) == outcome).all() and (there >= env.maze.counts[0]).all()


@pytest.mark.parametrize("size", [*SIZES, "W13"])
def test_seeds_are_minigrids(size):
    replay(size, range(20), 3)


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_a_thousand_seeds(size):
    replay(size, range(1_000), 3)


def test_the_id_is_all_that_changes():
    """One loop, two ids: equal in every value and type of value."""

    def run(name):
        env = gymnasium.make(name, agent_view_size=5)
        rng, out = np.random.default_rng(0), [env.observation_space, env.action_space]
        for seed in (3, None, None, 8, None):
            obs, info = env.reset(seed=seed)
            out += [obs, info]
            over = False
            while not over:
                obs, reward, terminated, truncated, info = env.step(rng.choice(7, p=[0.1, 0.1, 0.7, 0.1, 0, 0, 0]))
                over = terminated or truncated
                out += [obs["image"].tolist(), obs["direction"], obs["mission"], float(reward), terminated, truncated]
        env.close()
        return [x if not isinstance(x, dict) else {k: np.asarray(v).tolist() for k, v in x.items()} for x in out]

    for size in ("S7", "S13Random"):
        assert run(f"gatemaze/MiniGrid-Memory{size}-v0") == run(f"MiniGrid-Memory{size}-v0")


def test_the_id_is_all_that_changes_for_vectors():
    mine = gymnasium.make_vec("gatemaze/MiniGrid-MemoryS7-v0", num_envs=5)
    other = gymnasium.make_vec("MiniGrid-MemoryS7-v0", num_envs=5, vectorization_mode="sync")
    assert mine.observation_space == other.observation_space and mine.action_space == other.action_space
    assert mine.single_observation_space == other.single_observation_space
    a, b = mine.reset(seed=7)[0], other.reset(seed=7)[0]
    rng = np.random.default_rng(1)
    for _ in range(400):
        assert a["image"].dtype == b["image"].dtype and (a["image"] == b["image"]).all()
        assert (a["direction"] == b["direction"]).all() and a["mission"] == b["mission"]
        action = rng.choice(7, 5, p=[0.1, 0.1, 0.7, 0.1, 0, 0, 0])
        a, *left, _ = mine.step(action)
        b, *right, _ = other.step(action)
        assert a in mine.observation_space
        for x, y in zip(left, right, strict=True):
            assert x.dtype == y.dtype and (x == y).all()


@pytest.mark.parametrize("size", [*SIZES, "S19Random", "W7", "W40"])
@pytest.mark.parametrize("V", [3, 7, 11])
def test_the_table_holds_the_rules(size, V):
    """Table and grid path agree on every place and action: next state, reward, flags, image, twin's image."""
    for twin in (False, True):
        table, grid = (ours(size, V, 1, path=path, actions=7, cue_visible=twin) for path in ("table", "grid"))
        places = torch.arange(len(table.maze.layout))
        state = table.state._replace(place=places, t=places % table.max_steps)
        assert torch.equal(table.observation(state), grid.observation(state))
        if twin:
            break
        for action in range(7):
            a, b = (env.act(state, torch.full_like(places, action)) for env in (table, grid))
            for x, y in zip([*a[0], *a[1:]], [*b[0], *b[1:]], strict=True):
                assert torch.equal(x, y)


def test_going_on_from_minigrids_states():
    rng = np.random.default_rng(3)
    for size in ("S9", "S17Random"):
        others = theirs(size, 7, 8)
        for i, other in enumerate(others):
            other.reset(seed=i)
            for _ in range(20 + i):
                if any(other.step(int(rng.choice(3, p=[0.3, 0.3, 0.4])))[2:4]):
                    other.reset()
        env = ours(size, 7, 8, actions=7)
        env.load_minigrid(others)
        assert env.state.t.tolist() == [other.step_count for other in others]
        for _ in range(60):
            obs = env.gym_observation(env.observation(env.state))
            assert (obs["image"].numpy() == np.stack([other.gen_obs()["image"] for other in others])).all()
            action = rng.integers(7, size=8)
            done = [other.step(int(a))[1:4] for other, a in zip(others, action, strict=True)]
            got = env.gym_outcome(env.step(torch.from_numpy(action)))
            assert done == list(zip(*(value.tolist() for value in got), strict=True))
            if env.ended.any():
                break
    with pytest.raises(ValueError, match="has 8 copies, got 3 states"):
        env.load_minigrid(others[:3])
    with pytest.raises(ValueError, match="state 0 is not of a 17 x 17 maze with 1445 steps"):
        env.load_minigrid(theirs("S7", 7, 8))
    for other in others:
        other.reset(seed=0)
    others[2].grid.set(1, 8, None), others[2].grid.set(1, 7, None)
    with pytest.raises(ValueError, match="state 2 is over, or not one of MiniGrid-Memory"):
        env.load_minigrid(others)


@pytest.mark.parametrize("size", ["S7", "S13", "S13Random", "S17Random", "W9"])
def test_device_draws_have_minigrids_distribution(size):
    """Chi-square of 200,000 draws over the starts, every layout alike and every x in it; 5 sigma."""
    env = ours(size, 3, 50_000, seed=5)
    counts = sum(torch.bincount(env.spawn().place, minlength=len(env.maze.layout)) for _ in range(4)).double()
    expected = torch.zeros_like(counts)
    for row, end in zip(env.maze.starts.tolist(), env.maze.ends.tolist(), strict=True):
        expected[row[:end]] = 200_000 / len(env.maze.ends) / end
    assert (counts[expected == 0] == 0).all()
    used = expected > 0
    chi, freedom = ((counts - expected)[used] ** 2 / expected[used]).sum().item(), int(used.sum()) - 1
    assert abs(chi - freedom) < 5 * (2 * freedom) ** 0.5


@pytest.mark.parametrize("start", ["first", "scattered"])
def test_where_the_long_corridor_starts(start):
    env = envs.make("minigrid_memory_long", 2_000, width=12, start=start)
    env.reset()
    x = env.maze.cell[env.state.place] % 12
    assert x.unique().tolist() == ([1] if start == "first" else list(range(1, 10)))


def test_saved_draws_of_minigrids_order_go_on():
    env = ours("S13Random", 3, 4, draws="minigrid", seed=2)
    env.reset()
    saved = env.state_dict()
    rest = [env.reset() and env.state.place.clone() for _ in range(5)]
    other = ours("S13Random", 3, 4, draws="minigrid", seed=9)
    other.load_state_dict(saved)
    assert all(torch.equal(place, other.reset() and other.state.place) for place in rest)
    with pytest.raises(ValueError, match="lacks the entry 'streams'"):
        other.load_state_dict({key: value for key, value in saved.items() if key != "streams"})


@pytest.mark.parametrize("size", SIZES)
def test_places_are_what_can_be_reached(size):
    cells = int(size[1:].removesuffix("Random"))
    maze = make_maze(cells, cells, tuple(range(4, cells - 2)) if "Random" in size else (cells - 3,))
    going, unfailed = maze.counts
    assert (maze.moves >= 0).all()
    reached = torch.zeros(len(maze.layout), dtype=torch.bool)
    reached[maze.starts[maze.starts >= 0]] = True
    for _ in range(6 * cells):
        reached[maze.moves[:going][reached[:going]].reshape(-1)] = True
    assert reached[:going].all()  # the ends can be entered in one direction only
    assert maze.layout[going:].unique().tolist() == list(range(len(maze.grids)))
    cues = {0: code(KEY, GREEN), 1: code(BALL, GREEN)}
    for place in range(going, len(maze.layout)):
        y, x = divmod(int(maze.cell[place]), cells)
        object = maze.grids[maze.layout[place], y + (1 if y > cells // 2 else -1), x]
        assert (object == cues[int(maze.cue[place])]) == (place >= unfailed)


def test_the_twin_carries_the_cue():
    env = ours("S13", 7, 32, cue_visible=True)
    plain = ours("S13", 7, 32)
    for action in torch.randint(3, (40, 32), generator=torch.Generator().manual_seed(0)):
        obs, hidden = env.step(action).obs, plain.step(action).obs
        assert torch.equal(obs[:, 3, 6, 0], torch.where(env.cue(env.state)[:, 0] > 0, BALL, KEY).to(torch.uint8))
        assert (hidden[:, 3, 6] == torch.tensor([EMPTY, 0, 0])).all()
        obs[:, 3, 6] = hidden[:, 3, 6]
        assert torch.equal(obs, hidden)


def test_frames():
    for env in (ours("S7", 7, 3), ours("S17Random", 3, 3), ours("W129", 5, 3)):
        env.reset()
        frames = env.render()
        assert frames.dtype == np.uint8 and frames.shape[0] == 3 and frames.shape[1] % 2 == frames.shape[2] % 2 == 0
        assert (env.render([2, 0]) == frames[[2, 0]]).all()
        env.step(torch.zeros(3, dtype=torch.int64))
        assert (env.render() != frames).any((1, 2, 3)).all()
        assert frames.std() > 20


def test_of_a_wide_world_the_part_around_the_agent_is_shown_larger():
    """At the end of the hallway one can see which side is right; on the way there one cannot."""
    env, dots = ours("W129", 3, 1), []
    env.reset()
    while not env.ended:
        env.step(env.oracle(env.state))
        good = np.array([23, 166, 115]) * (1, 0.96, 0.84)  # in the light, about; key and ball have it too
        dots.append(int((np.abs(env.render()[0] - good).sum(-1) < 60).sum()))
    assert dots[0] < 20 < 140 < dots[-2]  # 112 where only the tiny world and the view show them


def test_refusals():
    for kwargs, message in (
        ({"size": "S8"}, "size must be S and an odd number >= 7"),
        ({"size": "S5"}, "got 'S5'"),
        ({"size": "13"}, "got '13'"),
        ({"agent_view_size": 4}, "agent_view_size must be odd and in 3..23, got 4"),
        ({"agent_view_size": 1}, "agent_view_size must be an integer >= 3, got 1"),
        ({"actions": 4}, "actions must be 3 .* or 7"),
        ({"path": "tabel"}, "path must be 'auto', 'table' or 'grid', got 'tabel'"),
        ({"draws": "numpy"}, "draws must be 'device' or 'minigrid', got 'numpy'"),
        ({"max_steps": 0}, "max_steps must be an integer >= 1, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            envs.make("minigrid_memory", 1, **kwargs)
    with pytest.raises(ValueError, match="start must be 'scattered' or 'first', got 'x'"):
        envs.make("minigrid_memory_long", 1, start="x")
    with pytest.raises(ValueError, match="width must be an integer >= 7, got 6"):
        envs.make("minigrid_memory_long", 1, width=6)


def test_images_that_do_not_fit_are_not_tabulated(monkeypatch):
    monkeypatch.setattr("envs.minigrid_memory.TABLE_BYTES", 2**20)
    assert ours("S17Random", 3, 1).tabled and not ours("S17Random", 11, 1).tabled
    with pytest.raises(ValueError, match="path='table' would take more than 1 MiB of images; use path='grid'"):
        ours("S17Random", 11, 1, path="table")
