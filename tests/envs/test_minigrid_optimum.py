"""The figures of MiniGrid-Memory's spec sheets, each against play, closed form, or a computed certificate."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

import envs
from envs.minigrid_maze import make_maze
from envs.minigrid_optimum import figures, plan, sights, weighted_starts

SIZES = ("S7", "S9", "S11", "S13", "S13Random", "S17Random")
LEAKY = {("S7", 5), ("S7", 7), ("S9", 7), ("S13Random", 5), ("S13Random", 7), ("S17Random", 5), ("S17Random", 7)}
EVERY = [(size, V) for size in SIZES for V in (3, 5, 7)]
# Best expected returns with view 3 from an independent belief MDP, and its random play (1000 episodes of minigrid each).
R_STAR = dict(zip(SIZES, (0.9697, 0.9748, 0.9786, 0.9815, 0.9863, 0.9901), strict=True))
R_RANDOM = dict(zip(SIZES, ((0.236, 0.171), (0.252, 0.181), (0.278, 0.205), (0.295, 0.211), (0.315, 0.247),
                            (0.367, 0.258)), strict=True))  # fmt: skip


def make(size, V=3, count=1, **kwargs):
    if size.startswith("W"):
        return envs.make("minigrid_memory_long", count, width=int(size[1:]), agent_view_size=V, **kwargs)
    return envs.make("minigrid_memory", count, size=size, agent_view_size=V, **kwargs)


def from_every_start(size, V, **kwargs):
    """One environment for each start, standing on its first row; and how likely each start is."""
    starts = weighted_starts(make(size).maze, kwargs.get("start") != "first")
    env = make(size, V, len(starts), **kwargs)
    env.reset()
    env.state.place.copy_(torch.tensor(list(starts)))
    return env, torch.tensor(list(starts.values()), dtype=torch.float64) / sum(starts.values())


def play(env, choose):
    """Return and success of one episode each under `choose(observation, t) -> actions`."""
    total, won = torch.zeros(env.num_envs, dtype=torch.float64), torch.zeros(env.num_envs, dtype=torch.bool)
    alive, obs = torch.ones(env.num_envs, dtype=torch.bool), env.observation(env.state)
    for t in range(env.max_steps):
        row = env.step(choose(obs, t))
        obs = row.obs
        total += row.reward.double() * alive
        won |= env.success(env.state) & env.ended & alive
        alive &= ~env.ended
        if not alive.any():
            return total, won
    return total, won


@pytest.mark.parametrize("size", SIZES)
def test_figures_of_an_independent_computation(size):
    for actions, want in zip((3, 7), R_RANDOM[size], strict=True):
        spec = make(size, actions=actions).spec
        assert spec.r_star == pytest.approx(R_STAR[size], abs=5.1e-5)
        assert spec.r_random == pytest.approx(want, abs=4 * 0.44 / 1000**0.5)


@pytest.mark.parametrize("limit", [5, 10, 20, 22, 39])
def test_with_a_tight_step_limit_no_optimum_is_claimed_and_the_rest_is_played(limit):
    env, weight = from_every_start("S13", 3, max_steps=limit)
    spec = env.spec
    returns, won = play(env, lambda obs, t: env.oracle(env.state))
    assert spec.r_star is None and spec.credit_length is None and spec.score(0.3) is None
    assert spec.r_oracle == pytest.approx(float(weight @ returns)) and spec.r0_memory == spec.r_oracle / 2
    assert spec.chance == pytest.approx(float(weight @ won.double()) / 2)


def test_with_just_enough_steps_the_optimum_is_claimed():
    assert make("S13", max_steps=40).spec.r_star == pytest.approx(1 - 0.9 * 17.4 / 40)  # 1.8 times 22, the longest, is below


@pytest.mark.parametrize("kind", ["S35Random", "W300"])
def test_where_beliefs_are_too_many_the_optimum_is_left_out(kind):
    spec = make(kind).spec
    assert spec.r_star is None and 0.9 < spec.r_oracle < 1 and spec.memory_length > 30


class Follow:
    """Plays a plan from what it sees alone: the belief is its memory."""

    def __init__(self, env, best, seen):
        self.best, self.belief = best, None
        images = env._images.view(len(seen), -1).numpy()
        self.sight = {image.tobytes(): what for image, what in zip(images, seen.tolist(), strict=True)}
        if env.cue_visible:
            everywhere = env.state._replace(place=torch.arange(len(seen)))
            images = env.observation(everywhere).view(len(seen), -1).numpy()
            self.sight = {image.tobytes(): what for image, what in zip(images, seen.tolist(), strict=True)}

    def __call__(self, obs, t):
        seen = [self.sight[image.tobytes()] for image in obs.flatten(1).numpy()]
        if t == 0:
            self.belief = [self.best.first[what] for what in seen]
        else:  # where an episode is over, what follows does not matter
            self.belief = [self.best.after[b].get(what, b) for b, what in zip(self.belief, seen, strict=True)]
        return torch.from_numpy(self.best.action[self.belief])


@pytest.mark.parametrize(("size", "V"), [*EVERY, ("W12", 3), ("W12", 5)])
@pytest.mark.parametrize("twin", [False, True])
def test_a_policy_with_memory_attains_r_star(size, V, twin):
    env, weight = from_every_start(size, V, cue_visible=twin)
    seen = sights(env.maze, V, twin)[0]
    best = plan(env.maze, seen, weighted_starts(env.maze, True), env.max_steps)
    total, won = play(env, Follow(env, best, seen))
    assert won.all()
    assert (total @ weight).item() == pytest.approx(env.spec.r_star, abs=1e-7)
    assert total.min().item() == pytest.approx(1 - 0.9 * best.longest / env.max_steps, abs=1e-7)


@pytest.mark.parametrize("size", [*SIZES, "W12"])
def test_the_oracle_from_every_start(size):
    env, weight = from_every_start(size, 3)
    total, won = play(env, lambda obs, t: env.oracle(env.state))
    assert won.all() and (total @ weight).item() == pytest.approx(env.spec.r_oracle, abs=1e-7)
    end = env.maze.ends.unsqueeze(1)
    x = torch.arange(1, env.maze.starts.shape[1] + 1)
    shortest = torch.where(x <= end, end + 3 - x, 0)  # to the column of the objects, a turn, a step
    assert (env.maze.distance[env.maze.starts.clamp(min=0)] == shortest)[x <= end].all()


@pytest.mark.parametrize(("size", "V"), [(size, V) for size, V in EVERY if (size, V) not in LEAKY])
def test_a_blind_guess_attains_r0(size, V):
    """A memoryless policy: east until the wall, left, on."""
    env, weight = from_every_start(size, V)
    wall_ahead = torch.tensor([2, 5, 0], dtype=torch.uint8)

    def choose(obs, t):
        blocked = (obs[:, V // 2, V - 2] == wall_ahead).all(1)
        return torch.where(blocked, 0, 2)

    total, won = play(env, choose)
    assert (total @ weight).item() == pytest.approx(env.spec.r0_memory, abs=1e-7)
    assert (won.double() @ weight).item() == pytest.approx(env.spec.chance)


@pytest.mark.parametrize(("size", "V"), [*EVERY, ("S13", 9), ("S13", 11), ("W12", 9), ("W12", 11)])
def test_what_the_bound_on_memoryless_play_needs(size, V):
    """Past the hallway's end: entered by one move onto one place, and shown alike for both cues. Exactly there the
    published default leaks."""
    env = make(size, V)
    maze, (seen, _, _) = env.maze, sights(env.maze, V)
    W = maze.grids.shape[2]
    beyond = maze.cell % W > maze.ends[maze.layout]
    going = torch.arange(len(beyond)) < maze.counts[0]
    enters = (going & ~beyond).unsqueeze(1) & beyond[maze.moves]
    place, action = enters.nonzero().T
    assert (action == 2).all() and len(place) == len(maze.grids) == len(maze.layout[place].unique())
    alike = True
    for layout in range(0, len(maze.grids), 4):
        for top in (0, 1):
            rows = [torch.nonzero(beyond & going & (maze.layout == layout + cue * 2 + top))[:, 0] for cue in (0, 1)]
            assert torch.equal(maze.cell[rows[0]], maze.cell[rows[1]]) and len(rows[0]) == 4
            alike &= (seen[rows[0]] == seen[rows[1]]).all()
    assert alike == (env.spec.chance is not None)
    assert alike == (min(env.ends) >= V) and (V > 7 or alike == ((size, V) not in LEAKY))


def best_memoryless(env, iterations, seed):
    """Exact success rate within the limit of the best memoryless policy (a softmax per image) that gradient ascent
    finds, and its probabilities (P, 3)."""
    seen = torch.from_numpy(sights(env.maze, env.agent_view_size)[0])
    going, unfailed = env.maze.counts
    moves = env.maze.moves[:going]
    starts = weighted_starts(env.maze, True)
    weight = torch.tensor(list(starts.values()), dtype=torch.float64) / sum(starts.values())
    torch.manual_seed(seed)
    logits = torch.randn(int(seen.max()) + 1, 3, dtype=torch.float64).requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.1)
    stay, win = moves < going, (moves >= unfailed).double()
    for _ in range(iterations):
        p = logits.softmax(1)[seen[:going]]
        chain = torch.zeros(going, going, dtype=torch.float64)
        chain = chain.scatter_add(1, moves.where(stay, torch.zeros_like(moves)), p * stay)
        value = torch.linalg.solve(torch.eye(going, dtype=torch.float64) - 0.9995 * chain, (p * win).sum(1))
        loss = -(value[list(starts)] * weight).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    p, chain = p.detach(), chain.detach()
    state, success, total = torch.zeros(going, dtype=torch.float64), 0.0, 0.0
    state[list(starts)] = weight
    for t in range(1, env.max_steps + 1):
        now = (state @ (p * win).sum(1)).item()
        success, total = success + now, total + now * (1 - 0.9 * t / env.max_steps)
        state = state @ chain
    return success, total, logits.detach().softmax(1)[seen]


@pytest.mark.parametrize(("size", "V", "least"), [("S7", 7, 0.97), ("S9", 7, 0.97)])
def test_the_published_default_needs_no_memory(size, V, least):
    env = make(size, V)
    success, total, probabilities = max((best_memoryless(env, 400, seed) for seed in (0, 1)), key=lambda found: found[0])
    assert success > least and total > 0.84
    assert env.spec.r0_memory is None and env.spec.chance is None and env.spec.memory_length == 0
    many = make(size, V, 2_000)
    many.reset()
    generator = torch.Generator().manual_seed(0)
    _, won = play(many, lambda obs, t: torch.multinomial(probabilities[many.state.place], 1, generator=generator)[:, 0])
    assert won.double().mean().item() == pytest.approx(success, abs=4 * (success * (1 - success) / 2_000) ** 0.5)


@pytest.mark.parametrize(("size", "V"), [("S7", 3), ("S9", 5), ("S11", 7), ("S13", 3)])
def test_no_memoryless_policy_is_found_above_chance(size, V):
    env = make(size, V)
    success, total, _ = best_memoryless(env, 150, 0)
    assert success <= env.spec.chance + 1e-9 and total <= env.spec.r0_memory + 1e-9
    assert success > 0.4


def test_random_play():
    for size in ("S7", "W8"):
        env = make(size, count=4_000)
        env.reset()
        generator = torch.Generator().manual_seed(1)
        total, _ = play(env, lambda obs, t: torch.randint(3, (4_000,), generator=generator))  # noqa: B023
        assert total.mean().item() == pytest.approx(env.spec.r_random, abs=4 * total.std().item() / 4_000**0.5)


def test_lengths():
    for size in ("S7", "S9", "S11", "S13", "S13Random", "W20"):
        for V in (3, 5, 7):
            if (size, V) in LEAKY:
                continue
            spec = make(size, V).spec
            assert spec.memory_length == max(make(size).ends) + 3 - V + (V == 3)
            assert spec.credit_length > spec.memory_length
    for width in (10, 33):
        spec = make(f"W{width}", start="first").spec
        assert (spec.memory_length, spec.credit_length) == (width - 2, width - 1)
        assert spec.r_oracle == pytest.approx(1 - 0.9 * (width - 1) / (8 * width))
        assert spec.r_star == pytest.approx(1 - 0.9 * width / (8 * width))  # one look at the wrong object costs two turns
        assert make(f"W{width}", 5, start="first").spec.r_star == pytest.approx(spec.r_oracle)


def test_no_policy_of_the_history_is_better():
    """The smallest maze, by depth-first search over histories that bounds what it leaves out by the shortest way."""
    maze = make_maze(7, 7, (4,))
    seen = sights(maze, 3)[0].tolist()
    starts = weighted_starts(maze, True)
    going, unfailed = maze.counts
    moves, distance = maze.moves.tolist(), maze.distance.tolist()

    def split(places):
        groups = {}
        for p in places:
            groups.setdefault(seen[p], []).append(p)
        return groups.values()

    @cache
    def search(places, depth):
        """Least sum over the places, which look alike, of the steps to success: a lower bound, exact if deep enough."""
        best = bound = sum(distance[p] for p in places)
        if depth:
            best = float("inf")
            for action in range(3):
                after = [moves[p][action] for p in places]
                if not any(going <= p < unfailed for p in after):
                    groups = split(p for p in after if p < going)
                    best = min(best, len(places) + sum(search(tuple(sorted(g)), depth - 1) for g in groups))
        return max(best, bound)

    bounds = [sum(search(tuple(g), depth) for g in split(starts)) / len(starts) for depth in range(0, 14, 2)]
    assert bounds == sorted(bounds) and bounds[0] == 4.5
    assert bounds[-1] == pytest.approx(plan(maze, np.array(seen), starts, 245).steps) == 8.25


def test_figures_are_worked_out_once():
    arguments = ((13, 13), (10,), 845, 3, 3, True, False)
    assert figures(*arguments) is figures(*arguments)
    assert np.isclose(figures(*arguments).steps, 17.4)
