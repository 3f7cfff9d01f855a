"""Exact values on small slow twins (`slow_twins.py`): of policies without memory, of histories, of the hidden state."""

from __future__ import annotations

import copy
from collections import defaultdict
from functools import cache

import numpy as np
import torch


class Episode:
    """An episode in plain Python with `step(action) -> (reward, terminated, truncated)`. Two that stand equal (`key`) and show
    the same (`obs`) are one state."""

    def identity(self) -> tuple:
        return self.key(), self.obs

    def __eq__(self, other) -> bool:
        return self.identity() == other.identity()

    def __lt__(self, other) -> bool:
        return self.identity() < other.identity()

    def __hash__(self) -> int:
        return hash(self.identity())


class Episodes:
    """A twin, as in `slow_twins.py`, whose states are episodes; it starts as any of those given, equally likely.

    cue: the goal is seen too.
    """

    actions = 4

    def __init__(self, starts, cue: bool = False) -> None:
        self.first, self.cue = tuple(starts), cue

    def starts(self):
        return equally(self.first)

    def after(self, s, action):
        after = copy.copy(s)
        reward, terminated, truncated = after.step(action)
        return [(1.0, after, reward, terminated or truncated)]

    def see(self, s):
        return s.obs + ((s.goal,) if self.cue else ())


def equally(states) -> tuple:
    """The belief that each of these is as likely as the others."""
    return tuple(sorted((1 / len(states), s) for s in states))


class Memoryless:
    """Every reachable (hidden state, what a memoryless agent sees) of an episode.

    Policies are arrays (N, contexts, actions); a context is an observation, with the last action and reward if `last`.
    """

    def __init__(self, twin, last: bool) -> None:
        self.actions = twin.actions
        self.contexts: dict[tuple, int] = {}
        layer = defaultdict(float)
        for p, s in twin.starts():
            layer[(s, None, 0)] += p
        self.start = torch.tensor(list(layer.values()), dtype=torch.float64)
        self.layers = []
        while layer:
            following: dict[tuple, int] = {}
            edges, rewards = [], torch.zeros(len(layer), twin.actions, dtype=torch.float64)
            nodes = []
            for i, (s, action, reward) in enumerate(layer):
                seen = (twin.see(s), action, reward) if last else twin.see(s)
                nodes.append(self.contexts.setdefault(seen, len(self.contexts)))
                for a in range(twin.actions):
                    for p, s2, r, over in twin.after(s, a):
                        rewards[i, a] += p * r
                        if not over:
                            key = (s2, a, r) if last else (s2, None, 0)
                            edges.append((i * twin.actions + a, p, following.setdefault(key, len(following))))
            source, p, target = zip(*edges, strict=True) if edges else ((), (), ())
            self.layers.append((torch.tensor(nodes), rewards, torch.tensor(source, dtype=torch.long),
                                torch.tensor(p, dtype=torch.float64), torch.tensor(target, dtype=torch.long)))  # fmt: skip
            layer = following

    def value(self, policy: torch.Tensor) -> torch.Tensor:
        """(N, contexts, actions) float64 -> (N,) expected return."""
        after = policy.new_zeros(len(policy), 0)
        for nodes, rewards, source, p, target in reversed(self.layers):
            gains = rewards.flatten().expand(len(policy), -1).index_add(1, source, after[:, target] * p)
            after = (policy[:, nodes] * gains.view(len(policy), len(nodes), -1)).sum(-1)
        return after @ self.start

    def uniform(self) -> float:
        shape = (1, len(self.contexts), self.actions)
        return self.value(torch.full(shape, 1 / self.actions, dtype=torch.float64)).item()

    def all_deterministic(self) -> torch.Tensor:
        choice = torch.cartesian_prod(*[torch.arange(self.actions)] * len(self.contexts)).reshape(-1, len(self.contexts))
        return torch.nn.functional.one_hot(choice, self.actions).double()

    def search(self, starts: int = 16, steps: int = 80, seed: int = 0) -> float:
        """Best value found: gradient ascent on stochastic policies, then coordinate ascent on deterministic ones. The latter
        is exact where actions change nothing but their own reward."""
        generator = torch.Generator().manual_seed(seed)
        shape = (starts, len(self.contexts), self.actions)
        logits = (2 * torch.randn(shape, generator=generator, dtype=torch.float64)).requires_grad_()
        optimiser = torch.optim.Adam([logits], lr=0.3)
        best = -np.inf
        for _ in range(steps):
            optimiser.zero_grad()
            value = self.value(logits.softmax(-1))
            (-value.sum()).backward()
            optimiser.step()
            best = max(best, value.max().item())
        tables = logits.detach().argmax(-1)
        for _ in range(2):
            for context in range(len(self.contexts)):
                tried = tables.repeat(self.actions, 1, 1)
                tried[:, :, context] = torch.arange(self.actions)[:, None]
                policies = torch.nn.functional.one_hot(tried.flatten(0, 1), self.actions).double()
                value = self.value(policies).view(self.actions, -1)
                tables[:, context] = value.argmax(0)
                best = max(best, value.max().item())
        return best


class Optimal:
    """Optimal values. A belief is a tuple of (probability, state), sorted; one with a single state is full information."""

    def __init__(self, twin, gamma: float = 1.0) -> None:
        self.twin, self.gamma = twin, gamma
        self.q = cache(self.q)
        self.n_step = cache(self.n_step)
        self.credit = cache(self.credit)
        self.full = cache(self.full)

    def beliefs(self) -> list[tuple[float, tuple]]:
        return self._sort(self.twin.starts(), lambda s: self.twin.see(s))

    def branches(self, belief, action):
        """Expected reward, and what may be known afterwards with its probability."""
        reward, states = 0.0, defaultdict(list)
        for p, s in belief:
            for p2, s2, r, over in self.twin.after(s, action):
                reward += p * p2 * r
                if not over:
                    states[(self.twin.see(s2), r)].append((p * p2, s2))
        return reward, [normal for group in states.values() for normal in self._sort(group, lambda s: 0)]

    @staticmethod
    def _sort(weighted, key):
        groups = defaultdict(lambda: defaultdict(float))
        for p, s in weighted:
            groups[key(s)][s] += p
        found = []
        for group in groups.values():
            total = sum(group.values())
            found.append((total, tuple(sorted((round(p / total, 12), s) for s, p in group.items()))))
        return found

    def q(self, belief) -> tuple[float, ...]:
        values = []
        for action in range(self.twin.actions):
            reward, after = self.branches(belief, action)
            values.append(reward + self.gamma * sum(p * max(self.q(b)) for p, b in after))
        return tuple(values)

    def star(self) -> float:
        """Over histories."""
        return sum(p * max(self.q(b)) for p, b in self.beliefs())

    def oracle(self) -> float:
        """With the hidden state known, at every step."""
        return sum(p * self.known(s) for p, s in self.twin.starts())

    def known(self, s) -> float:
        return max(self.full(s))

    def full(self, s) -> tuple[float, ...]:
        """The value of each action in state s, the hidden state being known for ever."""
        return tuple(
            sum(p * (r + (0 if over else self.gamma * self.known(s2))) for p, s2, r, over in self.twin.after(s, a))
            for a in range(self.twin.actions)
        )

    def n_step(self, belief, action, n) -> float:
        reward, after = self.branches(belief, action)
        if n == 1:
            return reward
        return reward + self.gamma * sum(p * self.n_step(b, int(np.argmax(self.q(b))), n - 1) for p, b in after)

    def credit(self, belief) -> int:
        """Smallest n whose n-step return tells the best action from all worse ones, the largest such n over the histories
        that an optimal policy visits, for the optimal policy that makes it least."""
        q = self.q(belief)
        worse = [a for a in range(len(q)) if q[a] < max(q) - 1e-9]
        lengths = []
        for best in (a for a in range(len(q)) if a not in worse):
            n = 1
            while any(self.n_step(belief, best, n) <= self.n_step(belief, a, n) + 1e-9 for a in worse):
                n += 1
            lengths.append(max([n] + [self.credit(b) for _, b in self.branches(belief, best)[1]]))
        return min(lengths)

    def credit_length(self) -> int:
        return max(self.credit(b) for _, b in self.beliefs())
