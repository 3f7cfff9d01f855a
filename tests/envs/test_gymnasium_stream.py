"""Any Gymnasium environment as a stream: no row lost, none doubled, in every form that an environment comes in."""

from __future__ import annotations

import itertools
import sys

import gym_cases
import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

import envs
from envs.env import Step
from envs.group import EnvError, leaves_of
from envs.gymnasium_stream import GymnasiumStream, make_gymnasium, parse_kwargs
from envs.spaces import action_layout, observation_layout
from envs.vector_sources import VectorSource

B = 5


def stream(form: str, seed: int = 0, id: str = "gym_cases:Counting-v0", num_envs: int = B, **kwargs) -> GymnasiumStream:
    """`form`: "sync", "async", or a vector class and its autoreset mode, "SyncVectorEnv SAME_STEP"."""
    if form in ("sync", "async"):
        workers = 2 if form == "async" else None
        return make_gymnasium(id, num_envs, seed=seed, vectorization=form, workers=workers, timeout=20, **kwargs)
    name, mode = form.split()
    make, mode = (lambda: gymnasium.make(id)), AutoresetMode[mode]
    classes = {"SyncVectorEnv": SyncVectorEnv, "AsyncVectorEnv": AsyncVectorEnv}
    vec = classes[name]([make] * num_envs, autoreset_mode=mode) if name in classes else gym_cases.NoMasks(num_envs, mode)
    return GymnasiumStream(VectorSource(vec), seed=seed, **kwargs)


MODES = [mode.name for mode in AutoresetMode]
FORMS = ["sync", "async", *(f"SyncVectorEnv {mode}" for mode in MODES), "NoMasks NEXT_STEP"]
SLOW = [pytest.param(f"AsyncVectorEnv {mode}", marks=pytest.mark.slow) for mode in MODES]
every = pytest.mark.parametrize("form", [*FORMS, *SLOW])


def drawn(steps: int, num_envs: int = B, actions: int = 5, seed: int = 1) -> torch.Tensor:
    return torch.randint(actions, (steps, num_envs), generator=torch.Generator().manual_seed(seed))


def played(env: GymnasiumStream, steps: int, **options) -> list[Step]:
    return [env.reset(), *(env.step(a) for a in drawn(steps, env.num_envs, env.num_actions, **options))]


def same(a: list[Step], b: list[Step]) -> bool:
    return all(torch.equal(x, y) for p, q in zip(a, b, strict=True) for x, y in zip(p, q, strict=True))


@every
def test_no_row_is_lost_and_none_doubled(form):
    env = stream(form)
    assert (env.obs_kind, env.obs_shape, env.num_actions) == ("vector", (4,), 5)
    row, expected, ended, seen = env.reset(), [None] * B, torch.ones(B, dtype=torch.bool), [[] for _ in range(B)]
    for action in drawn(60):
        assert torch.equal(row.first, ended)
        ended = env.ended.clone()
        for i in range(B):
            own, episode, t, before = row.obs[i].tolist()
            if row.first[i]:
                assert (t, before, row.reward[i], row.discount[i], row.action[i]) == (0, -1, 0, 1, -1)
                seen[i].append(int(episode))
            else:
                assert [own, episode, t] == expected[i][:3] and before == expected[i][3] + 3 == row.action[i] + 3
                last = t == gym_cases.Counting.length(own, episode)
                assert row.reward[i] == 10 * episode + t and ended[i] == last
                assert row.discount[i] == (0 if last and episode % 3 != 1 else 1)
                if last and form != "NoMasks NEXT_STEP":
                    assert env.success(env.state)[i] == (episode % 2 == 1)
            expected[i] = [own, episode, t + 1, action[i].item()]
        row = env.step(action)
    for episodes in seen:
        steps = set(np.diff(episodes).tolist())
        assert len(episodes) > 10
        if form.endswith(("SAME_STEP", "DISABLED")):  # what was begun too early is thrown away unseen
            assert 2 in steps and steps <= {1, 2, 3}
        else:
            assert steps == {1}
    env.close()
    env.close()


@every
def test_an_episode_broken_off_from_outside(form):
    env = stream(form)
    env.reset()
    rows = [env.step(a) for a in drawn(3)]
    env.ended[1:3] = True
    if form == "NoMasks NEXT_STEP" and not (rows[-1].obs[1, 2] == 0).all():
        with pytest.raises(ValueError, match=r"NoMasks restarts all its environments or none.*stagger_episodes=false"):
            env.step(drawn(1)[0])
        assert env.reset().first.all()
        return
    over = env.ended.clone()
    row = env.step(drawn(1)[0])
    assert torch.equal(row.first, over) and over[1:3].all() and not over.all()
    assert (row.obs[over, 2] == 0).all() and (row.obs[~over, 2] > 0).all()
    assert (row.obs[1:3, 1] > rows[-1].obs[1:3, 1]).all()
    assert torch.equal(env.step(drawn(1)[0]).obs[1:3, 2], torch.ones(2))


def test_what_cannot_be_made_into_rows_is_refused():
    for mode in (AutoresetMode.SAME_STEP, None, "NextStep"):
        with pytest.raises(ValueError, match=r"NoMasks (resets on the step|does not say how it resets)"):
            VectorSource(gym_cases.NoMasks(2, mode))


@pytest.mark.parametrize("form", ["sync", "SyncVectorEnv NEXT_STEP", "SyncVectorEnv SAME_STEP"])
def test_seeds(form):
    make = lambda seed: stream(form, seed, "CartPole-v1", 4)  # noqa: E731
    env = make(3)
    rows = played(env, 60)
    assert sum(row.first.sum() for row in rows) > 8
    assert same(rows, played(make(3), 60)) and not same(rows, played(make(4), 60))
    env.seed(3)
    assert same(rows, played(env, 60))
    firsts = torch.cat([make(seed).reset().obs for seed in (3, 4, 5)])
    assert len(firsts.unique(dim=0)) == 12  # neighbouring seeds have no episode in common


def test_workers_make_the_same_rows():
    spread, here = (stream(form, 3, "CartPole-v1", 5) for form in ("async", "sync"))
    assert same(played(spread, 60), played(here, 60))


def test_a_saved_stream_starts_other_episodes():
    env = stream("sync", 3, "CartPole-v1", 4)
    assert not env.exact
    rows = played(env, 5)
    saved = env.state_dict()
    again = [stream("sync", 8, "CartPole-v1", 4) for _ in range(2)]
    for other in again:
        played(other, 2)
        other.load_state_dict(saved)
        assert other.ended.all()
    one, two = (played(other, 5) for other in again)
    assert same(one, two) and one[0].first.all() and not torch.equal(one[0].obs, rows[0].obs)
    again[0].load_state_dict(again[0].state_dict())  # and others again
    assert not same(one, played(again[0], 5))
    for bad in ({}, {**saved, "seed": torch.tensor(-1)}, {**saved, "ended": torch.ones(3, dtype=torch.bool)},
                {**saved, "loads": torch.tensor(1.0)}):  # fmt: skip
        with pytest.raises(ValueError, match="environment state"):
            again[0].load_state_dict(bad)


def test_our_own_by_their_id_are_the_native_ones():
    env = make_gymnasium("gatemaze/TMaze-v0", 6, seed=5, vectorization="vector", kwargs="corridor_length=4")
    seed = int(np.random.SeedSequence([5, 0]).generate_state(6)[0]) & 0x7FFFFFFF
    native = envs.make("tmaze_passive", 6, seed=seed, corridor_length=4)
    row, want = env.reset(), native.reset()
    for action in drawn(30, 6, 4):
        assert same([row], [want]) and torch.equal(env.ended, native.ended)
        over = env.ended
        assert torch.equal(env.success(env.state)[over], native.success(native.state)[over])
        row, want = env.step(action), native.step(action)
    one = make_gymnasium("gatemaze/TMaze-v0", 2, kwargs="corridor_length=4")
    assert one.reset().obs.shape == (2, 2) and one.spec.max_rows == native.spec.max_rows == 6


def test_minigrid_shows_its_codes_and_its_direction():
    env = make_gymnasium("MiniGrid-MemoryS7-v0", 3, seed=1, kwargs="agent_view_size=3")
    blind = make_gymnasium("MiniGrid-MemoryS7-v0", 3, seed=1, kwargs="agent_view_size=3", direction=False)
    seeds = (np.random.SeedSequence([1, 0]).generate_state(3) & 0x7FFFFFFF).tolist()
    theirs = [gymnasium.make("MiniGrid-MemoryS7-v0", agent_view_size=3) for _ in seeds]
    found = [single.reset(seed=seed)[0] for single, seed in zip(theirs, seeds)]
    assert (env.obs_kind, env.obs_shape, env.obs_values) == ("symbols", (3, 3, 4), (11, 6, 4, 4))
    assert (blind.obs_shape, blind.obs_values, env.obs_dtype) == ((3, 3, 3), (11, 6, 4), torch.uint8)
    assert env.spec.max_rows == 246 and env.action_names[:3] == ("left", "right", "forward")
    assert "'mission' is not shown" in env.remarks[0] and "return is positive" in env.remarks[1]
    assert "'direction' is not shown" in blind.remarks[1] and len(env.remarks) == 2 and len(blind.remarks) == 3
    for a, b in zip(played(env, 30, seed=2), played(blind, 30, seed=2), strict=True):
        assert torch.equal(a.obs[..., :3], b.obs)
    env.seed(1)
    row = env.reset()
    for action in drawn(30, 3, 3):
        for i, obs in enumerate(found):
            assert (row.obs[i, ..., :3].numpy() == obs["image"]).all() and (row.obs[i, ..., 3] == obs["direction"]).all()
        row = env.step(action)
        found = [single.step(a)[0] for single, a in zip(theirs, action.tolist())]
        if env.ended.any():
            break


u8 = lambda *shape: spaces.Box(0, 255, shape, np.uint8)  # noqa: E731
GRID = spaces.Dict({"image": u8(5, 5, 3), "direction": spaces.Discrete(4), "mission": spaces.Text(9)})
LAYOUTS = [
    (spaces.Box(-1, 1, (3,), np.float64), {}, "vector", (3,)),
    (spaces.Box(-1, 1, (), np.float32), {}, "vector", (1,)),
    (spaces.Box(-1, 1, (84, 84, 3), np.float32), {}, "vector", (84 * 84 * 3,)),
    (spaces.Discrete(4, start=2), {}, "vector", (4,)),
    (spaces.MultiDiscrete([3, 2]), {}, "vector", (5,)),
    (spaces.MultiBinary(3), {}, "vector", (3,)),
    (u8(7), {}, "vector", (7,)),
    (u8(2, 3), {}, "vector", (6,)),
    (u8(8, 9, 3), {}, "pixels", (8, 9, 3)),
    (u8(8, 9, 3), {"kind": "vector"}, "vector", (8 * 9 * 3,)),
    (u8(4, 84, 84), {}, "pixels", (84, 84, 4)),
    (u8(20, 30), {}, "pixels", (20, 30, 1)),
    (GRID, {}, "symbols", (5, 5, 4)),
    (GRID, {"direction": False}, "symbols", (5, 5, 3)),
    (GRID, {"kind": "pixels"}, "pixels", (5, 5, 3)),
    (GRID, {"kind": "vector"}, "vector", (79,)),
    (spaces.Dict({"image": u8(40, 40, 3), "direction": spaces.Discrete(4)}), {}, "vector", (4804,)),
    (spaces.Tuple([spaces.Discrete(3), spaces.Dict({"a": spaces.Box(0, 1, (2,))})]), {}, "vector", (5,)),
]


@pytest.mark.parametrize("space, options, kind, shape", LAYOUTS)
def test_layouts(space, options, kind, shape):
    """Shape and kind; whole batches agree with single observations; different observations look different."""
    leaves, texts = leaves_of(space)
    layout = observation_layout(leaves, **options)
    assert (layout.kind, layout.shape, texts) == (kind, shape, ["mission"] if space is GRID else [])
    space.seed(0)
    samples = [space.sample() for _ in range(6)]
    arrays = [np.stack([np.asarray(leaf.of(obs)) for obs in samples]) for leaf in leaves]
    if kind == "symbols":
        arrays[[leaf.path for leaf in leaves].index(("image",))][:] %= np.array([11, 6, 4], np.uint8)
    out = layout.encode(arrays)
    assert out.shape == (6, *shape) and out.dtype == layout.dtype
    assert not any(np.shares_memory(out, array) for array in arrays)
    for i in range(6):
        assert (layout.encode([array[i : i + 1] for array in arrays])[0] == out[i]).all()
    if kind == "vector":
        assert np.isfinite(out).all() and out.min() >= -1 and out.max() <= 1
        assert len(np.unique(out, axis=0)) == len(np.unique(np.concatenate([a.reshape(6, -1) for a in arrays], 1), axis=0))


def test_layouts_by_hand():
    encode = lambda space, *arrays: observation_layout(leaves_of(space)[0]).encode([np.array(a) for a in arrays]).tolist()  # noqa: E731
    assert encode(spaces.Discrete(3, start=5), [6, 5]) == [[0, 1, 0], [1, 0, 0]]
    assert encode(spaces.MultiDiscrete([2, 3]), [[1, 0], [0, 2]]) == [[0, 1, 1, 0, 0], [1, 0, 0, 0, 1]]
    assert encode(u8(2), [[0, 255]]) == [[0, 1]]
    picture = np.arange(4 * 8 * 9, dtype=np.uint8).reshape(1, 4, 8, 9)
    assert encode(u8(4, 8, 9), picture)[0][2][5] == picture[0, :, 2, 5].tolist()
    layout = observation_layout(leaves_of(GRID)[0])
    with pytest.raises(ValueError, match="codes that MiniGrid does not have"):
        layout.encode([np.array([1]), np.full((1, 5, 5, 3), 11, np.uint8)])


@pytest.mark.parametrize("space, options, told", [
    (spaces.Discrete(5000), {}, "5000 values"), (spaces.Box(0, 1, (300, 300)), {}, "90000 numbers"),
    (u8(7), {"kind": "pixels"}, "needs a picture"), (u8(9, 9, 3), {"kind": "symbols"}, "grid of codes named image"),
    (spaces.Dict({"image": u8(5, 5)}), {"kind": "symbols"}, r"needs a grid \(h, w, 3\), got \(5, 5\)"),
    (spaces.Text(5), {}, "0 numbers"),
])  # fmt: skip
def test_observations_that_cannot_be_shown(space, options, told):
    with pytest.raises(ValueError, match=told):
        observation_layout(leaves_of(space)[0], **options)
    with pytest.raises(ValueError, match="Graph are not supported"):
        leaves_of(spaces.Dict({"a": spaces.Graph(spaces.Discrete(2), None)}))


def test_actions():
    assert action_layout(spaces.Discrete(3, start=-1)).decode(np.array([0, 2])).tolist() == [-1, 1]
    many = action_layout(spaces.MultiDiscrete([2, 3], start=[0, 5]))
    assert many.count == 6 and many.names[:2] == ("0,5", "0,6") and len(set(many.names)) == 6
    assert many.decode(np.array([0, 5])).tolist() == [[0, 5], [1, 7]]
    assert action_layout(spaces.MultiBinary(3)).decode(np.array([5])).tolist() == [[1, 0, 1]]
    assert action_layout(spaces.Discrete(2), ["go", "stay"]).names == ("go", "stay")
    assert action_layout(spaces.Discrete(3), ["go", "stay"]).names == ("0", "1", "2")
    for space, told in (
        (spaces.Box(-1, 1, (2,)), "continuous actions"),
        (spaces.Tuple([spaces.Discrete(2)]), "are not supported"),
        (spaces.MultiDiscrete([2**40, 2**40]), "more than 1024"),
        (spaces.MultiDiscrete([[2, 2]]), "are not supported"),
    ):
        with pytest.raises(ValueError, match=told):
            action_layout(space)


@pytest.mark.parametrize("id, options, won", [
    ("Counting-v0", {}, lambda e, total: e % 2 == 1),
    ("Counting-v0", {"kwargs": "told=is_success", "success_return": 1e9}, lambda e, total: e % 2 == 1),
    ("Silent-v0", {}, lambda e, total: total > 0), ("Thresholded-v0", {}, lambda e, total: total >= 12),
    ("Thresholded-v0", {"success_return": 40}, lambda e, total: total >= 40),
])  # fmt: skip
def test_what_a_success_is(id, options, won):
    env = make_gymnasium(f"gym_cases:{id}", 3, **options)
    totals, outcomes = torch.zeros(3), set()
    env.reset()
    for action in drawn(40, 3):
        row = env.step(action)
        totals = torch.where(row.first, 0, totals + row.reward)
        for i in env.ended.nonzero().flatten().tolist():
            outcomes.add(bool(env.success(env.state)[i]))
            assert env.success(env.state)[i] == won(int(row.obs[i, 1]), totals[i])
    assert outcomes == ({True} if id == "Silent-v0" else {True, False})
    assert env.spec.max_rows == (51 if id == "Thresholded-v0" else None)


def test_arguments_of_the_environment():
    assert parse_kwargs("a=3, b=0.5,c=true,d=rgb,e=-1e3") == {"a": 3, "b": 0.5, "c": True, "d": "rgb", "e": -1000.0}
    assert parse_kwargs(None) == parse_kwargs("") == {}
    for text in ("a", "a=1,a=2", "1a=3", "a=1,,b=2", "render_mode=human"):
        with pytest.raises(ValueError, match="expected name=value,name=value"):
            parse_kwargs(text)
    for form in ("sync", "vector"):
        env = make_gymnasium("CartPole-v1", 2, max_episode_steps=4, vectorization=form)
        assert env.spec.max_rows == 5 and all(row.discount.all() for row in played(env, 4)) and env.ended.all()
        assert not any("limit of steps" in remark for remark in env.remarks)
    assert "env.max_episode_steps=N sets one" in make_gymnasium("CliffWalking-v1", 1).remarks[0]


@pytest.mark.parametrize("id, options, told", [
    ("CartPole-v1", {"workers": 2}, "workers=2 needs vectorization=async, it is sync"),
    ("CartPole-v1", {"direction": False}, "direction=false is for MiniGrid's symbols, these observations are shown as vector"),
    ("CartPol-v1", {}, "cannot make CartPol-v1.*CartPole"), ("CartPole-v9", {}, "cannot make CartPole-v9"),
    ("CartPole-v1", {"kwargs": "gravitas=3"}, "cannot make CartPole-v1: TypeError.*gravitas"),
    ("nothing_here:X-v0", {}, "needs the package nothing_here"), ("gym_cases:Continuous-v0", {}, "continuous actions"),
    ("Acrobot-v1", {"vectorization": "vector"}, "in a vector form of its own"),
    ("CartPole-v1", {"vectorization": "threads"}, "must be one of sync"),
    ("gym_cases:Faulty-v0", {"render": True}, "no render mode rgb_array"),
    ("CartPole-v1", {"observation": "pixels"}, "CartPole-v1: observation=pixels needs a picture"),
])  # fmt: skip
def test_what_cannot_be_made_is_told_in_a_line(id, options, told):
    with pytest.raises(ValueError, match=told) as caught:
        make_gymnasium(id, 2, **options)
    assert "\n" not in str(caught.value)


def test_without_envpool(monkeypatch):
    monkeypatch.setitem(sys.modules, "envpool", None)
    with pytest.raises(ValueError, match="needs the package envpool"):
        make_gymnasium("CartPole-v1", 2, vectorization="envpool")


def test_envpool():
    pytest.importorskip("envpool")
    env = make_gymnasium("CartPole-v1", 4, seed=3, vectorization="envpool")
    rows = played(env, 80)
    assert same(rows, played(make_gymnasium("CartPole-v1", 4, seed=3, vectorization="envpool"), 80))
    assert not same(rows, played(make_gymnasium("CartPole-v1", 4, seed=4, vectorization="envpool"), 80))
    assert env.spec.max_rows == 501 and sum(row.first.sum() for row in rows) > 8
    for before, row in itertools.pairwise(rows):
        assert torch.equal(row.first, before.discount == 0) and (row.reward == (~row.first).float()).all()
        assert (row.obs[row.first].abs() <= 0.05).all()
    env.step(drawn(1, 4, 2)[0])
    env.ended[1] = True
    row = env.step(drawn(1, 4, 2)[0])
    assert row.first[1] and (row.obs[1].abs() <= 0.05).all()
    grid = make_gymnasium("MiniGrid-MemoryS7-v0", 2, vectorization="envpool")
    assert (grid.obs_kind, grid.obs_shape) == ("symbols", (7, 7, 4)) and grid.reset().obs[..., 0].max() <= 10


def test_pictures():
    env = make_gymnasium("gym_cases:Counting-v0", 3, render=True)
    env.reset()
    frames = env.render([2, 0])
    assert frames.shape == (2, 17, 33, 3) and frames.dtype == np.uint8
    dark = make_gymnasium("gym_cases:Counting-v0", 3)
    dark.reset()
    dark.source.envs[0].unwrapped.size = (0,)
    with pytest.raises(EnvError, match=r"environment 0.*drew no picture"):
        dark.render([0])
