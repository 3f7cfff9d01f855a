"""The TVT tasks against the published games themselves, row by row, from the same states and with the same draws.

The games are no package and not ours to copy. To run this: install pycolab (and six) beside the project, and let
GATEMAZE_TVT be a folder that holds checkouts of `twni2016/Memory-RL` and `google-deepmind/deepmind-research` under
these names (`envs/key_to_door` of the one and `tvt/pycolab` of the other are enough). Without them it is skipped; the
slow twin of `test_tvt.py` is what the default suite compares with.
"""

from __future__ import annotations

import collections.abc
import importlib
import os
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

import envs
from envs import tvt_rooms
from envs.tvt import NOTHING, ORDERS, RED

FOLDER = os.environ.get("GATEMAZE_TVT")
pytestmark = pytest.mark.skipif(FOLDER is None, reason="GATEMAZE_TVT names no folder with the published games")
N = 64  # games side by side


def nest(function, tree):
    if isinstance(tree, dict):
        return {key: nest(function, value) for key, value in tree.items()}
    return tuple(nest(function, value) for value in tree) if isinstance(tree, tuple | list) else function(tree)


class Single(np.ndarray):
    def __int__(self):
        return int(self.item())


@pytest.fixture(scope="module")
def published():
    """(Memory-RL's modules, DeepMind's modules, pycolab.rendering); what they import is stood in for where it is gone."""
    old = ("Mapping", "Sequence")  # pycolab 1.2 looks for these where they were until Python 3.9
    for kind in old:
        setattr(collections, kind, getattr(collections.abc, kind))
    rendering = pytest.importorskip("pycolab.rendering")
    art = importlib.import_module("pycolab.ascii_art")  # and asks of numpy what it no longer does
    art.ascii_art_to_uint8_nparray = lambda rows: np.array([list(row.encode()) for row in rows], np.uint8)
    art.np = types.SimpleNamespace(**{**vars(np), "where": lambda m: [x.view(Single) for x in np.where(m)]})
    framework = types.ModuleType("tensorflow.contrib.framework")
    framework.nest = types.SimpleNamespace(map_structure=nest)
    contrib = types.ModuleType("tensorflow.contrib")
    contrib.framework = framework
    added = {"tensorflow": types.ModuleType("tensorflow"), "tensorflow.contrib": contrib}
    for package, path in (("envs.key_to_door", "Memory-RL/envs/key_to_door"), ("tvt", "deepmind-research/tvt")):
        added[package] = types.ModuleType(package)
        added[package].__path__ = [str(Path(FOLDER, path))]
    before = set(sys.modules)
    sys.modules.update(added)
    try:
        ni = {n: importlib.import_module(f"envs.key_to_door.{n}") for n in ("key_to_door", "visual_match")}
        hung = {n: importlib.import_module(f"tvt.pycolab.{n}") for n in ("key_to_door", "active_visual_match")}
    finally:
        for name in set(sys.modules) - before:
            if name.partition(".")[0] in ("tensorflow", "tvt") or name.startswith("envs.key_to_door"):
                del sys.modules[name]
    yield ni, hung, rendering
    for kind in old:
        delattr(collections, kind)


CASES = {  # case -> our environment, whose copy, the phases, the reward of apples
    "passive": ("passive_match", "ni", (15, 30, 15), 1.0),
    "passive, no distractor": ("passive_match", "ni", (3, 0, 15), (1, 10)),
    "active": ("active_match", "hung", (15, 90, 15), (1, 10)),
    "active, Ni's copy": ("active_match", "ni", (15, 1, 12), (1, 10)),
    "key": ("key_to_door", "ni", (15, 60, 10), 1.0),
    "key, Hung's": ("key_to_door", "hung", (15, 90, 15), (1, 10)),
    "key, short": ("key_to_door", "ni", (9, 2, 20), (1, 10)),
}


def make_game(published, name, whose, lengths, reward):
    ni, hung, _ = published
    options = {
        "rng": np.random.RandomState(np.random.randint(2**31)), "apple_reward": reward, "final_reward": 5.0,
        "fix_apple_reward_in_episode": isinstance(reward, tuple),
        "max_frames": dict(zip(("explore", "distractor", "reward"), lengths, strict=True)),
    }  # fmt: skip
    if name == "key_to_door":
        return (ni if whose == "ni" else hung)["key_to_door"].Game(**options)
    if whose == "hung":
        return hung["active_visual_match"].Game(**options)
    match = ni["visual_match"]
    grid = match.PASSIVE_EXPLORE_GRID if name == "passive_match" else match.EXPLORE_GRID
    return match.Game(**options, EXPLORE_GRID=grid)


class Play:
    """One published game, and its picture of each row."""

    def __init__(self, game, rendering):
        colours = {symbol: tuple(c * 255 / 1000 for c in rgb) for symbol, rgb in game.colours.items()}
        self.picture = rendering.ObservationToArray(colours, permute=(1, 2, 0), dtype=np.uint8)
        self.colours = game.colours
        self.story = game.make_episode()
        self.obs = self.picture(self.story.its_showtime()[0]).copy()

    def step(self, action):
        board, reward, _ = self.story.play(int(action))
        self.obs = self.picture(board).copy()
        return reward or 0.0

    def cell(self, symbol):
        row, column = self.story.current_game.things[symbol].position
        return row * tvt_rooms.COLS + column


def begin(env, i, play):
    """The published game's draws of the first phase, into environment i of ours."""
    env.state.cell[i] = play.cell("+")
    if "k" in play.story.current_game.things:
        env.state.key[i] = play.cell("k")
        return
    goal = next(symbol for symbol in "bce" if symbol in play.story.current_game.things)
    order = tuple(RED + int(np.argmax(play.colours[symbol])) for symbol in "bce")
    env.state.order[i], env.state.goal[i] = ORDERS.index(order), "bce".index(goal)
    env.state.sign[i] = play.cell(goal)


def plant(env, i, play):
    """The apples that the published game drew as its second phase began."""
    apples = play.story.current_game.things["a"].curtain.ravel()[list(tvt_rooms.ORCHARD.marks)]
    env.state.ripe[i, :-1] = torch.where(torch.from_numpy(apples), 0, env.state.ripe.max())
    env.state.worth[i] = play.story.the_plot.get("sampled_apple_reward", 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("skill", [0.0, 0.6, 0.9])
def test_follows_the_published_games(published, case, skill):
    """`skill`: the share of the oracle's actions, the others being random."""
    name, whose, lengths, reward = CASES[case]
    kwargs = dict(zip(("explore_length", "distractor_length", "reward_length"), lengths, strict=True))
    env = envs.make(name, N, **kwargs, apples=10, apple_reward_high=10.0, final_reward=5.0)
    np.random.seed(7)
    generator = torch.Generator().manual_seed(7)
    wins = gains = 0
    for _ in range(3):
        plays = [Play(make_game(published, name, whose, lengths, reward), published[2]) for _ in range(N)]
        env.reset()
        for i, play in enumerate(plays):
            begin(env, i, play)
        seen = env.observation(env.state)
        for t in range(1, sum(lengths) + 1):
            assert (seen.numpy() == np.stack([play.obs for play in plays])).all()
            action = torch.randint(4, (N,), generator=generator)
            action = torch.where(torch.rand(N, generator=generator) < skill, env.oracle(env.state), action)
            row = env.step(action)
            rewards = [play.step(a) for play, a in zip(plays, action.tolist(), strict=True)]
            assert row.reward.tolist() == rewards, t
            assert env.state.cell.tolist() == [play.cell("+") for play in plays]
            if t == lengths[0] and lengths[1]:
                for i, play in enumerate(plays):
                    plant(env, i, play)
            seen = env.observation(env.state)
            over = [play.story.game_over for play in plays]
            assert env.ended.tolist() == over and (row.discount == 0).tolist() == over
            gains += sum(r > 0 for r in rewards)
        assert (seen.numpy() == np.stack([play.obs for play in plays])).all() and all(over)
        won = [play.story.the_plot["chapter_reward"] > 0 for play in plays]
        assert env.success(env.state).tolist() == won
        wins += sum(won)
    assert wins > 0 or skill == 0.0
    assert gains > 0
    assert name == "key_to_door" or (env.state.touched != NOTHING).any()
