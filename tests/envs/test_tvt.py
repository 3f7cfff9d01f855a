"""The TVT tasks against a slow twin, and the figures of their spec sheets against exact computation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from published_tmaze import Histories
from slow_tvt import BLUE, GREEN, PLACES, RED, KeyDoor, Match, Passive
from tvt_policies import EAST, NORTH, WEST, ByLastAction, choose_seeing, fetch, in_sight

import envs
from envs.tvt import NOTHING, ORDERS

NAMES = ("passive_match", "active_match", "key_to_door")
COLOURS = {7: RED, 8: GREEN, 9: BLUE}
every = pytest.mark.parametrize("name", NAMES)
matches = pytest.mark.parametrize("name", NAMES[:2])


def make(name, num_envs, lengths=None, **kwargs):
    """With the least lengths that are allowed, and no apples, unless said otherwise."""
    lengths = lengths or {"passive_match": (1, 2, 9), "active_match": (10, 2, 9), "key_to_door": (8, 2, 2)}[name]
    phases = dict(zip(("explore_length", "distractor_length", "reward_length"), lengths, strict=True))
    return envs.make(name, num_envs, **{"apples": 0, "final_reward": 5.0, **phases, **kwargs})


def place(cell):
    return divmod(int(cell), 11)


def slow(env, i):
    """The slow twin of environment i, which stands on its first row."""
    s = type(env.state)(*(field[i].tolist() for field in env.state))
    lengths = (env.explore_length, env.distractor_length, env.reward_length)
    apples = [p for p, ripe in zip(PLACES, s.ripe) if ripe == 0]
    common = (lengths, place(s.cell), apples, s.worth, env.final_reward)
    if isinstance(env, envs.tvt.KeyToDoor):
        return KeyDoor(*common, key_at=place(s.key))
    kind = Passive if isinstance(env, envs.tvt.PassiveMatch) else Match
    return kind(*common, sign=place(s.sign), colours=tuple(COLOURS[c] for c in ORDERS[s.order]), goal=s.goal)


def pixels(obs):
    return [tuple(rgb) for rgb in obs.flatten(0, 1).tolist()]


@every
@pytest.mark.parametrize("lengths", [(10, 45, 15), (12, 0, 9), (10, 1, 20)])
@pytest.mark.parametrize("skill", [0.3, 0.85])
def test_follows_the_rules(name, lengths, skill):
    """`skill`: the share of the oracle's actions; the others are random. Two episodes in a row."""
    env = make(name, 12, lengths, apples=14, apple_reward=2.0, apple_reward_high=3.0, seed=5)
    rng = np.random.default_rng(1)
    row, won, gained = env.reset(), [], 0
    for _ in range(2):
        twins = [slow(env, i) for i in range(12)]
        for _ in range(sum(lengths)):
            for i, twin in enumerate(twins):
                assert pixels(row.obs[i]) == list(twin.obs), (i, twin.t)
                assert place(env.state.cell[i]) == twin.place
            best = env.oracle(env.state).numpy()
            action = np.where(rng.random(12) < skill, best, rng.integers(4, size=12))
            row = env.step(torch.from_numpy(action))
            for i, twin in enumerate(twins):
                reward, over, _ = twin.step(int(action[i]))
                assert (row.reward[i], env.ended[i], row.discount[i]) == (reward, over, not over)
                gained += reward in (2.0, 3.0)
        assert env.ended.all() and [pixels(obs) for obs in row.obs] == [list(twin.obs) for twin in twins]
        won += [twin.won for twin in twins]
        assert env.success(env.state).tolist() == won[-12:]
        row = env.step(torch.zeros(12, dtype=torch.int64))
        assert row.first.all()
    assert any(won) or skill < 0.5
    assert (gained > 0) == (lengths[1] > 1)


# Exact figures. Every case of an environment side by side, so a success rate is a probability.


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
    """Plays `policy(phase, state, last, colours) -> action`, a function of Python numbers, to the end.

    Checks that it is memoryless: where the observation (and the last action, if `sees_last`) is the same, so is the
    action. Returns (B,) successes and returns.
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


@matches
def test_the_last_action_alone_carries_the_colour(name):
    """R_star, and R0_memory_last is no less: attained in every case, in the shortest phases that are allowed."""
    script = ByLastAction()

    def policy(phase, s, last):
        if phase == 0:
            colour = COLOURS[ORDERS[s.order][s.goal]]
            return script.explore(name == "passive_match", place(s.cell), last, place(s.sign), colour)
        return script.orchard(last) if phase == 1 else script.choose(place(s.cell), last, colours_of(s, phase))

    env = all_cases(name)
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
    assert won.all() and (total == env.spec.r_star).all() and env.spec.chance == 1 and env.spec.memory_length == 0


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
    histories = Histories(gamma=0.99)
    start = worlds(Passive, (1, 0, 9), (2, 5), RED, sign=(1, 4))
    (belief,) = [b for _, b in histories.branches(start, NORTH)[1]]
    assert histories.credit_length(belief) == make("passive_match", 1).spec.credit_length == 5
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
        (belief,) = [(sim,) for sim in sims if sim.colours == (RED, GREEN, BLUE)]
        q = histories.q(belief)
        best[colour] = {a for a in range(4) if q[a] > max(q) - 1e-9}
    assert WEST in best[RED] - best[GREEN] - best[BLUE] and EAST in best[BLUE] & best[GREEN] - best[RED]
    for D in (0, 7):
        spec = make("passive_match", 1, (5, D, 9)).spec
        assert spec.memory_length == make("active_match", 1, (10, D, 9)).spec.memory_length == (5 + D + 3) - (5 - 1)


@pytest.mark.parametrize("D", [0, 2])
def test_credit_length_of_the_last_chance(D):
    """Next to the key on phase 1's last step; and where one step shows the colour on phase 1's last row."""
    key = (KeyDoor((1, D, 2), (3, 5), key_at=(2, 5)),)
    assert Histories(0.99).credit_length(key) == make("key_to_door", 1, (8, D, 2)).spec.credit_length == D + 3


@pytest.mark.parametrize("D", [0, 1])
def test_credit_length_of_the_last_look(D):
    histories = Histories(0.99)
    look = worlds(Match, (2, D, 9), (4, 4), sign=(1, 2))
    assert len({sim.obs for sim in look}) == 1  # not yet in sight
    q = histories.q(look)
    assert q[NORTH] > max(q[1:]) + 0.1
    n = 1
    while any(histories.n_step(look, NORTH, n) <= histories.n_step(look, a, n) + 1e-9 for a in (1, 2, 3)):
        n += 1
    assert n == make("active_match", 1, (10, D, 9)).spec.credit_length == D + 9


# Draws, apples, arguments, the twin's picture, frames.


def even(counts, total):
    p = 1 / len(counts)
    assert (counts - total * p).abs().max() <= 5 * (total * p * (1 - p)) ** 0.5, counts


@every
def test_draws_are_fair(name):
    B = 4000
    env = make(name, B, apples=9, apple_reward_high=4.0)
    env.reset()
    s, room = env.state, env.areas[0]
    even(torch.bincount(s.cell)[list(room.starts)], B)
    apples = s.ripe == 0
    assert (apples.sum(1) == 9).all() and not apples[:, -1].any()
    share = apples[:, :-1].double().mean(0)
    assert (share - 9 / 22).abs().max() < 5 * (9 / 22 * 13 / 22 / B) ** 0.5
    pairs = apples[:, :-1].double().T @ apples[:, :-1].double() / B  # any two places: 9/22 8/21
    off = pairs[~torch.eye(22, dtype=torch.bool)]
    assert (off - 9 * 8 / 22 / 21).abs().max() < 5 * (0.156 * 0.844 / B) ** 0.5
    even(torch.stack([(s.worth == 1).sum(), (s.worth == 4).sum()]), B)
    if name == "key_to_door":
        return even(torch.bincount(s.key)[list(room.marks)], B)
    even(torch.bincount(s.sign)[list(room.marks)], B)
    even(torch.bincount(3 * s.order + s.goal, minlength=18), B)
    return None


def test_within_an_environment_a_colour_is_no_position():
    env = make("passive_match", 6, (1, 0, 9))
    pairs = [set() for _ in range(6)]
    for _ in range(14):
        env.reset()
        for i, (colour, goal) in enumerate(zip(env.cue(env.state).argmax(1).tolist(), env.state.goal.tolist())):
            pairs[i].add((colour, goal))
    assert all(len(p) > 3 for p in pairs)


@every
def test_the_twin_shows_the_cue_in_the_middle_pixel(name):
    plain, twin = (make(name, 32, seed=2, cue_visible=c) for c in (False, True))
    a, b = plain.reset(), twin.reset()
    for _ in range(15):
        outside = torch.arange(25) != 12
        assert (a.obs.flatten(1, 2)[:, outside] == b.obs.flatten(1, 2)[:, outside]).all()
        assert (b.obs[:, 2, 2].float() - 255 * twin.cue(twin.state)).abs().max() < 0.5
        a, b = (env.step(env.oracle(env.state)) for env in (plain, twin))


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("passive_match", {"explore_length": 0}, "explore_length must be an integer >= 1, got 0"),
        ("active_match", {"explore_length": 9}, "explore_length must be an integer >= 10, got 9"),
        ("key_to_door", {"reward_length": 1}, "reward_length must be an integer >= 2"),
        ("passive_match", {"reward_length": 8}, "reward_length must be an integer >= 9"),
        ("passive_match", {"distractor_length": -1}, "distractor_length must be an integer >= 0"),
        ("passive_match", {"apples": 23}, "apples must be at most 22, got 23"),
        ("passive_match", {"apple_reward_high": float("inf")}, "apple_reward_high must be a finite number, got inf"),
        ("passive_match", {"final_reward": 0}, "final_reward must be positive, got 0"),
    ],
)
def test_arguments_are_checked(name, kwargs, message):
    with pytest.raises(ValueError, match=message) as error:
        envs.make(name, 2, **kwargs)
    assert "\n" not in str(error.value)


@every
def test_frames(name):
    env = make(name, 2, (10, 4, 9), apples=10)
    env.reset()
    before, seen = [field.clone() for field in env.state], set()
    for t in range(24):
        frames = env.render()
        assert frames.dtype == np.uint8 and frames.shape[0] == 2 and frames.shape[3] == 3 and frames.std() > 10
        assert frames.shape[1] % 2 == frames.shape[2] % 2 == 0
        assert t % 8 or (env.render([1, 0]) == frames[::-1]).all()
        assert t or all(torch.equal(x, y) for x, y in zip(before, env.state, strict=True))
        seen.add(frames[0].tobytes())
        if t < 23:
            env.step(env.oracle(env.state))
    assert len(seen) == 24 and env.success(env.state).all()
    if name == "key_to_door":
        env.state.opened.fill_(False)
    else:
        env.state.touched.fill_(NOTHING)
    assert (env.render() != frames).any((1, 2, 3)).all()  # a lost episode looks otherwise
