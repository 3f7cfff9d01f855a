"""The TVT tasks: the figures of their spec sheets, by play of every case, exact walks and values over histories."""

from __future__ import annotations

import itertools

import pytest
import torch
from exact import Episodes, Optimal, equally
from slow_tvt import BLUE, CHOICE, GREEN, HALL, OBJECTS, RED, ROOMS, KeyDoor, Match, Passive, block, ring
from test_tvt import COLOURS, NAMES, every, make, place
from tvt_policies import EAST, NORTH, WEST, ByLastAction, choose_seeing, fetch, in_sight, neighbour, visible

import envs
from envs.tvt import NOTHING, ORDERS

matches = pytest.mark.parametrize("name", NAMES[:2])


# Every case of an environment side by side, so a success rate is a probability.


def all_cases(name, **kwargs):
    """An environment on its first row, with one case of everything that is drawn for each of its B environments."""
    model = make(name, 1, **kwargs)
    areas = model.areas[0]
    if name == "key_to_door":
        fields, cases = ("cell", "key"), list(itertools.product(areas.starts, areas.marks))
    else:
        fields = ("cell", "sign", "order", "goal")
        cases = list(itertools.product(areas.starts, areas.marks, range(6), range(3)))
    env = make(name, len(cases), **kwargs)
    env.reset()
    for field, column in zip(fields, zip(*cases, strict=True), strict=True):
        getattr(env.state, field).copy_(torch.tensor(column))
    return env


def play(env, policy, sees_last):
    """Plays `policy(phase, state, last) -> action`, a function of Python numbers, to the end: (B,) successes and returns.

    Checks that it is memoryless: where the observation (and the last action, if `sees_last`) is the same, so is the action.
    """
    E, D = env.explore_length, env.distractor_length
    total, last, found = torch.zeros(env.num_envs), [-1] * env.num_envs, {}
    obs = env.observation(env.state)
    for t in range(env.episode_length):
        phase = (t >= E) + (t >= E + D)
        states = [type(env.state)(*s) for s in zip(*(field.tolist() for field in env.state), strict=True)]
        action = [policy(phase, s, a) for s, a in zip(states, last, strict=True)]
        for seen, a, now in zip(obs.flatten(1).numpy(), last, action, strict=True):
            context = (seen.tobytes(), a) if sees_last else seen.tobytes()
            assert found.setdefault(context, now) == now
        row = env.step(torch.tensor(action))
        obs, last = row.obs, action
        total += row.reward
    assert env.ended.all()
    return env.success(env.state), total


def colours_of(state, phase):
    """Of the three objects in sight."""
    shown = phase == 2 and state.touched == NOTHING
    return in_sight(place(state.cell), [COLOURS[c] for c in ORDERS[state.order]] if shown else None)


@pytest.mark.parametrize(("name", "lengths"), [("passive_match", (1, 0, 9)), ("passive_match", (3, 7, 9)),
                                              ("active_match", (10, 7, 9))])  # fmt: skip
def test_the_last_action_alone_carries_the_colour(name, lengths):
    """R_star, and R0_memory_last is no less: attained in every case, in the shortest phases that are allowed."""
    script = ByLastAction()

    def policy(phase, s, last):
        if phase == 0:
            colour = COLOURS[ORDERS[s.order][s.goal]]
            return script.explore(name == "passive_match", place(s.cell), last, place(s.sign), colour)
        return script.orchard(last) if phase == 1 else script.choose(place(s.cell), last, colours_of(s, phase))

    env = all_cases(name, lengths=lengths)
    won, total = play(env, policy, sees_last=True)
    assert won.all() and (total == env.spec.r_star).all() and env.spec.r0_memory_last == env.spec.r_star == 5


@matches
def test_the_twin_needs_no_memory(name):
    def policy(phase, s, last):
        colour = COLOURS[ORDERS[s.order][s.goal]]
        return choose_seeing(place(s.cell), colour, colours_of(s, phase)) if phase == 2 else NORTH

    env = all_cases(name, cue_visible=True)
    won, total = play(env, policy, sees_last=False)
    assert won.all() and (total == env.spec.r_star).all() and env.spec.chance == 1
    assert env.spec.memory_length == 0 and env.spec.r0_memory is None


@pytest.mark.parametrize("cue_visible", [False, True])
def test_the_key_needs_no_memory(cue_visible):
    def policy(phase, s, last):
        return fetch(place(s.cell), place(s.key) if s.picked < 0 else None) if phase == 0 else NORTH

    env = all_cases("key_to_door", cue_visible=cue_visible)
    won, total = play(env, policy, sees_last=False)
    assert won.all() and (total == env.spec.r_star).all() and env.spec.memory_length == 0
    assert env.spec.chance == env.spec.r0_credit / env.spec.r_star  # the key by luck, the door by skill


@matches
def test_fixed_colours_are_positions(name):
    """Drawn anew they are all six orders; fixed, the goal alone says where to go, and without it no policy knows."""
    fixed, drawn = (envs.make(name, 600, fixed_colours=choice, seed=3) for choice in (True, False))
    for env in (fixed, drawn):
        env.reset()
    assert (fixed.state.order == 0).all() and len(set(drawn.state.order.tolist())) == len(ORDERS)
    assert torch.equal(torch.bincount(fixed.state.goal) > 100, torch.ones(3, dtype=torch.bool))
    assert fixed.spec == drawn.spec


@every
def test_the_oracle_wins_every_case(name):
    for lengths in (None, (12, 9, 12)):
        env = all_cases(name, lengths=lengths)
        total = torch.zeros(env.num_envs)
        while not env.ended.any():
            total += env.step(env.oracle(env.state)).reward
        assert env.success(env.state).all() and (total == env.spec.r_oracle).all()


@matches
def test_no_memoryless_policy_beats_r0(name):
    """Without memory, what is done after phase 1 cannot depend on the right colour: the rows are the same whichever it is,
    for the same actions; and these touch one object, which is right for one colour of three."""
    orders, goals, many = 6, 3, 200
    env = make(name, orders * goals * many, (10, 3, 15), apples=10)
    env.reset()
    grid = torch.cartesian_prod(torch.arange(orders), torch.arange(goals), torch.arange(many))
    env.state.order.copy_(grid[:, 0]), env.state.goal.copy_(grid[:, 1])
    same = grid[:, 0] * many + grid[:, 2]  # alike but for the goal
    for field in (env.state.cell, env.state.sign, env.state.ripe):
        field.copy_(field[same])
    generator = torch.Generator().manual_seed(0)
    for t in range(28):
        action = torch.randint(4, (orders * many,), generator=generator)
        up = torch.arange(orders * many) % 2 == 0  # half of them go up in phase 3, which leads to an object
        action = torch.where(up & (t >= 13), NORTH, action)
        row = env.step(action[same])
        if t + 1 >= 10:
            assert (row.obs.view(orders, goals, many, -1) == row.obs.view(orders, goals, many, -1)[:, :1]).all()
    won = env.success(env.state).view(orders, goals, many).sum(1)
    touched = (env.state.touched != NOTHING).view(orders, goals, many)
    assert (won == touched[:, 0]).all() and (won.view(-1)[::2] == 1).all()
    spec = make(name, 1).spec
    assert spec.r0_memory == 5 / 3 and spec.chance == 1 / 3 and make(name, 1, apples=1).spec.chance == 1 / 3


def within(found, want):
    """The mean of independent values is the expected one, within five standard errors."""
    found = torch.as_tensor(found).double()
    error = found.std().item() / len(found) ** 0.5
    assert abs(found.mean().item() - want) < 5 * error, (found.mean().item(), want, error)


def walk(floor, starts, goals, steps):
    """Probability that a random walk from a random start meets `goals` within `steps` moves; place by place."""
    p, met = dict.fromkeys(starts, 1 / len(starts)), 0.0
    for t in range(steps + 1):
        met += sum(q for here, q in p.items() if here in goals)
        after = {}
        for here, q in p.items():
            for action in range(4 if here not in goals and t < steps else 0):
                to = neighbour(here, action)
                to = to if to in floor else here
                after[to] = after.get(to, 0.0) + q / 4
        p = after
    return met


def test_random_walks_are_exact():
    lower, upper = block(4, 5, 3, 7), block(1, 2, 3, 7)
    touch = walk(CHOICE, [(5, 5)], OBJECTS, 15)
    assert make("passive_match", 1, (15, 5, 15)).spec.r_random == pytest.approx(5 * touch / 3)
    seen = [walk(ROOMS, lower, {p for p in ROOMS if visible(p, sign)}, 11 - 1) for sign in ring(ROOMS)]
    spec = make("active_match", 1, (11, 5, 15)).spec
    assert spec.r0_credit == pytest.approx(5 * (1 / 3 + 2 / 3 * sum(seen) / 26))
    assert spec.r_random == pytest.approx(5 * touch / 3)
    found = sum(walk(ROOMS, lower, {key}, 15) for key in upper) / 10
    spec = make("key_to_door", 1, (15, 5, 10)).spec
    assert spec.r0_credit == pytest.approx(5 * found)
    assert spec.r_random == pytest.approx(5 * found * walk(HALL | {(1, 5)}, [(3, 5)], {(1, 5)}, 10))


def random_play(env, seed=3):
    """Returns, successes, and whether the right colour was in sight in phase 1, of one random episode each."""
    generator = torch.Generator().manual_seed(seed)
    row, total, seen = env.reset(), torch.zeros(env.num_envs), torch.zeros(env.num_envs, dtype=torch.bool)
    for t in range(env.episode_length):
        if t < env.explore_length:
            seen |= (row.obs == (env.cue(env.state) * 255).view(-1, 1, 1, 3)).all(-1).flatten(1).any(1)
        row = env.step(torch.randint(4, (env.num_envs,), generator=generator))
        total += row.reward
    assert env.ended.all()
    return total, env.success(env.state), seen


@pytest.mark.parametrize(
    ("name", "lengths", "kwargs"),
    [
        ("passive_match", (1, 0, 15), {}), ("passive_match", (1, 50, 9), {"apples": 10}),
        ("active_match", (15, 0, 20), {}), ("key_to_door", (15, 0, 10), {}),
        ("key_to_door", (15, 30, 10), {"apples": 22, "apple_reward_high": 10.0}),
    ],
)  # fmt: skip
def test_random_figures(name, lengths, kwargs):
    env = make(name, 6000, lengths, **kwargs)
    total, won, seen = random_play(env)
    within(total, env.spec.r_random)
    if kwargs:
        assert env.spec.r_oracle is env.spec.r_star is env.spec.r0_credit is env.spec.score(3.0) is None
    elif name == "active_match":
        within(5 * torch.where(seen, 1.0, 1 / 3), env.spec.r0_credit)
    elif name == "key_to_door":
        within(5.0 * (env.state.picked >= 0), env.spec.r0_credit)
        within(5.0 * won, env.spec.r_random)


def worlds(kind, lengths, start, colour=None, **fixed):
    """Episodes that differ in the order of the colours and in the goal; those with the given right colour only."""
    cases = itertools.product(itertools.permutations((RED, GREEN, BLUE)), range(3))
    cases = [(c, g) for c, g in cases if colour in (None, c[g])]
    return tuple(kind(lengths, start, colours=c, goal=g, **fixed) for c, g in cases)


def test_credit_and_memory_of_the_choice():
    """c: from phase 3's start, the right colour known, with a discount. m: an outer object is seen on its row 3 at the
    soonest; there the best policy can turn by the colour, for good."""
    start = worlds(Passive, (1, 0, 9), (2, 5), RED, sign=(1, 4))
    exact = Optimal(Episodes(start), gamma=0.99)
    (belief,) = [b for _, b in exact.branches(equally(start), NORTH)[1]]
    assert exact.credit(belief) == make("passive_match", 1).spec.credit_length == 5
    for walk in itertools.product(range(4), repeat=2):
        (sim, *_) = worlds(Passive, (1, 0, 9), (2, 5), RED, sign=(1, 4))
        for action in (NORTH, *walk):
            sim.step(action)
        assert not {RED, GREEN, BLUE} & set(sim.obs) or sim.place == (3, 5)  # from there only the middle one shows
    best = {}
    for colour in (RED, GREEN, BLUE):
        sims = worlds(Passive, (1, 0, 9), (2, 5), colour, sign=(1, 4))
        for action, sim in itertools.product((NORTH, NORTH, NORTH, WEST), sims):
            sim.step(action)
        (sim,) = [sim for sim in sims if sim.colours == (RED, GREEN, BLUE)]
        q = exact.full(sim)
        best[colour] = {a for a in range(4) if q[a] > max(q) - 1e-9}
    assert WEST in best[RED] - best[GREEN] - best[BLUE] and EAST in best[BLUE] & best[GREEN] - best[RED]
    for D in (0, 7):
        spec = make("passive_match", 1, (5, D, 9)).spec
        assert spec.memory_length == make("active_match", 1, (10, D, 9)).spec.memory_length == (5 + D + 3) - (5 - 1)


@pytest.mark.parametrize("D", [0, 2])
def test_credit_length_of_the_last_chance(D):
    """Next to the key on phase 1's last step; and where one step shows the colour on phase 1's last row."""
    key = (KeyDoor((1, D, 2), (3, 5), key_at=(2, 5)),)
    assert Optimal(Episodes(key), 0.99).credit_length() == make("key_to_door", 1, (8, D, 2)).spec.credit_length == D + 3


@pytest.mark.parametrize("D", [0, 1])
def test_credit_length_of_the_last_look(D):
    look = worlds(Match, (2, D, 9), (4, 4), sign=(1, 2))
    assert len({sim.obs for sim in look}) == 1  # not yet in sight
    exact, look = Optimal(Episodes(look), 0.99), equally(look)
    q = exact.q(look)
    assert q[NORTH] > max(q[1:]) + 0.1
    n = 1
    while any(exact.n_step(look, NORTH, n) <= exact.n_step(look, a, n) + 1e-9 for a in (1, 2, 3)):
        n += 1
    assert n == make("active_match", 1, (10, D, 9)).spec.credit_length == D + 9
