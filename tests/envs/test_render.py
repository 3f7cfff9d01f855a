"""Frames: what differs between them, and what must not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import envs

every = pytest.mark.parametrize("name", ["tmaze_passive", "tmaze_active", "tmaze_bakker"])


def both_cues(name, **kwargs):
    """Two environments with the goal up in the first and down in the second, on their reset rows."""
    env = envs.make(name, 2, **kwargs)
    env.reset()
    env.state.goal.copy_(torch.tensor([env.junction + 1, env.junction + 2]))
    return env


def left_of_arms(frames):
    return frames[:, :, : frames.shape[2] * 3 // 4]


@every
@pytest.mark.parametrize("length", [1, 3, 10, 50, 500])
def test_frames(name, length):
    env = both_cues(name, corridor_length=length)
    for _ in range(3):
        frames = env.render()
        assert frames.dtype == np.uint8 and frames.ndim == 4 and frames.shape[0] == 2 and frames.shape[3] == 3
        assert frames.shape[1] % 2 == 0 and frames.shape[2] % 2 == 0 and frames.std() > 10
        env.step(env.oracle(env.state))
    assert (env.render([1, 0]) == env.render()[::-1]).all() and env.render([1]).shape[0] == 1


@every
def test_only_the_arms_tell_the_goal_once_the_cue_is_gone(name):
    env = both_cues(name, corridor_length=10)
    o = env.start
    for t in range(o + 6):
        up, down = left_of_arms(env.render())
        assert (up != down).any() == (t == o), t
        env.step(torch.full((2,), 2 if t < o else 0))
    up, down = env.render()
    assert (up != down).any()
    assert (up == env.render()[0]).all()  # drawing changes nothing


@every
def test_each_step_shows(name):
    env = both_cues(name, corridor_length=50)
    seen = {env.render([0]).tobytes()}
    for steps in range(1, 20):
        env.step(torch.zeros(2, dtype=torch.int64))
        seen.add(env.render([0]).tobytes())
        assert len(seen) == steps + 1


def test_success_and_failure_look_different():
    env = both_cues("tmaze_passive", corridor_length=3)
    for action in (0, 0, 0, 1):
        env.step(torch.full((2,), action))
    up, down = env.render().astype(int)
    assert env.success(env.state).tolist() == [True, False]
    disc_up, disc_down = up[48], down[48]  # the row of pixels through the upper arm: green disc, red disc
    assert (disc_up[:, 1] - disc_up[:, 0]).max() > 100 > (disc_down[:, 1] - disc_down[:, 0]).max()
    assert (disc_down[:, 0] - disc_down[:, 1]).max() > 100
