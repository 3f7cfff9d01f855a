"""MiniGrid tasks without memory against minigrid itself: steps from injected states, and the distribution of layouts."""

from __future__ import annotations

import gymnasium
import minigrid  # noqa: F401 (registers its environments)
import numpy as np
import pytest
import torch

import envs

IDS = {
    "MiniGrid-Empty-8x8-v0": ("minigrid_empty", {"size": 8}),
    "MiniGrid-Empty-Random-5x5-v0": ("minigrid_empty", {"size": 5, "random_start": True}),
    "MiniGrid-DoorKey-5x5-v0": ("minigrid_doorkey", {"size": 5}),
    "MiniGrid-DoorKey-8x8-v0": ("minigrid_doorkey", {"size": 8}),
}
LARGE = {
    "MiniGrid-Empty-16x16-v0": ("minigrid_empty", {"size": 16}),
    "MiniGrid-DoorKey-16x16-v0": ("minigrid_doorkey", {"size": 16}),
}
ODDS = torch.tensor([2.0, 2.0, 5.0, 2.0, 1.0, 3.0, 0.2])


def load(name, **kwargs):
    return gymnasium.make(name, disable_env_checker=True, **kwargs).unwrapped


def start(one, rng, seed=None):
    """A new episode, half of the time one that is soon truncated."""
    one.reset(seed=seed)
    if torch.rand((), generator=rng) < 0.5:
        one.step_count = one.max_steps - int(torch.randint(1, 9, (), generator=rng))


def play(name, ours, kwargs, steps, seed, copies=8, view_size=7, by_oracle=0.6):
    """Side by side from injected states, in part at random and in part by the oracle: [transitions, successes, other
    terminations, truncations]. Compared on every step: image, direction, reward, flags, and the state underneath."""
    theirs = [load(name, agent_view_size=view_size) for _ in range(copies)]
    env = envs.make(ours, copies, view_size=view_size, **kwargs)
    assert env.max_steps == theirs[0].max_steps
    rng = torch.Generator().manual_seed(seed)
    for i, one in enumerate(theirs):
        start(one, rng, 1000 * seed + i)
    env.inject(theirs)
    state, counts = env.state, np.zeros(4, int)
    for _ in range(steps):
        action = torch.multinomial(ODDS, copies, replacement=True, generator=rng)
        if torch.rand((), generator=rng) < by_oracle:
            action = env.oracle(state)
        state, reward, terminated, truncated = env.act(state, action)
        image, success, over = env.observe(state).numpy(), env.success(state), []
        for i, one in enumerate(theirs):
            obs, r, end, cut, _ = one.step(int(action[i]))
            assert (obs["image"] == image[i]).all() and obs["direction"] == state.direction[i], (name, i)
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


@pytest.mark.parametrize("name", IDS)
def test_steps_are_minigrids(name):
    _, won, _, truncated = play(name, *IDS[name], steps=60, seed=1)
    assert won and truncated


@pytest.mark.parametrize("view_size", [3, 5, 9])
def test_other_views(view_size):
    play("MiniGrid-DoorKey-5x5-v0", *IDS["MiniGrid-DoorKey-5x5-v0"], steps=20, seed=2, view_size=view_size)


@pytest.mark.slow
@pytest.mark.parametrize("name", {**IDS, **LARGE})
def test_many_steps_are_minigrids(name):
    played = play(name, *{**IDS, **LARGE}[name], steps=1500, seed=3, by_oracle=0.3)
    print(f"{name}: {played} transitions, successes, other terminations, truncations; 0 mismatches")
