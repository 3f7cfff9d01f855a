"""Frames of the noisy, rewriting, multi-cue and delayed T-mazes: what differs between them, and what must not."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

import envs

NAMES = ("tmaze_noisy", "tmaze_rewrite", "tmaze_multicue", "tmaze_delayed")
CORRIDOR = slice(64, 113)  # rows of pixels of the corridor


def wait(env, steps=1, action=0):
    for _ in range(steps):
        env.step(torch.full((env.num_envs,), action))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("length", [1, 3, 40, 400])
def test_frames(name, length):
    env = envs.make(name, 3, corridor_length=length)
    env.reset()
    for _ in range(4):
        frames = env.render()
        assert frames.dtype == np.uint8 and frames.shape == (3, 192, 640, 3) and frames.std() > 10
        assert (frames == env.render()).all()  # drawing changes nothing
        assert (env.render([2, 0]) == frames[[2, 0]]).all()
        env.step(env.oracle(env.state))


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [("tmaze_delayed", {"corridor_length": 0}), ("tmaze_rewrite", {"corridors": 300}), ("tmaze_multicue", {"cues": 62}),
     ("tmaze_noisy", {"distractors": 100})],
)  # fmt: skip
def test_extremes(name, kwargs):
    env = envs.make(name, 1, **kwargs)
    env.reset()
    seen = {env.render().tobytes()}
    for _ in range(12):
        env.step(env.oracle(env.state))
        seen.add(env.render().tobytes())
    assert len(seen) > 6


def test_the_observation_shows():
    env = envs.make("tmaze_noisy", 2, corridor_length=8, distractors=2, sigma=1.0)
    env.reset(), wait(env, 2)
    same = env.render()
    env.state.noise[1].copy_(env.state.noise[0]), env.state.goal.fill_(9)
    a, b = env.render()
    assert (a == b).all() and (same[0] != same[1]).any()
    env.state.noise[1, 4] = 1 - env.state.noise[0, 4]
    a, b = env.render()
    assert (a != b).any() and (a[48:] == b[48:]).all()  # above the corridor


def test_waiting_and_noise_show():
    env = envs.make("tmaze_delayed", 2, corridor_length=3, delay=4, sigma=0.5)
    env.reset()
    env.state.goal.fill_(4)
    seen = []
    for t in range(9):
        env.state.noise.copy_(torch.tensor([0.5, -0.5]) if t > 4 else torch.zeros(2))
        a, b = env.render()
        assert (a != b).any() == (t > 4)
        seen.append(a)
        env.step(env.oracle(env.state))
    assert all((x != y).any() for x, y in itertools.pairwise(seen))
    assert (seen[5][CORRIDOR] == seen[8][CORRIDOR]).all()  # nothing moves any more


def test_the_hint_shows_where_the_agent_sees_it():
    env = envs.make("tmaze_rewrite", 2, corridor_length=6, corridors=3)
    env.reset()
    env.state.turn.copy_(torch.tensor([1, 2]))
    for x in range(7):
        a, b = env.render()[:, CORRIDOR, : 640 * 5 // 8]
        assert (a != b).any() == (x == 0)
        wait(env)


def test_all_cues_show_in_order():
    env = envs.make("tmaze_multicue", 2, corridor_length=3, cues=3)
    env.reset()
    env.state.cues.copy_(torch.tensor([0b010, 0b110]))
    differ = []
    for _ in range(4):
        a, b = env.render()
        differ.append(((a[:48] != b[:48]).any(), (a[CORRIDOR] != b[CORRIDOR]).any()))
        wait(env)
    assert differ == [(False, False), (False, False), (True, True), (True, False)]


@pytest.mark.parametrize(("name", "kwargs"), [("tmaze_rewrite", {"corridors": 2}), ("tmaze_multicue", {"cues": 2})])
def test_right_and_wrong_turns_look_different(name, kwargs):
    env = envs.make(name, 2, corridor_length=2, **kwargs)
    env.reset()
    while not env.at_junction(env.state).all():
        wait(env)
    right = env.oracle(env.state)
    env.step(torch.stack((right[0], 3 - right[1])))
    good, bad = env.render().astype(int)[:, 18:40, 30:80]  # the mark of the first corridor
    assert (good[..., 1] - good[..., 0]).max() > 100 > (bad[..., 1] - bad[..., 0]).max()
    assert (bad[..., 0] - bad[..., 1]).max() > 100
