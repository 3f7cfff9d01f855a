"""The T-maze rules once more, one episode at a time in plain Python: written from the published descriptions (Ni et al.
2023, AMAGO's variant, Bakker 2001), sharing nothing with `envs/`; and exact evaluation of policies on them."""

from __future__ import annotations

import copy
from collections import defaultdict

import numpy as np
import torch

MOVES = [(1, 0), (0, 1), (-1, 0), (0, -1)]


class Published:
    """Ni et al.; the observation marks the oracle as visited as a side effect, so it is built once per row."""

    def __init__(self, goal: int, L: int, o: int = 0, mode: str = "schedule") -> None:
        self.goal, self.L, self.o, self.mode = goal, L, o, mode
        self.x, self.y, self.t, self.oracle_visited = o, 0, 0, False
        self.horizon = L + 2 * o + 1
        self.cells = {(x, 0) for x in range(o + L + 1)} | {(o + L, 1), (o + L, -1)}
        self.obs = self.build_obs()

    def build_obs(self) -> tuple[float, ...]:
        if self.x == 0:
            exposure = 0
            if not self.oracle_visited:
                exposure, self.oracle_visited = self.goal, True
            return (0.0, float(exposure))
        return (1.0, float(self.y)) if self.x == self.o + self.L else (0.0, 0.0)

    def move(self, action: int) -> bool:
        self.t += 1
        to = (self.x + MOVES[action][0], self.y + MOVES[action][1])
        moved = to in self.cells
        if moved:
            self.x, self.y = to
        return moved

    def step(self, action: int) -> tuple[float, bool, bool]:
        self.move(action)
        penalty = -1.0 / self.L
        over = self.t >= self.horizon
        if over:
            reward = float(self.y == self.goal)
        elif self.mode == "schedule":
            reward = penalty if self.x < self.t - self.o else 0.0
        else:
            reward = penalty if action != 0 and self.t > self.o else 0.0
        self.obs = self.build_obs()
        return reward, over, False

    def key(self) -> tuple:
        return (self.t, self.x, self.y, self.oracle_visited, self.goal)


class PublishedBakker(Published):
    def __init__(self, goal: int, L: int, limit: int) -> None:
        self.limit = limit
        super().__init__(goal, L)

    def build_obs(self) -> tuple[float, ...]:
        if self.t == 0:
            return (0.0, 1.0, 1.0) if self.goal == 1 else (1.0, 1.0, 0.0)
        return (0.0, 1.0, 0.0) if self.x == self.L else (1.0, 0.0, 1.0)

    def step(self, action: int) -> tuple[float, bool, bool]:
        moved = self.move(action)
        self.obs = self.build_obs()
        if self.y != 0:
            return (4.0 if self.y == self.goal else -0.1), True, self.t == self.limit
        return (0.0 if moved else -0.1), False, self.t == self.limit


class Tabular:
    """Every reachable (hidden state, what a memoryless agent sees) of an episode, for exact values of policies.

    Policies are arrays (N, contexts, 4); a context is an observation, with the last action and reward if `last`, and
    the goal if `cue`.
    """

    def __init__(self, episodes: list[Published], last: bool, cue: bool = False) -> None:
        self.contexts: dict[tuple, int] = {}
        layer = {}
        for sim in episodes:
            layer[(sim.key(), None, 0.0)] = sim
        self.layers = []
        self.starts = len(layer)
        while layer:
            following: dict[tuple, Published] = {}
            nodes, nexts, rewards = [], [], []
            for (_, action, reward), sim in layer.items():
                seen = sim.obs + ((action, reward) if last else ()) + ((sim.goal,) if cue else ())
                nodes.append(self.contexts.setdefault(seen, len(self.contexts)))
                to, gain = [], []
                for a in range(4):
                    after = copy.copy(sim)
                    r, terminated, truncated = after.step(a)
                    gain.append(r)
                    if terminated or truncated:
                        to.append(-1)
                        continue
                    node = (after.key(), a, r) if last else (after.key(), None, 0.0)
                    following.setdefault(node, after)
                    to.append(list(following).index(node))
                nexts.append(to)
                rewards.append(gain)
            self.layers.append((torch.tensor(nodes), torch.tensor(nexts), torch.tensor(rewards, dtype=torch.float64)))
            layer = following

    def value(self, policy: torch.Tensor) -> torch.Tensor:
        """(N, contexts, 4) float64 -> (N,) expected return, goals equally likely."""
        after = policy.new_zeros(len(policy), 1)
        for nodes, nexts, rewards in reversed(self.layers):
            padded = torch.cat((after, after.new_zeros(len(policy), 1)), 1)  # index -1: the episode is over
            after = (policy[:, nodes] * (rewards + padded[:, nexts])).sum(-1)
        return after.mean(1)

    def uniform(self) -> float:
        return self.value(torch.full((1, len(self.contexts), 4), 0.25, dtype=torch.float64)).item()

    def all_deterministic(self) -> torch.Tensor:
        choice = torch.cartesian_prod(*[torch.arange(4)] * len(self.contexts)).reshape(-1, len(self.contexts))
        return torch.nn.functional.one_hot(choice, 4).double()

    def search(self, starts: int, steps: int, seed: int) -> float:
        """Best value found: gradient ascent on stochastic policies, then coordinate ascent on deterministic ones."""
        generator = torch.Generator().manual_seed(seed)
        logits = 2 * torch.randn(starts, len(self.contexts), 4, generator=generator, dtype=torch.float64)
        logits.requires_grad_()
        optimiser = torch.optim.Adam([logits], lr=0.3)
        best = -np.inf
        for _ in range(steps):
            optimiser.zero_grad()
            value = self.value(logits.softmax(-1))
            (-value.sum()).backward()
            optimiser.step()
            best = max(best, value.max().item())
        random = torch.randint(4, (starts, len(self.contexts)), generator=generator)
        tables = torch.cat((logits.detach().argmax(-1), random))
        for _ in range(3):
            for context in torch.randperm(len(self.contexts), generator=generator).tolist():
                tried = tables.repeat(4, 1, 1)
                tried[torch.arange(4), :, context] = torch.arange(4)[:, None]
                value = self.value(torch.nn.functional.one_hot(tried.flatten(0, 1), 4).double()).view(4, -1)
                tables[:, context] = value.argmax(0)
                best = max(best, value.max().item())
        return best


class Histories:
    """Optimal values over histories: a belief is the set of episodes (one per goal) that look alike so far."""

    def __init__(self, gamma: float = 1.0) -> None:
        self.gamma = gamma
        self.memo: dict[tuple, list] = {}

    def branches(self, belief: tuple[Published, ...], action: int) -> tuple[float, list[tuple[float, tuple]]]:
        """Expected reward, and the beliefs that may follow with their probabilities."""
        groups, reward = defaultdict(list), 0.0
        for sim in belief:
            after = copy.copy(sim)
            r, terminated, truncated = after.step(action)
            reward += r / len(belief)
            if not (terminated or truncated):
                groups[(after.obs, r)].append(after)
        return reward, [(len(g) / len(belief), tuple(g)) for g in groups.values()]

    def q(self, belief: tuple[Published, ...]) -> list[float]:
        key = tuple(sim.key() for sim in belief)
        if key not in self.memo:
            self.memo[key] = []
            for action in range(4):
                reward, after = self.branches(belief, action)
                self.memo[key].append(reward + self.gamma * sum(p * max(self.q(b)) for p, b in after))
        return self.memo[key]

    def n_step(self, belief: tuple[Published, ...], action: int, n: int) -> float:
        reward, after = self.branches(belief, action)
        if n == 1:
            return reward
        return reward + self.gamma * sum(p * self.n_step(b, int(np.argmax(self.q(b))), n - 1) for p, b in after)

    def credit_length(self, belief: tuple[Published, ...]) -> int:
        """Largest over the histories of the optimal policy of the smallest n that tells the best action from worse."""
        q = self.q(belief)
        worse = [a for a in range(4) if q[a] < max(q) - 1e-9]
        best = int(np.argmax(q))
        n = 1
        while any(self.n_step(belief, best, n) <= self.n_step(belief, a, n) + 1e-9 for a in worse):
            n += 1
        return max([n] + [self.credit_length(b) for _, b in self.branches(belief, best)[1]])
