"""Diagnostic tasks against slow twins, step by step, and the figures of their spec sheets against exact values."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from exact import Memoryless, Optimal
from scipy import stats
from slow_twins import (
    AutoencodeTwin,
    CatchTwin,
    CopyTwin,
    CountTwin,
    DiscountingTwin,
    FirstTwin,
    MemoryTwin,
    RepeatTwin,
    TrackingTwin,
    UmbrellaTwin,
)

import envs

TASKS = tuple(TrackingTwin.tasks)


def memory(n, b, quirk):
    return "memory_chain", {"memory_length": n, "num_bits": b, "bsuite_quirk": quirk}, MemoryTwin(n, b, quirk)


def umbrella(n, d, hidden):
    return "umbrella_chain", {"chain_length": n, "distractors": d, "hidden": hidden}, UmbrellaTwin(n, d, hidden)


def discounting(seed):
    return "discounting_chain", {"mapping_seed": seed}, DiscountingTwin(seed)


def repeat(n, k, again):
    return "repeat_previous", {"deck_size": n, "k": k, "replacement": again}, RepeatTwin(n, k, again)


def first(n, again):
    return "repeat_first", {"deck_size": n, "replacement": again}, FirstTwin(n, again)


def autoencode(n, again):
    return "autoencode", {"deck_size": n, "replacement": again}, AutoencodeTwin(n, again)


def count(n, again, kind="colors"):
    values = {"colors": 2, "suits": 4, "ranks": 13}[kind]
    return "count_recall", {"deck_size": n, "replacement": again, "kind": kind}, CountTwin(n, again, values)


def copy(n, q, delay, backwards):
    settings = {"length": n, "symbols": q, "delay": delay, "reversed": backwards}
    return "copy_delay", settings, CopyTwin(n, q, delay, backwards)


def tracking(task, most, fixed=None):
    lengths = [fixed] if fixed else range(3 if task == "temporal_xor" else 2, most + 1)
    return "state_tracking", {"task": task, "max_length": most, "length": fixed}, TrackingTwin(task, lengths)


def catch(runs):
    return "delayed_catch", {"runs": runs}, CatchTwin(runs)


SMALL = [
    *[memory(*c) for c in ((1, 1, False), (1, 2, True), (2, 1, True), (3, 2, False), (3, 2, True), (2, 3, False))],
    *[umbrella(*c) for c in ((1, 0, False), (3, 0, False), (3, 0, True), (2, 1, False))],
    *[discounting(seed) for seed in (0, 1, 4, 7, None)],
    *[repeat(*c) for c in ((4, 1, False), (4, 2, False), (8, 3, False), (4, 2, True), (4, 3, True))],
    *[first(*c) for c in ((4, False), (4, True))],
    *[autoencode(*c) for c in ((4, False), (4, True))],
    *[count(*c) for c in ((4, False), (6, False), (4, True), (4, False, "suits"))],
    *[copy(*c) for c in ((1, 3, 2, False), (2, 2, 1, False), (3, 3, 0, True), (1, 2, 0, True))],
    *[tracking(task, 5) for task in TASKS],
    *[tracking(task, 25, 4) for task in TASKS],
    *[catch(runs) for runs in (1, 2)],
]
LARGE = [
    memory(20, 8, False), memory(17, 12, True), umbrella(12, 4, False), umbrella(12, 3, True),
    repeat(52, 4, False), repeat(52, 33, True), first(52, False), autoencode(52, False), count(52, False),
    count(52, False, "ranks"), count(52, True, "suits"), copy(9, 7, 5, False), copy(9, 7, 5, True),
    *[tracking(task, 25) for task in TASKS], catch(5),
]  # fmt: skip


def label(case):
    return "-".join(map(str, (case[0], *case[1].values())))


small = pytest.mark.parametrize("case", SMALL, ids=label)


def make(case, num_envs=1, **kwargs):
    return envs.make(case[0], num_envs, **case[1], **kwargs)


def snapshot(env):
    """The state of each environment as Python values."""
    return [type(env.state)(*values) for values in zip(*(field.tolist() for field in env.state), strict=True)]


@pytest.mark.parametrize("case", [*SMALL, *LARGE], ids=label)
def test_follows_the_rules(case):
    """Actions are random in two rows of three, else the oracle's; in small cases these must be optimal from every state."""
    twin, env, rng = case[2], make(case, 6), np.random.default_rng(0)
    optimal = Optimal(twin) if case in SMALL else None
    row, states, gains, ends = env.reset(), [None] * 6, [[] for _ in range(6)], 0
    for _ in range(3 * env.spec.max_rows):
        for i, fields in enumerate(snapshot(env)):
            if row.first[i]:
                states[i] = one([s for _, s in twin.starts() if twin.matches(s, fields)])
                gains[i] = []
            assert row.obs[i].tolist() == pytest.approx(twin.see(states[i]), abs=1e-6)
        best = env.oracle(env.state).tolist()
        action = [a if rng.random() < 1 / 3 else int(rng.integers(twin.actions)) for a in best]
        over, row = env.ended.tolist(), env.step(torch.tensor(action))
        won = env.success(env.state).tolist()
        for i, fields in enumerate(snapshot(env)):
            if over[i]:
                continue
            if optimal is not None:
                q = optimal.full(states[i])
                assert q[best[i]] == pytest.approx(max(q))
            outcomes = [o for o in twin.after(states[i], action[i]) if twin.matches(o[1], fields)]
            _, states[i], reward, over_now = one([o for o in outcomes if o[2] == pytest.approx(row.reward[i].item())])
            gains[i].append(reward)
            assert bool(env.ended[i]) == over_now and row.discount[i] == 1 - over_now
            if over_now:
                ends += 1
                assert won[i] == twin.won(states[i], gains[i])
    assert ends >= 6


def one(found):
    assert len(found) == 1, found
    return found[0]


def paths(twin, rows):
    """Probability of every sequence of the first `rows` observations under action 0."""
    found = Counter()

    def go(p, s, seen, over):
        seen = (*seen, twin.see(s))
        if over or len(seen) == rows:
            found[seen] += p
            return
        for p2, s2, _, over2 in twin.after(s, 0):
            go(p * p2, s2, seen, over2)

    for p, s in twin.starts():
        go(p, s, (), False)
    return found


DRAWN = [
    memory(2, 2, False), umbrella(2, 1, False), repeat(8, 2, False), first(4, False), autoencode(4, True), count(4, False),
    copy(3, 3, 0, False), tracking("mod5", 4), tracking("temporal_xor", 5), tracking("temporal_xor", 5, 5), catch(1),
]  # fmt: skip


@pytest.mark.parametrize("case", DRAWN, ids=label)
def test_draws_have_the_right_distribution(case):
    many, rows = 8_000, 5
    expected, env = paths(case[2], rows), make(case, many, seed=3)
    seen, alive = [[] for _ in range(many)], [True] * many
    row = env.reset()
    for _ in range(rows):
        obs = row.obs.double().round(decimals=5).tolist()
        for i in range(many):
            if alive[i]:
                seen[i].append(tuple(obs[i]))
        alive = [a and not e for a, e in zip(alive, env.ended.tolist(), strict=True)]
        row = env.step(torch.zeros(many, dtype=torch.int64))
    counted = Counter(map(tuple, seen))
    table = {tuple(tuple(round(float(v), 5) for v in obs) for obs in path): p for path, p in expected.items()}
    assert counted.keys() <= table.keys()
    assert sum(table.values()) == pytest.approx(1)
    assert stats.chisquare([counted[path] for path in table], [p * many for p in table.values()]).pvalue > 1e-3


@small
def test_optimal_values(case):
    spec, optimal = make(case).spec, Optimal(case[2])
    assert optimal.oracle() == pytest.approx(spec.r_oracle)
    assert optimal.star() == pytest.approx(spec.r_star)
    if spec.credit_length is not None:
        assert optimal.credit_length() == spec.credit_length
    else:
        assert case[1] == {"mapping_seed": None}  # all arms are worth the same to who does not know


@small
def test_random_return_is_exact(case):
    assert Memoryless(case[2], last=False).uniform() == pytest.approx(make(case).spec.r_random, abs=1e-12)


MEMORY = [case for case in SMALL if make(case).spec.r0_memory is not None]


@pytest.mark.parametrize("case", MEMORY, ids=label)
def test_best_memoryless_return(case):
    """Attained and not beaten: certificates, for policies that see the observation and for those that see the last action
    and reward too. Without these an action changes nothing but its own reward, so coordinate ascent is exact."""
    spec = make(case).spec
    assert Memoryless(case[2], last=False).search(starts=4, steps=0) == pytest.approx(spec.r0_memory, abs=1e-9)
    if spec.r0_memory_last is not None:
        found = Memoryless(case[2], last=True).search(starts=8, steps=40)
        assert found == pytest.approx(spec.r0_memory_last, abs=1e-9)


@pytest.mark.parametrize("case", [repeat(4, 2, True), copy(2, 2, 1, False), tracking("even_pairs", 5)], ids=label)
def test_why_there_is_no_figure_for_agents_that_see_their_last_action(case):
    """They beat the others by what they carry in it."""
    spec = make(case).spec
    assert spec.r0_memory_last is None
    assert Memoryless(case[2], last=True).search(starts=8, steps=40) > spec.r0_memory + 0.01


def surest(twin):
    """The best success rate of all deterministic memoryless policies; only where something is paid does an action matter."""
    questions, layer = set(), {s for _, s in twin.starts()}
    while layer:
        outcomes = [(s, o) for s in layer for a in range(twin.actions) for o in twin.after(s, a)]
        questions |= {twin.see(s) for s, o in outcomes if o[2] != 0}
        layer = {o[1] for _, o in outcomes if not o[3]}

    def rate(policy, p, s, rewards):
        total = 0.0
        for p2, s2, reward, over in twin.after(s, policy.get(twin.see(s), 0)):
            gained = (*rewards, reward)
            total += p * p2 * twin.won(s2, gained) if over else rate(policy, p * p2, s2, gained)
        return total

    choices = itertools.product(range(twin.actions), repeat=len(questions))
    policies = (dict(zip(sorted(questions), choice, strict=True)) for choice in choices)
    return max(sum(rate(policy, p, s, ()) for p, s in twin.starts()) for policy in policies)


CHANCES = [
    memory(2, 1, True), memory(3, 2, False), repeat(4, 1, False), repeat(4, 2, True), first(4, True), first(4, False),
    autoencode(4, True), copy(1, 3, 2, False), copy(2, 2, 1, False), copy(3, 3, 0, True), tracking("parity", 5),
    tracking("even_pairs", 4), tracking("s5", 3),
]  # fmt: skip


@pytest.mark.parametrize("case", CHANCES, ids=label)
def test_chance_of_success_without_memory(case):
    assert surest(case[2]) == pytest.approx(make(case).spec.chance)


def test_chance_of_many_questions():
    """The tail of the binomial distribution against scipy's, also where a factorial has no float."""
    for kwargs in ({"k": 4}, {"k": 30, "decks": 16}):
        env = envs.make("repeat_previous", 1, replacement=True, **kwargs)
        assert env.pass_mark == -(-env.questions * 9 // 10)
        assert env.spec.chance == pytest.approx(stats.binom.sf(env.pass_mark - 1, env.questions, 0.25), rel=1e-6, abs=1e-300)


def scripted(case, many=32):
    """Return of a policy with memory that sees only observations: `SCRIPTS[name](settings)` is called on each row."""
    env = make(case, many)
    policy = SCRIPTS[case[0]](env)
    row, total, alive = env.reset(), torch.zeros(many, dtype=torch.float64), torch.ones(many, dtype=torch.bool)
    won = torch.zeros_like(alive)
    for t in itertools.count():
        if not alive.any():
            return env, total, won
        row = env.step(policy(t, row.obs))
        total += row.reward * alive
        won |= env.success(env.state) & env.ended & alive
        alive &= ~env.ended


def history_script(answer):
    """A policy from `answer(env, history)`, the history being one environment's observations as lists."""

    def script(env):
        seen = [[] for _ in range(env.num_envs)]

        def policy(t, obs):
            for own, now in zip(seen, obs.tolist(), strict=True):
                own.append(now)
            return torch.tensor([answer(env, own) for own in seen])

        return policy

    return script


def index(codes):
    return codes.index(1.0) if 1.0 in codes else 0


def memory_answer(env, seen):
    b = env.num_bits
    asked = int(seen[-1][1]) if env.bsuite_quirk else index(seen[-1][1 : 1 + b])
    return int(seen[0][-b:][asked] > 0)


def copy_answer(env, seen):
    asked = len(seen) - env.length - env.delay - 1
    order = [index(obs[:-1]) for obs in seen[: env.length]]
    return (order[::-1] if env.reversed else order)[max(min(asked, env.length - 1), 0)] if asked >= 0 else 0


def autoencode_answer(env, seen):
    hand = [index(obs[2:]) for obs in seen[: env.cards]]
    return hand[min(len(seen) - 1, max(2 * env.cards - 1 - len(seen), 0))]


def count_answer(env, seen):
    query = index(seen[-1][env.values :])
    return min(sum(index(obs[: env.values]) == query for obs in seen), env.copies)


def tracking_answer(env, seen):
    word = [index(obs) for obs in seen if obs[-1] == 0]
    return TrackingTwin.tasks[env.task][2](word)


def catch_answer(env, seen):
    board = np.reshape(seen[-1], (7, 7))
    basket = int(board[6].argmax())
    fruit = int(np.argwhere(board == -1)[0][1]) if (board == -1).any() else basket
    return int(np.sign(fruit - basket)) + 1


SCRIPTS = {
    "memory_chain": history_script(memory_answer),
    "umbrella_chain": history_script(lambda env, seen: int(seen[0][0])),
    "discounting_chain": history_script(lambda env, seen: (env.mapping_seed or 0) % 5),
    "repeat_previous": history_script(lambda env, seen: index(seen[max(len(seen) - env.k, 0)])),
    "repeat_first": history_script(lambda env, seen: index(seen[0])),
    "autoencode": history_script(autoencode_answer),
    "count_recall": history_script(count_answer),
    "copy_delay": history_script(copy_answer),
    "state_tracking": history_script(tracking_answer),
    "delayed_catch": history_script(catch_answer),
}


DEFAULTS = [
    memory(10, 1, True), memory(30, 8, False), umbrella(10, 2, True), discounting(2), repeat(52, 4, False), first(52, False),
    autoencode(52, False), count(52, False, "suits"), copy(8, 4, 16, False), copy(8, 4, 16, True),
    *[tracking(task, 25) for task in TASKS], catch(5),
]  # fmt: skip


@pytest.mark.parametrize("case", DEFAULTS, ids=label)
def test_a_script_with_memory_attains_the_optimum(case):
    env, total, won = scripted(case, 256 if case[0] == "umbrella_chain" else 32)
    error = total.std().item() / len(total) ** 0.5  # nil but for the umbrella's coins
    assert total.mean().item() == pytest.approx(env.spec.r_star, abs=4 * error + 1e-6)
    assert won.all()


def test_figures_of_the_published_sizes():
    """POPGym's Easy: 51, 51, 103 and 51 steps; random agents get what its own give (measured there to two digits)."""
    rows = {name: envs.make(name, 1).spec for name in ("repeat_previous", "repeat_first", "autoencode", "count_recall")}
    assert [spec.max_rows - 1 for spec in rows.values()] == [51, 51, 103, 51]
    assert [round(spec.r_random, 2) for spec in rows.values()] == [-0.5, -0.5, -0.5, -0.93]
    assert rows["repeat_previous"].r0_memory == pytest.approx(2 * 13 / 51 - 1)
    assert [envs.make("delayed_catch", 1, runs=R).spec.max_rows - 1 for R in (1, 2, 5, 40)] == [6, 13, 34, 279]
    assert envs.make("delayed_catch", 1, runs=1).spec.r_random == pytest.approx(0.1527, abs=1e-4)


def test_longer_words_are_asked_for_by_one_setting():
    env = envs.make("state_tracking", 64, max_length=5, length=40)
    assert env.spec.max_rows == 41
    env.reset()
    for t in range(1, 41):
        row = env.step(env.oracle(env.state))
        assert env.ended.all() == (t == 40) and env.ended.any() != (t < 40)
    assert (row.reward == 1).all()
