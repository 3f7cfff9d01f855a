"""Contract tests: laws that every environment of the table keeps (a new row is tested without editing this file), and
the base class on an environment that counts."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import envs

B = 16
gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


def make(name, num_envs=B, **kwargs):
    return envs.make(name, num_envs, **{**envs.ENVS[name].tiny, **kwargs})


def actions(env, steps, seed=1):
    """Uniformly random actions in a third of the rows, else action 0, which gets on in most mazes."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(env.num_actions, (steps, env.num_envs), generator=generator)
    return drawn.where(torch.rand(drawn.shape, generator=generator) < 0.3, torch.zeros_like(drawn)).to(env.device)


def stream(env, steps=60, seed=1):
    return [env.step(a) for a in actions(env, steps, seed)]


def same(rows_a, rows_b):
    return all(torch.equal(x, y) for a, b in zip(rows_a, rows_b, strict=True) for x, y in zip(a, b, strict=True))


every = pytest.mark.parametrize("name", list(envs.ENVS))


@every
def test_rows(name):
    env = make(name)
    rows = [env.reset()]
    assert rows[0].first.all()
    ended = env.ended.clone()
    for action in actions(env, max(80, 2 * (env.spec.max_rows or 0))):
        row = env.step(action)
        assert torch.equal(row.first, ended)  # the row after the last one, and no other, starts an episode
        assert torch.equal(row.action, torch.where(ended, -1, action))
        assert (row.reward[ended] == 0).all() and (row.discount[ended] == 1).all()
        ended = env.ended.clone()
        assert ended[row.discount == 0].all()
        assert not (ended & row.first).any()
        rows.append(row)
    for row in rows:
        assert row.obs.shape == (B, *env.obs_shape) and row.obs.dtype == env.obs_dtype
        assert row.obs.min() >= env.obs_low and row.obs.max() <= env.obs_high
        for value, dtype in zip(row[1:], (torch.int64, torch.float32, torch.float32, torch.bool), strict=True):
            assert value.shape == (B,) and value.dtype == dtype
            assert value.device == row.obs.device == env.device
    assert sum(row.first.sum() for row in rows) > B
    assert len(env.action_names) == env.num_actions
    assert env.success(env.state).shape == (B,) and env.success(env.state).dtype == torch.bool


@every
def test_the_first_step_is_a_reset(name):
    assert same([make(name).reset()], [make(name).step(torch.zeros(B, dtype=torch.int64))])


@every
def test_ignored_actions_may_be_anything(name):
    a, b = make(name), make(name)
    a.reset(), b.reset()
    for action in actions(a, 60):
        other = torch.where(b.ended, torch.full_like(action, -7), action)
        assert same([a.step(action)], [b.step(other)])


@every
def test_reset_in_the_middle(name):
    env = make(name)
    stream(env, 3)
    row = env.reset()
    assert row.first.all() and (row.action == -1).all() and (row.reward == 0).all() and (row.discount == 1).all()
    assert not env.ended.any()


@every
def test_seeds(name):
    assert same(stream(make(name, seed=3)), stream(make(name, seed=3)))
    assert not same(stream(make(name, seed=3)), stream(make(name, seed=4)))
    env = make(name, seed=4)
    env.seed(3)
    assert same(stream(env), stream(make(name, seed=3)))


@every
def test_other_generators_do_not_matter(name):
    first = stream(make(name))
    torch.manual_seed(99)
    before = torch.get_rng_state()
    assert same(first, stream(make(name)))
    assert torch.equal(before, torch.get_rng_state())


@every
@pytest.mark.parametrize("at", [0, 1, 5, 23])
def test_saved_state_continues_exactly(name, at):
    env = make(name)
    stream(env, at)
    saved = env.state_dict()
    kept = {key: value.clone() for key, value in saved.items()}
    rest = stream(env, 40, seed=2)
    assert all(torch.equal(saved[key], kept[key]) for key in saved)  # copies, not views
    other = make(name, seed=77)
    stream(other, 9)
    other.load_state_dict(saved)
    assert same(rest, stream(other, 40, seed=2))
    env.load_state_dict(saved)
    assert same(rest, stream(env, 40, seed=2))


@every
def test_damaged_states_are_refused_whole(name):
    env = make(name)
    stream(env, 5)
    saved = env.state_dict()
    missing = {key: value for key, value in saved.items() if key != "ended"}
    for bad, message in (
        (missing, "lacks the entry 'ended'"),
        ({**saved, "colour": saved["ended"]}, "unknown entry 'colour'"),
        ({**saved, "ended": saved["ended"][:3]}, r"'ended' is \(3,\) torch.bool"),
        ({**saved, "ended": saved["ended"].float()}, "torch.float32"),
        (make(name, 3).state_dict(), "this environment needs"),
        ({**saved, "generator": saved["generator"][:16]}, "'generator'"),
    ):
        with pytest.raises(ValueError, match=message):
            env.load_state_dict(bad)
        assert all(torch.equal(value, saved[key]) for key, value in env.state_dict().items())
    env.load_state_dict({key: value for key, value in saved.items() if key != "generator"})


@every
def test_buffers_stay_and_rows_are_new(name):
    env = make(name)
    pointers = [field.data_ptr() for field in (*env.state, env.ended)]
    rows = stream(env, 30)
    copies = [[value.clone() for value in row] for row in rows]
    stream(env, 30, seed=2)
    env.load_state_dict(env.state_dict())
    env.reset()
    assert pointers == [field.data_ptr() for field in (*env.state, env.ended)]
    assert same(rows, copies)
    owned = set(pointers)
    for row in rows:
        assert not owned & {value.data_ptr() for value in row}


class Ops(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


SYNCS = {"_local_scalar_dense", "item", "nonzero", "masked_select", "equal", "is_nonzero", "unique", "_to_copy_host"}


@every
@pytest.mark.parametrize("cue_visible", [False, True])
def test_no_host_sync_and_the_same_ops_each_step(name, cue_visible):
    env = make(name, cue_visible=cue_visible)
    seen = []
    for action in actions(env, 30):
        with Ops() as ops:
            env.step(action)
        assert not SYNCS & set(ops.names)
        seen.append(ops.names)
    assert all(names == seen[0] for names in seen)
    assert len(seen[0]) < (60 if name.startswith("tmaze") else 400)


@every
@pytest.mark.parametrize("cue_visible", [False, True])
def test_the_oracle_attains_its_figure(name, cue_visible):
    many = 64 * B
    env = make(name, many, cue_visible=cue_visible)
    env.reset()
    total, rows = torch.zeros(many, dtype=torch.float64), 1
    alive = torch.ones(many, dtype=torch.bool)
    while alive.any():
        total += env.step(env.oracle(env.state)).reward * alive
        rows += 1
        assert env.success(env.state)[env.ended & alive].all()
        alive &= ~env.ended
    error = total.std().item() / many**0.5  # nil where every episode is worth the same
    if env.spec.r_oracle is not None:  # None: too many layouts to work it out; there success is all that is asked
        assert total.mean().item() == pytest.approx(env.spec.r_oracle, abs=4 * error + 1e-6)
    assert env.spec.max_rows is None or rows <= env.spec.max_rows


@every
def test_max_rows(name):
    env = make(name)
    rows = stream(env, 3 * env.spec.max_rows)
    longest, length = 0, torch.zeros(B, dtype=torch.int64)
    for row in rows:
        length = torch.where(row.first, 1, length + 1)
        longest = max(longest, length.max().item())
    assert longest <= env.spec.max_rows


@every
def test_the_twin_shows_the_cue(name):
    env, twin = make(name), make(name, cue_visible=True)
    k = env.cue(env.state).shape[1]
    if env.obs_kind != "vector":
        differs = False
        for plain, shown in zip(stream(env), stream(twin), strict=True):
            assert same([plain[1:]], [shown[1:]]) and plain.obs.dtype == shown.obs.dtype
            differs |= not torch.equal(plain.obs, shown.obs)
        assert differs
        return
    assert twin.obs_shape == (*env.obs_shape[:-1], env.obs_shape[-1] + k)
    for plain, shown in zip(stream(env), stream(twin), strict=True):
        assert torch.equal(shown.obs[..., :-k], plain.obs)
        assert same([plain[1:]], [shown[1:]])
    assert torch.equal(shown.obs[..., -k:], twin.cue(twin.state))
    assert len(twin.cue(twin.state).unique(dim=0)) > 1


@every
def test_figures_are_in_order(name):
    spec = make(name).spec
    memory = [spec.r_random, spec.r0_memory, spec.r0_memory_last, spec.r_star, spec.r_oracle]
    for figures in (memory, [spec.r_random, spec.r0_credit, spec.r_star]):
        known = [figure for figure in figures if figure is not None]
        assert known == sorted(known)
    assert spec.memory_length is None or spec.memory_length >= 0
    assert spec.credit_length is None or spec.credit_length >= 1
    assert spec.chance is None or 0 <= spec.chance <= 1
    if spec.r0 is not None and spec.r_star is not None and spec.r_star > spec.r0:
        assert spec.score(spec.r0) == 0 and spec.score(spec.r_star) == 1


def test_truncation_keeps_the_discount():
    env = envs.make("tmaze_bakker", 4, corridor_length=3, step_limit=5)
    env.reset()
    for t in range(1, 6):
        row = env.step(torch.full((4,), 2))
        assert (row.discount == 1).all() and env.ended.all() == (t == 5)
    assert not env.success(env.state).any()
    assert env.step(torch.zeros(4, dtype=torch.int64)).first.all()


def test_termination_wins_over_truncation():
    env = envs.make("tmaze_bakker", 4, corridor_length=3, step_limit=4)
    env.reset()
    for _ in range(4):
        row = env.step(env.oracle(env.state))
    assert env.ended.all() and (row.discount == 0).all() and (row.reward == 4).all()


class Count(NamedTuple):
    n: torch.Tensor
    picture: torch.Tensor


class Counter(envs.Env):
    """Environment i lasts i + 1 steps; even ones terminate, odd ones are truncated, number 0 is both."""

    num_actions, action_names, obs_low, obs_high = 2, ("a", "b"), 0, 255

    def spawn(self):
        zero = torch.zeros(self.num_envs, dtype=torch.int64)
        return Count(zero, zero.to(torch.uint8).view(-1, 1, 1).expand(-1, 2, 3))

    def act(self, state, action):
        over = state.n == torch.arange(self.num_envs)
        even = torch.arange(self.num_envs) % 2 == 0
        picture = state.picture + action.to(torch.uint8).view(-1, 1, 1)
        return Count(state.n + 1, picture), action.float() + 1, over & even, over & (~even | (state.n == 0))

    def observe(self, state):
        return state.picture.clone()

    def success(self, state):
        return state.n > 0

    def oracle(self, state):
        return torch.ones_like(state.n)

    def cue(self, state):
        return torch.zeros(self.num_envs, 1)

    def describe(self):
        return envs.Spec(*[None] * 10)


def test_the_base_class_by_counting():
    env = Counter(4)
    assert env.obs_shape == (2, 3) and env.obs_dtype == torch.uint8
    length = [0] * 4
    first = [True] * 4
    for _ in range(40):
        row = env.step(torch.ones(4, dtype=torch.int64))
        for i in range(4):
            assert row.first[i] == first[i]
            length[i] = 0 if first[i] else length[i] + 1
            assert (row.obs[i] == length[i]).all() and env.state.n[i] == length[i]
            assert row.reward[i] == (0 if first[i] else 2)
            first[i] = length[i] == i + 1
            assert row.discount[i] == (0 if first[i] and i % 2 == 0 else 1)
    with pytest.raises(NotImplementedError, match="Counter has no renderer"):
        env.render()
    with pytest.raises(ValueError, match="num_envs must be an integer >= 1, got 0"):
        Counter(0)


def test_make_names_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'tmaze_passive'"):
        envs.make("tmaze_pasive", 2)
    with pytest.raises(ValueError, match="no argument 'corridor_lenght', did you mean 'corridor_length'"):
        envs.make("tmaze_active", 2, corridor_lenght=3)
    with pytest.raises(ValueError, match="tmaze_passive fixes oracle_length = 0"):
        envs.make("tmaze_passive", 2, oracle_length=1)
    assert envs.make("tmaze_active", 2).oracle_length == 1
    assert envs.make("tmaze_active", 2, oracle_length=5).oracle_length == 5


class TestGpu:
    pytestmark = gpu

    @every
    def test_no_sync(self, name):
        env = make(name, device="cuda")
        drawn = actions(env, 30)
        env.reset()
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            for action in drawn:
                env.step(action)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    @every
    def test_graph(self, name):
        env, eager = make(name, device="cuda"), make(name, device="cuda")
        drawn = actions(env, 40)
        action = torch.zeros(B, dtype=torch.int64, device="cuda")
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            for _ in range(3):
                env.step(action)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(env.generator)
        with torch.cuda.graph(graph):
            row = env.step(action)
        start = eager.state_dict()
        env.load_state_dict({k: v for k, v in start.items() if k != "generator"})
        for a in drawn:
            action.copy_(a)
            graph.replay()
            want = eager.step(a)
            went = [value.clone() for value in row]
            running = ~want.first
            assert torch.equal(went[4], want.first)
            assert torch.equal(went[3], want.discount) and torch.equal(went[1][running], a[running])
            eager.load_state_dict({k: v for k, v in env.state_dict().items() if k != "generator"})
