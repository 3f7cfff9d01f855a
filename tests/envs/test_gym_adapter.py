"""Our environments behind Gymnasium's interfaces, checked by Gymnasium's own tools."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import envs
from envs.gym_adapter import IDS, GymEnv, GymVectorEnv

ROOT = Path(__file__).parents[2]
# The first and the last id of every environment: those between differ from them in size.
BY_ROW = [[name for name in IDS if IDS[name][0] == row] for row in envs.ENVS]
every = pytest.mark.parametrize("name", sorted({name for names in BY_ROW if names for name in (names[0], names[-1])}))


def tiny(name):
    """Arguments of a small instance, those that the id fixes left out."""
    row, kwargs = IDS[name]
    return {key: value for key, value in envs.ENVS[row].tiny.items() if key not in kwargs}


def equal(a, b):
    """Whether two observations are: arrays, or dicts of these and of strings."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    return bool(np.all(np.asarray(a) == np.asarray(b)))


@pytest.fixture(autouse=True)
def warnings_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@every
@pytest.mark.parametrize("render_mode", [None, "rgb_array"])
def test_gymnasium_checker_is_silent(name, render_mode):
    check_env(gymnasium.make(name, render_mode=render_mode).unwrapped)
    check_env(gymnasium.make(name, cue_visible=True, **tiny(name)).unwrapped)


def test_active_and_action_mode_pass_too():
    check_env(gymnasium.make("gatemaze/TMazeActive-v0", oracle_length=2, penalty_mode="action").unwrapped)


def test_import_by_id():
    code = """
import gymnasium
env = gymnasium.make_vec("envs:gatemaze/TMazeActive-v0", num_envs=8, corridor_length=7, oracle_length=2)
assert env.num_envs == 8 and env.unwrapped.env.corridor_length == 7 and env.unwrapped.env.oracle_length == 2
assert gymnasium.make("gatemaze/TMazeBakker-v0").reset()[0].shape == (3,)
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, cwd=ROOT)


@every
def test_make_vec(name):
    vec = gymnasium.make_vec(name, num_envs=5, render_mode="rgb_array", **tiny(name))
    assert isinstance(vec, gymnasium.vector.VectorEnv) and isinstance(vec, GymVectorEnv)
    assert vec.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    obs, info = vec.reset(seed=1)
    assert obs in vec.observation_space and info == {}
    vec.action_space.seed(0)
    for _ in range(40):
        obs, reward, terminated, truncated, info = vec.step(vec.action_space.sample())
        assert obs in vec.observation_space
        assert all(isinstance(value, np.ndarray) and value.shape == (5,) for value in (reward, terminated, truncated))
        assert reward.dtype == np.float64 and terminated.dtype == truncated.dtype == info["success"].dtype == bool
        assert (info["_success"] == terminated | truncated).all() and not info["success"][~info["_success"]].any()
    frames = vec.render()
    assert len(frames) == 5 and all(frame.dtype == np.uint8 and frame.ndim == 3 for frame in frames)
    assert vec.spec.id == name
    vec.close()
    vec.close()


@every
def test_the_vector_stream_is_the_native_stream(name):
    row, kwargs = IDS[name]
    native = envs.make(row, 6, seed=9, **kwargs, **tiny(name))
    vec = gymnasium.make_vec(name, num_envs=6, **tiny(name))
    obs, _ = vec.reset(seed=9)
    row = native.reset()
    rng = np.random.default_rng(0)
    for _ in range(60):
        if isinstance(obs, dict):  # the image is the first codes of the row's cells, there may be more
            assert equal(obs["image"], row.obs[..., : obs["image"].shape[-1]].numpy())
        else:
            assert equal(obs, row.obs.numpy())
        action = rng.integers(native.num_actions, size=6) * (rng.random(6) < 0.4)
        was_over = native.ended.numpy().copy()
        obs, reward, terminated, truncated, info = vec.step(action)
        row = native.step(torch.from_numpy(action))
        assert (reward.astype(np.float32) == row.reward.numpy()).all() and (reward[was_over] == 0).all()
        assert (terminated == (row.discount == 0).numpy()).all()
        assert ((terminated | truncated) == native.ended.numpy()).all()
        assert not (terminated | truncated)[was_over].any()
        assert (info["success"] == (native.success(native.state) & native.ended).numpy()).all()


@every
def test_autoreset_agrees_with_gymnasiums_own(name):
    """One environment: its draws are then the same behind our vector class and Gymnasium's SyncVectorEnv."""
    ours = gymnasium.make_vec(name, num_envs=1, **tiny(name))
    theirs = gymnasium.make_vec(name, num_envs=1, vectorization_mode="sync", **tiny(name))
    assert isinstance(theirs, SyncVectorEnv)
    assert ours.single_observation_space == theirs.single_observation_space
    assert ours.action_space == theirs.action_space and ours.observation_space == theirs.observation_space
    assert equal(ours.reset(seed=4)[0], theirs.reset(seed=4)[0])
    ours.action_space.seed(2)
    for _ in range(150):
        action = ours.action_space.sample() * (np.random.default_rng(0).random() < 0.7)
        a, b = ours.step(action), theirs.step(action)
        assert equal(a[0], b[0])
        for x, y in zip(a[1:4], b[1:4], strict=True):
            assert (x == y).all() and x.dtype == y.dtype
        for key, value in b[4].items():
            assert (a[4][key] == value).all()


@pytest.mark.parametrize("name", [f"gatemaze/{id}-v0" for id in ("TMaze", "TMazeBakker", "TMazeMultiCue", "TMazeDelayed")])
def test_many_seeds_agree_with_gymnasiums_own_where_the_goal_does(name):
    """Several environments: what depends on no draw (flags, resets, masks of info) agrees for any seeds."""
    ours = gymnasium.make_vec(name, num_envs=4, **tiny(name))
    theirs = gymnasium.make_vec(name, num_envs=4, vectorization_mode="sync", **tiny(name))
    ours.reset(seed=0), theirs.reset(seed=0)
    ours.action_space.seed(3)
    for _ in range(60):
        action = ours.action_space.sample()
        a, b = ours.step(action), theirs.step(action)
        assert (a[2] == b[2]).all() and (a[3] == b[3]).all()
        if "_success" in b[4]:
            assert (a[4]["_success"] == b[4]["_success"]).all()


@every
def test_torch_output_stays(name):
    vec, plain = (gymnasium.make_vec(name, num_envs=4, output=o, **tiny(name)) for o in ("torch", "numpy"))
    obs, plain_obs = vec.reset(seed=2)[0], plain.reset(seed=2)[0]
    assert equal(obs, plain_obs)
    for action in torch.randint(vec.env.num_actions, (30, 4), generator=torch.Generator().manual_seed(0)):
        obs, *row, info = vec.step(action)
        plain_obs, *plain_row, plain_info = plain.step(action.numpy())
        assert equal(obs, plain_obs)
        seen = [obs["image"], obs["direction"]] if isinstance(obs, dict) else [obs]
        tensors = [*row, *info.values(), *seen]
        assert all(isinstance(x, torch.Tensor) and x.device == vec.env.device for x in tensors)
        for x, y in zip([*row, *info.values()], [*plain_row, *plain_info.values()], strict=True):
            assert (x.numpy() == y).all() or np.allclose(x.numpy(), y, rtol=1e-7)  # rewards are float32 here


@every
def test_seeding(name):
    def episode(vec, seed):
        vec.action_space.seed(0)
        seen = [vec.reset(seed=seed)[0]]
        for _ in range(40):
            seen += vec.step(vec.action_space.sample())[:2]  # observations and rewards
        return seen

    vec = gymnasium.make_vec(name, num_envs=16, **tiny(name))
    a, b, c = episode(vec, 5), episode(vec, 5), episode(vec, None)
    assert all(map(equal, a, b))
    assert not all(map(equal, a, c))
    starts = [episode(gymnasium.make_vec(name, num_envs=32, **tiny(name)), None) for _ in range(4)]
    assert not all(map(equal, starts[0], starts[1]))  # without a seed, a reset is random


def test_single_episode():
    env = gymnasium.make("gatemaze/TMaze-v0", render_mode="rgb_array", corridor_length=2).unwrapped
    assert isinstance(env, GymEnv)
    obs, _ = env.reset(seed=0)
    turn = 1 if obs[1] > 0 else 3
    assert env.step(0)[1:] == (0.0, False, False, {})
    assert env.step(0)[1:] == (0.0, False, False, {})
    assert env.step(turn)[1:] == (1.0, True, False, {"success": True})
    assert env.render().shape[-1] == 3
    with pytest.raises(ValueError, match=r"call reset\(\) before step"):
        env.step(0)


@pytest.mark.parametrize("id", ["MiniGrid-MemoryS7", "MiniGrid-Empty-8x8", "CartPolePomdp", "KeyToDoor"])
def test_a_limit_of_steps_is_flagged_by_every_kind(id):
    """MiniGrid's have flags of their own."""
    vec = gymnasium.make_vec(f"gatemaze/{id}-v0", num_envs=2, max_episode_steps=3)
    vec.reset(seed=0)
    assert [vec.step(np.zeros(2, int))[3].tolist() for _ in range(4)] == [[row == 2] * 2 for row in range(4)]


def test_a_limit_of_steps_truncates_in_both_forms():
    """make() wraps the single form in Gymnasium's TimeLimit; the vector form has the same argument."""
    vec = gymnasium.make_vec("gatemaze/TMazeActive-v0", num_envs=2, corridor_length=9, max_episode_steps=3)
    one = gymnasium.make("gatemaze/TMazeActive-v0", corridor_length=9, max_episode_steps=3)
    vec.reset(seed=0), one.reset(seed=0)
    flags = [vec.step(np.full(2, 0))[2:4] for _ in range(8)]
    assert [truncated.tolist() for _, truncated in flags] == [[row in (2, 6)] * 2 for row in range(8)]  # row 3: the reset
    assert not any(terminated.any() for terminated, _ in flags)
    assert [one.step(0)[3] for _ in range(3)] == [False, False, True]
    vec.step(np.zeros(2, int)), vec.reset()
    assert [bool(vec.step(np.zeros(2, int))[3].any()) for _ in range(3)] == [False, False, True]
    with pytest.raises(ValueError, match="max_episode_steps must be an integer >= 1, got 0"):
        gymnasium.make_vec("gatemaze/TMaze-v0", num_envs=2, max_episode_steps=0)


def test_refusals():
    vec = gymnasium.make_vec("gatemaze/TMaze-v0", num_envs=3, corridor_length=1)
    vec.reset(seed=0)
    for actions, message in (
        (np.array([0, 4, 0]), "action 4 of environment 1 is not in 0..3"),
        (np.array([-1, 0, 0]), "action -1 of environment 0"),
        (np.zeros(2, int), "must be 3 integers"),
        (np.zeros(3), "must be 3 integers, got torch.float64"),
    ):
        with pytest.raises(ValueError, match=message):
            vec.step(actions)
    vec.step(np.zeros(3, int)), vec.step(np.ones(3, int))
    vec.step(np.full(3, -1))  # ignored on the reset row
    with pytest.raises(ValueError, match="knows no options, got reset_mask"):
        vec.reset(options={"reset_mask": np.ones(3, bool)})
    with pytest.raises(ValueError, match="output must be 'numpy' or 'torch'"):
        gymnasium.make_vec("gatemaze/TMaze-v0", num_envs=3, output="jax")
    with pytest.raises(ValueError, match="render_mode must be None or 'rgb_array'"):
        gymnasium.make_vec("gatemaze/TMaze-v0", num_envs=3, render_mode="human")
    with pytest.raises(ValueError, match=r"integer in 0\.\.3, got 7"):
        env = gymnasium.make("gatemaze/TMaze-v0").unwrapped
        env.reset()
        env.step(7)
    with pytest.raises(ValueError, match="takes one environment"):
        GymEnv(envs.TMaze(2))
    with pytest.warns(UserWarning, match="render_mode='rgb_array'"):
        assert vec.render() is None


def test_works_without_gymnasium():
    code = """
import sys
sys.modules["gymnasium"] = None
import envs
assert envs.make("tmaze_passive", 2).reset().first.all()
try:
    envs.GymVectorEnv
except ImportError as error:
    assert "gymnasium" in str(error)
else:
    raise AssertionError
try:
    import envs.gym_adapter
except ImportError as error:
    assert "gymnasium" in str(error)
else:
    raise AssertionError
assert not [m for m in ("agents", "memory_cells", "configs", "build", "PIL", "matplotlib") if m in sys.modules]
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
