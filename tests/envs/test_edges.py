"""What is given wrongly, or seldom: arguments, seeds, limits, saved states, nothing to render."""

import dataclasses

import gymnasium
import numpy as np
import pytest
import torch

import envs
from envs import ENVS
from envs.gymnasium_stream import make_gymnasium
from envs.vector_sources import _told

NAMES = list(ENVS)


@pytest.mark.parametrize("make", [gymnasium.make, lambda name, **kwargs: gymnasium.make_vec(name, 2, **kwargs)])
@pytest.mark.parametrize("kwargs, words", [
    ({"seed": 5}, r"seed is an argument of reset\(\)"),
    ({"corridor_lenth": 5}, "did you mean 'corridor_length'"),
    ({"cue_visible": "false"}, "cue_visible must be true or false, got 'false'"),
])  # fmt: skip
def test_arguments_of_make(make, kwargs, words):
    with pytest.raises(ValueError, match=words):
        make("gatemaze/TMaze-v0", **kwargs)


@pytest.mark.parametrize("name, key", [
    ("count_recall", "replacement"), ("memory_chain", "bsuite_quirk"), ("umbrella_chain", "hidden"),
    ("cartpole_pomdp", "scaled"), ("copy_delay", "reversed"), ("minigrid_empty", "random_start"),
    ("tmaze_rewrite", "show_position"), ("passive_match", "fixed_colours"), ("minigrid_memory", "cue_visible"),
])  # fmt: skip
def test_a_word_is_no_flag(name, key):
    for value in ("false", 2, None):
        with pytest.raises(ValueError, match=f"{key} must be true or false"):
            envs.make(name, 1, **{key: value})


@pytest.mark.parametrize("options, words", [
    ({"observation": "smell"}, "observation must be auto, vector, pixels or symbols, got 'smell'"),
    ({"max_episode_steps": 0}, "max_episode_steps must be an integer >= 1"),
    ({"max_episode_steps": 2.5, "vectorization": "vector"}, "max_episode_steps must be an integer >= 1"),
])  # fmt: skip
def test_arguments_of_a_stream(options, words):
    with pytest.raises(ValueError, match=words):
        make_gymnasium("CartPole-v1", 2, **options)


def test_a_seed_of_any_size():
    env = gymnasium.make("gatemaze/MiniGrid-MemoryS7-v0")
    for seed in (2**70, 2**63 - 1):
        assert np.array_equal(env.reset(seed=seed)[0]["image"], env.reset(seed=seed)[0]["image"])


def test_a_vector_environment_must_be_reset_first():
    vec = gymnasium.make_vec("gatemaze/TMaze-v0", 2)
    with pytest.raises(gymnasium.error.ResetNeeded):
        vec.step(np.zeros(2, int))


def test_frames_are_collected():
    env = gymnasium.make("gatemaze/TMaze-v0", render_mode="rgb_array_list", corridor_length=2)
    env.reset(seed=0)
    env.step(0)
    frames = env.render()
    assert len(frames) == 2 and frames[0].shape == frames[1].shape and (frames[0] != frames[1]).any()


@pytest.mark.parametrize("vectorization", ["sync", "vector"])
@pytest.mark.parametrize("limit, rows", [(2000, 246), (None, 246), (20, 21)])
def test_the_tightest_limit_counts(vectorization, limit, rows):
    env = make_gymnasium("gatemaze/MiniGrid-MemoryS7-v0", 2, vectorization=vectorization, max_episode_steps=limit)
    assert env.spec.max_rows == rows
    env.close()


@pytest.mark.parametrize("name", NAMES)
def test_nothing_to_render(name):
    env = envs.make(name, 2, **ENVS[name].tiny)
    env.reset()
    assert env.render([]).shape == (0, *env.render([1]).shape[1:])


@pytest.mark.parametrize("name, key", [("tmaze_passive", "generator"), ("minigrid_memory", "generator"),
                                       ("minigrid_memory", "streams")])  # fmt: skip
def test_a_refused_state_changes_nothing(name, key):
    more = {"draws": "minigrid"} if key == "streams" else {}
    one, other = (envs.make(name, 3, seed=k, **ENVS[name].tiny, **more) for k in range(2))
    for env in (one, other):
        env.reset()
        env.step(torch.zeros(3, dtype=torch.int64))
    before, saved = one.state_dict(), other.state_dict()
    saved[key] = torch.full_like(saved[key], 255)
    with pytest.raises(ValueError, match=f"entry '{key}' is no generator's"):
        one.load_state_dict(saved)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), one.state_dict().values(), strict=True))


@pytest.mark.parametrize("view", [3, 9, 15])
def test_where_nothing_need_be_kept_the_memory_length_is_zero(view):
    assert (envs.make("minigrid_memory", 1, size="S7", agent_view_size=view).spec.memory_length == 0) == (view > 3)


def test_what_a_score_of_zero_is():
    """Whichever ability leaves more without it."""
    spec = envs.make("active_match", 1, **ENVS["active_match"].tiny).spec
    assert spec.r0_memory < spec.r0 == spec.r0_credit < spec.r_star and spec.score(spec.r_star) == 1
    assert dataclasses.replace(spec, r_star=spec.r0 + 1e-12).score(3.0) is None  # rounding is nothing to be measured by
    assert envs.make("discounting_chain", 1).spec.chance == 0.2
    assert envs.make("active_match", 1, **ENVS["active_match"].tiny, cue_visible=True).spec.credit_length == 5


def test_what_a_vector_environment_says_of_success():
    """-1 of those that it says nothing of."""
    masked = {"success": np.array([True, False, False]), "_success": np.array([True, True, False])}
    assert _told(masked, 3).tolist() == [1, 0, -1]
    assert _told({"is_success": np.array([0, 1])}, 2).tolist() == [0, 1] and _told({}, 2).tolist() == [-1, -1]


@pytest.mark.parametrize("name", ["minigrid_doorkey", "minigrid_empty"])
def test_the_twin_sees_itself_on_its_frames(name):
    """The cell at the bottom of its view, in the middle: an arrow there, as without the twin's code."""
    frames = []
    for cue_visible in (False, True):
        env = envs.make(name, 1, seed=3, cue_visible=cue_visible)
        env.reset()
        frames.append(env.render()[0].astype(int))
    assert np.abs(frames[0] - frames[1]).max() == 0
