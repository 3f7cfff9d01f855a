"""The figures of the spec sheets of the noisy, rewriting, multi-cue and delayed T-mazes, computed exactly on small
instances (`tabular.py`) and by simulation on the levels that are played."""

from __future__ import annotations

import pytest
import torch
from tabular import Tabular

import envs
from configs import load_config


def noisy_draws(slip, distractors):
    """What NoisyTMaze's torch.rand can give, as far as it matters at sigma = 0: the slip, and one bit at most."""
    bits = [[]] if distractors == 0 else [[0.2], [0.8]]
    kept = [(slip, slip / 2), (1 - slip, (1 + slip) / 2)] if slip else [(1.0, 0.5)]
    return [(p / len(bits), [0.0, u, 0.0, *b]) for p, u in kept for b in bits]


def noisy(**kwargs):
    kwargs = {"sigma": 0.0, "distractors": 0, "slip": 0.0, **kwargs}
    return "tmaze_noisy", kwargs, noisy_draws(kwargs["slip"], kwargs["distractors"])


def at_junction(name):
    """The contexts of the junction: there a memoryless agent needs the bit."""
    return (lambda seen: seen[:3] == (0, 1, 0)) if name == "tmaze_noisy" else (lambda seen: seen[0] == 1)


rewrite, multicue, delayed = "tmaze_rewrite", "tmaze_multicue", "tmaze_delayed"
SMALL = [
    noisy(corridor_length=1, step_limit=4),
    noisy(corridor_length=2, step_limit=5, slip=0.25, distractors=1),
    noisy(corridor_length=3, step_limit=8, slip=0.4),
    (rewrite, {"corridor_length": 1, "corridors": 2, "step_cost": 0.15, "step_limit": 11}, ()),
    (rewrite, {"corridor_length": 2, "corridors": 2, "step_cost": 0.2, "step_limit": 12, "min_length": 1}, ()),
    (rewrite, {"corridor_length": 2, "corridors": 3, "step_cost": 0.1, "step_limit": 13, "wrong_turn_cost": 0.4}, ()),
    (rewrite, {"corridor_length": 2, "corridors": 2, "step_cost": 0.0, "step_limit": 8, "show_position": False}, ()),
    (multicue, {"corridor_length": 1, "cues": 1, "step_limit": 12}, ()),
    (multicue, {"corridor_length": 1, "cues": 2, "step_cost": 0.4, "step_limit": 11}, ()),
    (multicue, {"corridor_length": 2, "cues": 2, "step_cost": 0.4, "step_limit": 12}, ()),
    (delayed, {"corridor_length": 1, "delay": 0}, ()),
    (delayed, {"corridor_length": 2, "delay": 3}, ()),
    (delayed, {"corridor_length": 3, "delay": 1, "sigma": 0.5}, ()),
]
LARGER = [
    noisy(corridor_length=5, step_limit=20, slip=0.2, distractors=1),
    (rewrite, {"corridor_length": 3, "corridors": 3, "step_cost": 0.1}, ()),
    (rewrite, {"corridor_length": 3, "corridors": 3, "step_cost": 0.1, "min_length": 1}, ()),
    (multicue, {"corridor_length": 2, "cues": 3}, ()),
    (delayed, {"corridor_length": 6, "delay": 4, "sigma": 1.0}, ()),
]


def certify(name, kwargs, draws, last):
    """Bounds from below and above on the best memoryless return: they meet at the sheet's figure."""
    spec = envs.make(name, 1, **kwargs).spec
    table = Tabular(envs.make(name, 64, **kwargs), last, draws)
    r0 = spec.r0_memory_last if last else spec.r0_memory
    assert table.search(starts=12, steps=30, sweeps=1, seed=1) == pytest.approx(r0, abs=1e-6)
    assert table.relaxed(at_junction(name), starts=12, steps=30) == pytest.approx(r0, abs=1e-6)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(("name", "kwargs", "draws"), SMALL)
def test_the_best_memoryless_return(name, kwargs, draws, last):
    certify(name, kwargs, draws, last)


@pytest.mark.slow
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(("name", "kwargs", "draws"), LARGER)
def test_the_best_memoryless_return_of_larger_ones(name, kwargs, draws, last):
    certify(name, kwargs, draws, last)


@pytest.mark.parametrize(("name", "kwargs", "draws"), SMALL)
def test_other_figures(name, kwargs, draws):
    table, spec = Tabular(envs.make(name, 64, **kwargs), uniform=draws), envs.make(name, 1, **kwargs).spec
    assert table.uniform() == pytest.approx(spec.r_random, abs=1e-7)
    assert table.full_information() == pytest.approx(spec.r_oracle) and spec.r_oracle == spec.r_star
    if spec.credit_length is not None:
        assert table.credit_length(0.99) == spec.credit_length
    twin = envs.make(name, 64, cue_visible=True, **kwargs)
    table = Tabular(twin, uniform=draws)
    assert table.search(starts=8, steps=30, sweeps=1) == pytest.approx(twin.spec.r_star, abs=1e-6)
    assert twin.spec.r0_memory is twin.spec.r0_memory_last is None and twin.spec.memory_length == 0


@pytest.mark.parametrize(
    ("name", "kwargs", "last"),
    [
        (rewrite, {"corridor_length": 2, "corridors": 2, "step_cost": 0.01, "step_limit": 12}, False),
        (multicue, {"corridor_length": 2, "cues": 1, "step_cost": 0.02, "step_limit": 6}, True),
    ],
)
def test_where_truncation_is_cheap_it_pays_to_refuse(name, kwargs, last):
    """An agent without memory can serve one cue and wait for the end at the other, so no figure is given."""
    env = envs.make(name, 64, **kwargs)
    assert env.spec.r0_memory is env.spec.r0_memory_last is None
    assert Tabular(env, last).search(starts=8, steps=30, sweeps=1) > 0.3


def test_a_choice_at_once_needs_credit_alone():
    env = envs.make(delayed, 64, corridor_length=0, delay=3, sigma=1.0)
    assert (env.spec.memory_length, env.spec.credit_length, env.spec.chance) == (0, 4, 0.5)
    assert env.spec.r0_memory is env.spec.r0_memory_last is None and env.spec.r0 == env.spec.r0_credit == 0.5
    assert Tabular(env).search(starts=8, steps=20, sweeps=1) == pytest.approx(1)


@pytest.mark.parametrize(("L", "D"), [(0, 2), (2, 1), (2, 0)])
def test_without_credit_the_choice_is_even(L, D):
    """No return over fewer than D + 1 steps tells one arm from the other: walking on and either arm is all that is learned."""
    env = envs.make(delayed, 64, corridor_length=L, delay=D)
    table = Tabular(env)
    even = torch.zeros(1, len(table.contexts), 4, dtype=torch.float64)
    for seen, k in table.contexts.items():
        even[0, k, [1, 3] if seen[0] == 1 or L == 0 else 0] = 1
    even /= even.sum(-1, keepdim=True)
    assert table.value(even).item() == pytest.approx(0.5)
    assert env.spec.r0_credit == (0.5 if D else None)  # with D = 0 the choice's own reward tells


def test_random_returns_in_closed_form():
    """With time enough: a corridor of length l wastes 2 l steps, and a turn is right once in three."""
    l, K = 6, 4
    once = -1 / 3 - 2 * l * 0.05
    made = envs.make(multicue, 1, corridor_length=l, cues=K, step_cost=0.05, step_limit=5000)
    assert made.spec.r_random == pytest.approx(K * once, abs=1e-10)
    made = envs.make(rewrite, 1, corridor_length=l, corridors=K, step_cost=0.05, step_limit=5000)
    assert made.spec.r_random == pytest.approx(sum(once / 3**k for k in range(K)), abs=1e-10)
    made = envs.make(rewrite, 1, corridor_length=l + 2, min_length=l - 2, corridors=K, step_cost=0.05, step_limit=5000)
    assert made.spec.r_random == pytest.approx(sum(once / 3**k for k in range(K)), abs=1e-10)


class Script:
    """A policy with memory that sees the observation only: for B environments, what they remember, and for how long."""

    def __init__(self, name, env):
        self.name, self.env, self.t = name, env, 0
        self.held = [[] for _ in range(env.num_envs)]  # (cue, row on which it was seen), oldest first
        self.ages = []

    def act(self, i, seen):
        cue, junction = None, seen[0] == 1
        if self.name == "tmaze_noisy":
            junction = seen[:3] == [0, 1, 0]
            cue = {(0, 1, 1): 1, (1, 1, 0): -1}.get(tuple(seen[:3]))
        elif seen[1]:
            cue = seen[1]
        if cue is not None:
            if self.name == "tmaze_rewrite":
                self.held[i].clear()  # the old one is of no use any more
            self.held[i].append((cue, self.t))
        if self.env.corridor_length == 0:  # the choice comes with the cue
            junction = cue is not None
        if not junction or not self.held[i]:
            return 0
        cue, row = self.held[i].pop(0)
        self.ages.append(self.t - row)
        if self.name in ("tmaze_noisy", "tmaze_delayed"):
            return 1 if cue > 0 else 3
        return 2 if cue > 0 else 1

    def play(self):
        """Returns and successes of one episode each, and its rows."""
        env = self.env
        seen, alive = env.reset().obs, torch.ones(env.num_envs, dtype=torch.bool)
        total, won = torch.zeros(env.num_envs, dtype=torch.float64), torch.zeros_like(alive)
        while alive.any():
            action = torch.tensor([self.act(i, s) if a else 0 for i, (s, a) in enumerate(zip(seen.tolist(), alive))])
            row = env.step(action)
            total += row.reward * alive
            won |= env.success(env.state) & env.ended & alive
            alive &= ~env.ended
            seen, self.t = row.obs, self.t + 1
        return total, won


CASES = [
    ("tmaze_noisy", {"corridor_length": 5, "sigma": 1.0}),
    ("tmaze_noisy", {"corridor_length": 6, "sigma": 0.5, "slip": 0.4, "step_limit": 14}),
    (rewrite, {"corridor_length": 4, "corridors": 3}),
    (rewrite, {"corridor_length": 6, "corridors": 4, "min_length": 2, "show_position": False}),
    (multicue, {"corridor_length": 1, "cues": 3}),
    (multicue, {"corridor_length": 4, "cues": 3}),
    (delayed, {"corridor_length": 0, "delay": 4}),
    (delayed, {"corridor_length": 7, "delay": 3, "sigma": 0.5}),
]


@pytest.mark.parametrize(("name", "kwargs"), CASES)
def test_a_script_with_memory_attains_the_optimum(name, kwargs):
    env = envs.make(name, 256, **kwargs)
    script = Script(name, env)
    total, won = script.play()
    error = total.std().item() / 16
    assert total.mean().item() == pytest.approx(env.spec.r_star, abs=5 * error + 1e-6)
    if kwargs.get("slip"):  # some run out of time, and the way takes longer
        assert (~won).any() and abs(won.double().mean() - env.spec.r_star / 4) < 5 * 0.5 / 16
        assert min(script.ages) == 6 < sum(script.ages) / len(script.ages) < env.spec.memory_length == 10
    else:
        assert won.all() and max(script.ages) == env.spec.memory_length
        assert error == 0 or kwargs.get("sigma") == 0.5


LEVELS = [f"{n}-{level}" for n in ("tmaze_noisy", rewrite, multicue, delayed) for level in ("easy", "medium", "hard", "xl")]


@pytest.mark.parametrize("level", LEVELS)
def test_every_level_has_its_figures(level):
    config = load_config([f"env={level}"], ("ur-lstm",)).env
    kwargs = {key: value for key, value in vars(config).items() if key != "name"}
    spec = envs.make(config.name, 1, **kwargs).spec
    assert spec.r_random < spec.r0 < spec.r_star and spec.score(spec.r_star) == 1
    if config.name != "tmaze_delayed":
        assert spec.r0_memory == spec.r0_memory_last == pytest.approx(1.95 if "noisy" in level else 0)
    if "xl" in level or "hard" in level:
        return
    env = envs.make(config.name, 1024, **kwargs)
    env.reset()
    total, alive = torch.zeros(1024, dtype=torch.float64), torch.ones(1024, dtype=torch.bool)
    generator = torch.Generator().manual_seed(0)
    while alive.any():
        total += env.step(torch.randint(env.num_actions, (1024,), generator=generator)).reward * alive
        alive &= ~env.ended
    assert abs(total.mean().item() - spec.r_random) < 5 * total.std().item() / 32 + 1e-6
