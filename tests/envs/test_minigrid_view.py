"""The egocentric view and its occlusion against minigrid itself, on every environment that hides cells."""

from __future__ import annotations

import itertools

import gymnasium
import minigrid  # noqa: F401 (registers its environments)
import numpy as np
import pytest
import torch
from minigrid.core.constants import COLOR_TO_IDX, DIR_TO_VEC, OBJECT_TO_IDX, STATE_TO_IDX
from minigrid.core.world_object import WorldObj

from envs import minigrid_view as mv
from envs.minigrid_view import View, inject, light_row

ALL = sorted(name for name in gymnasium.registry if name.startswith("MiniGrid-") and "WFC" not in name)
SIZES = (3, 5, 7, 9, 11, 23)  # the last two are beyond the table


def load(name):
    return gymnasium.make(name, disable_env_checker=True).unwrapped


def views(env, rng, count):
    """(view size, state as tensors, minigrid's image, its mask) on `count` rows of random play that opens doors."""
    env.reset(seed=int(rng.integers(2**31)))
    odds = np.array([1, 1, 4, 1, 0.5, 3, 0.1][: env.action_space.n])
    for _ in range(count):
        env.agent_view_size = int(rng.choice(SIZES))
        x, y = env.front_pos
        if not (0 <= x < env.width and 0 <= y < env.height):  # MultiRoom has no outer wall, and minigrid would raise
            env.agent_dir = (env.agent_dir + 2) % 4
        obs, _, terminated, truncated, _ = env.step(int(rng.choice(len(odds), p=odds / odds.sum())))
        yield env.agent_view_size, inject([env]), obs["image"]
        if terminated or truncated:
            env.reset()
        elif rng.random() < 0.1:  # somewhere else: rooms that random play does not reach
            inner = itertools.product(range(1, env.width - 1), range(1, env.height - 1))
            free = [place for place in inner if env.grid.get(*place) is None]
            env.agent_pos, env.agent_dir = free[rng.integers(len(free))], int(rng.integers(4))


def compare(hides, per_env, seed):
    """Views compared, names of the environments, and (name, size) of every mismatch."""
    rng, compared, names, wrong = np.random.default_rng(seed), 0, [], []
    for name in ALL:
        env = load(name)
        if env.see_through_walls == hides:
            continue
        names.append(name)
        collected = {V: [] for V in SIZES}
        for V, world, image in views(env, rng, per_env):
            collected[V].append((world, image))
        for V, rows in collected.items():
            if rows:
                world = [torch.cat(field) for field in zip(*(world for world, _ in rows), strict=True)]
                view = View(env.height, env.width, V, env.see_through_walls)
                same = view(*world[:4]).numpy() == np.stack([image for _, image in rows])
                wrong += [(name, V)] * int((~same.all((1, 2, 3))).sum())
                compared += len(rows)
    return compared, names, wrong


@pytest.mark.filterwarnings("ignore:.*out of date")
def test_every_environment():
    compared, names, wrong = compare(True, 12, seed=0)
    assert not wrong
    assert len(names) == 52 and compared == 12 * len(names)
    compared, names, wrong = compare(False, 10, seed=0)
    assert not wrong
    assert len(names) == 24 and compared == 10 * len(names)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*out of date")
def test_a_hundred_thousand_views():
    compared, names, wrong = compare(True, 2_000, seed=1)
    assert not wrong
    assert compared >= 100_000
    print(f"{compared} views of {len(names)} environments that hide cells, 0 mismatches")


def test_codes_are_minigrids():
    assert dict(zip(mv.OBJECTS, range(11), strict=True)) == OBJECT_TO_IDX
    assert dict(zip(mv.COLOURS, range(6), strict=True)) == COLOR_TO_IDX
    assert [STATE_TO_IDX[s] for s in ("open", "closed", "locked")] == [mv.OPEN, mv.CLOSED, mv.LOCKED]
    assert (np.array(mv.STEPS) == np.array(DIR_TO_VEC)).all()
    for object, colour, state in itertools.product(range(1, 10), range(6), range(3)):
        cell = mv.code(object, colour, state)
        codes = torch.tensor([[object, colour, state]], dtype=torch.uint8)
        assert mv.pack(codes).tolist() == [cell] and torch.equal(mv.unpack(mv.pack(codes)), codes)
        theirs = WorldObj.decode(object, colour, state)
        assert (cell & mv.OPAQUE == 0) == (theirs is None or theirs.see_behind())
    assert mv.pack(torch.tensor([[1, 0, 0], [2, 5, 0], [8, 1, 0], [9, 0, 0]])).tolist() == [
        mv.EMPTY, mv.WALL, mv.GOAL, mv.LAVA
    ]  # fmt: skip


def test_the_cell_ahead():
    table = mv.ahead(3, 4).view(3, 4, 4)
    for y, x, (d, (dx, dy)) in itertools.product(range(3), range(4), enumerate(mv.STEPS)):
        inside = 0 <= x + dx < 4 and 0 <= y + dy < 3
        assert table[y, x, d] == ((y + dy) * 4 + x + dx if inside else y * 4 + x)


@pytest.mark.parametrize("size", [3, 5, 6])
def test_a_row_of_light_against_minigrids_loop(size):
    """Every pair of masks against the two passes of `Grid.process_vis`, written out as there."""
    pairs = torch.arange(4**size)
    lit, following = light_row(pairs >> size, pairs & (1 << size) - 1, size)
    for pair, got, after in zip(pairs.tolist(), lit.tolist(), following.tolist(), strict=True):
        row = [bool(pair >> size >> i & 1) for i in range(size)]
        clear = [bool(pair >> i & 1) for i in range(size)]
        front = [False] * size
        for columns, step in ((range(size - 1), 1), (reversed(range(1, size)), -1)):
            for i in columns:
                if row[i] and clear[i]:
                    row[i + step] = front[i] = front[i + step] = True
        assert got == sum(v << i for i, v in enumerate(row)) and after == sum(v << i for i, v in enumerate(front))


def test_visible_cells_of_the_grid():
    env = load("MiniGrid-KeyCorridorS3R3-v0")
    rng = np.random.default_rng(0)
    for V, world, _ in views(env, rng, 60):
        got = View(env.height, env.width, V).visible(*world[:3])[0].numpy()
        _, mask = env.gen_obs_grid()
        want = np.zeros((env.height, env.width), bool)
        for y, x in itertools.product(range(env.height), range(env.width)):
            place = env.relative_coords(x, y)
            want[y, x] = place is not None and mask[place]
        assert (got == want).all()
    assert View(env.height, env.width, 3, see_through_walls=True).visible(*world[:3]).sum() >= 4


@pytest.mark.parametrize("size", [1, 4, 0, 25])
def test_sizes_are_checked(size):
    with pytest.raises(ValueError, match=f"agent_view_size must be odd and in 3..23, got {size}"):
        View(5, 5, size)
