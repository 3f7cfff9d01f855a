"""Step by step against the published packages, bsuite and popgym, where they are installed (development only)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import envs


def episodes(name, batch, seed, **kwargs):
    """Whole episodes of random and best actions: for each a list of (observation, state, action, reward, ended), where
    action and reward belong to the step that led to the row (None and 0 on the first)."""
    env = envs.make(name, batch, seed=seed, **kwargs)
    rng, found, own = np.random.default_rng(seed), [], [[] for _ in range(batch)]
    row, action = env.reset(), [None] * batch
    while len(found) < batch:
        states = [type(env.state)(*v) for v in zip(*(f.tolist() for f in env.state), strict=True)]
        for i in range(batch):
            own[i].append((row.obs[i].numpy(), states[i], action[i], row.reward[i].item(), row.discount[i].item() == 0))
            if env.ended[i]:
                found.append(own[i])
        best, random = env.oracle(env.state).numpy(), rng.integers(env.num_actions, size=batch)
        action = np.where(rng.random(batch) < 0.5, best, random)
        row = env.step(torch.from_numpy(action))
        action = [None if first else a for first, a in zip(row.first.tolist(), action.tolist(), strict=True)]
        own = [[] if first else steps for first, steps in zip(row.first.tolist(), own, strict=True)]
    return env, found


class Script:
    """A random generator that says what it is told: `binomial` the next of a list, `shuffle` the next order."""

    def __init__(self, said):
        self.said = list(said)

    def binomial(self, n, p, size=None):
        if size is None:
            return self.said.pop(0)
        return np.array([self.said.pop(0) for _ in range(size)])

    def shuffle(self, array):
        array[:] = self.said.pop(0)


def follow(published, rows):
    """`published(action)` -> (observation, reward, ended) of the next row, the first one for None; both in step."""
    for obs, _, action, reward, ended in rows:
        theirs, their_reward, their_end = published(action)
        assert obs == pytest.approx(np.ravel(theirs), abs=1e-6)
        assert reward == pytest.approx(their_reward, abs=1e-6) and ended == their_end


def dm_env(env, start):
    """A dm_env environment as `follow` wants it; `start()` gives its first observation."""

    def published(action):
        if action is None:
            return start(), 0.0, False
        step = env.step(action)
        return step.observation, step.reward, step.last()

    return published


@pytest.mark.parametrize(("n", "bits"), [(1, 1), (2, 1), (2, 17), (10, 1), (100, 3)])
def test_memory_chain(n, bits):
    memory_chain = pytest.importorskip("bsuite.environments.memory_chain")
    kwargs = {"memory_length": n, "num_bits": bits, "bsuite_quirk": True}
    for rows in episodes("memory_chain", 20, n, **kwargs)[1]:
        theirs = memory_chain.MemoryChain(n, bits)
        theirs.reset()
        theirs._context, theirs._query = np.array(rows[0][1].context), rows[0][1].query
        follow(dm_env(theirs, theirs._get_observation), rows)


@pytest.mark.parametrize(("n", "distractors"), [(1, 0), (2, 20), (20, 5), (100, 20)])
def test_umbrella_chain(n, distractors):
    umbrella_chain = pytest.importorskip("bsuite.environments.umbrella_chain")
    for rows in episodes("umbrella_chain", 20, n, chain_length=n, distractors=distractors)[1]:
        theirs = umbrella_chain.UmbrellaChain(n, distractors)
        said = [rows[0][1].need, rows[0][1].have, *rows[0][1].noise]
        for t, (_, state, _, reward, _) in enumerate(rows[1:], 1):
            said += ([] if t == n else [(reward + 1) / 2]) + state.noise
        theirs._rng = Script(said)
        follow(dm_env(theirs, lambda: theirs.reset().observation), rows)  # noqa: B023 (used at once)
        assert not theirs._rng.said


@pytest.mark.parametrize("seed", [0, 3, 14])
def test_discounting_chain(seed):
    discounting_chain = pytest.importorskip("bsuite.environments.discounting_chain")
    for rows in episodes("discounting_chain", 20, seed, mapping_seed=seed)[1]:
        theirs = discounting_chain.DiscountingChain(seed)
        follow(dm_env(theirs, lambda: theirs.reset().observation), rows)  # noqa: B023


def pack(theirs, dealt, kinds):
    """An order of the deck that deals these values: it deals from its end. kinds: the value of each card."""
    left, order = set(range(theirs.num_cards)), []
    for value in dealt:
        order.append(next(card for card in sorted(left) if kinds[card] == value))
        left.remove(order[-1])
    return [*sorted(left), *order[::-1]]


def popgym_env(env, orders, code):
    env.np_random = Script(orders)

    def published(action):
        if action is None:
            return code(env.reset()[0]), 0.0, False
        obs, reward, terminated, truncated, _ = env.step(action)
        assert not truncated
        return code(obs), reward, terminated

    return published


def one_hot(value, size):
    return np.eye(size)[value]


@pytest.mark.parametrize(("decks", "k"), [(1, 4), (1, 1), (2, 32), (3, 64)])
def test_repeat_previous(decks, k):
    published = pytest.importorskip("popgym.envs.repeat_previous")
    for rows in episodes("repeat_previous", 4, k, decks=decks, k=k)[1]:
        theirs = published.RepeatPrevious(decks, k)
        order = pack(theirs.deck, [state.last[-1] for _, state, *_ in rows], theirs.deck.suits_idx)
        assert len(rows) == theirs.max_episode_length + 1
        follow(popgym_env(theirs, [order], lambda suit: one_hot(suit, 4)), rows)


@pytest.mark.parametrize("decks", [1, 8])
def test_repeat_first(decks):
    published = pytest.importorskip("popgym.envs.repeat_first")
    for rows in episodes("repeat_first", 4, decks, decks=decks)[1]:
        theirs = published.RepeatFirst(decks)
        order = pack(theirs.deck, [state.card for _, state, *_ in rows], theirs.deck.suits_idx)
        follow(popgym_env(theirs, [order], lambda suit: one_hot(suit, 4)), rows)


@pytest.mark.parametrize("decks", [1, 3])
def test_autoencode(decks):
    published = pytest.importorskip("popgym.envs.autoencode")
    for rows in episodes("autoencode", 4, decks, decks=decks)[1]:
        theirs = published.Autoencode(decks)
        order = pack(theirs.deck, rows[-1][1].stack, theirs.deck.suits_idx)
        assert len(rows) == theirs.max_episode_length + 1
        code = lambda obs: np.concatenate((one_hot(obs[0], 2), one_hot(obs[1], 4)))  # noqa: E731
        follow(popgym_env(theirs, [order], code), rows)


@pytest.mark.parametrize(("decks", "kind"), [(1, "colors"), (2, "suits"), (4, "ranks")])
def test_count_recall(decks, kind):
    published = pytest.importorskip("popgym.envs.count_recall")
    env, found = episodes("count_recall", 4, decks, decks=decks, kind=kind)
    for rows in found:
        theirs = published.CountRecall(decks, deck_type=kind)
        assert theirs.action_space.n == env.num_actions and len(rows) == theirs.max_episode_length + 1
        orders = [pack(theirs.value_deck, [getattr(state, field) for _, state, *_ in rows], theirs.deck_idx_type)
                  for field in ("card", "query")]  # fmt: skip
        size = env.values
        follow(popgym_env(theirs, orders, lambda obs: np.concatenate([one_hot(v, size) for v in obs])), rows)  # noqa: B023
