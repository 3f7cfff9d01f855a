"""What can be reached in MiniGrid-Memory, computed: best returns with and without knowing the hidden layout.

Optimal play over histories is a shortest path over beliefs. The agent's moves and views are deterministic, so a belief
is the set of places where it may be (with weights: two starts may have run into one place), and an action splits it by
what is seen next. A guess costs half of the success, the longest look at the cue a small part of the reward, so the
best policy never risks a failure and minimises the expected number of steps; where the step limit is so short that this may
be wrong (`TIGHT`), no optimum is given.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch

from envs.minigrid_maze import CUES, Maze, make_maze
from envs.minigrid_view import EAST, EMPTY, View

#: An episode of n steps returns 1 - 0.9 n / limit. If the longest of a policy that never fails has n <= limit / TIGHT, it
#: is worth more than any guess, which returns less than a half.
TIGHT = 1.8
#: beliefs are worked out for hallways up to this long, which takes half a minute: time grows with the cube
FURTHEST = 260


class Figures(NamedTuple):
    """Of one environment; returns are undiscounted. None: not worked out, for the step limit is tight or the maze large."""

    r_oracle: float  # knowing the layout: the shortest way
    reach: float  # how many of the starts have a way within the step limit
    r_star: float | None  # best over histories
    r_random: float  # of uniformly random actions
    steps: float | None  # expected length of the best episode over histories
    memory_length: int  # m
    credit_length: int | None  # c
    leaks: bool  # the cue shows beyond the hallway's end, so that nothing need be remembered


class Plan(NamedTuple):
    """A best policy over histories: beliefs are numbered, what is seen moves from one to the next."""

    first: dict[int, int]  # what the first row shows (a class of `sights`) -> belief
    action: np.ndarray  # (N,) belief -> best action
    after: list[dict[int, int]]  # belief -> {what is seen after its best action: belief}
    steps: float
    longest: int  # steps of the longest episode
    credit_length: int | None  # None if `longest` is past the step limit


@lru_cache(maxsize=64)
def figures(
    shape: tuple[int, int], ends: tuple[int, ...], max_steps: int, view_size: int, actions: int, scattered: bool, twin: bool
) -> Figures:
    """The figures of an environment: of grids `shape` (H, W), hallways ending at `ends`, starts anywhere in the hallway
    (`scattered`) or at x = 1, and `twin`, where every view shows the cue."""
    maze = make_maze(*shape, ends)
    seen, shows_cue, shows_objects = sights(maze, view_size, twin)
    starts = weighted_starts(maze, scattered)
    weight = np.array(list(starts.values()), float) / sum(starts.values())
    shortest = maze.distance.numpy()[list(starts)]
    in_time = shortest <= max_steps
    countable = sum(starts.values()) < 2**53  # weights are counted in float64
    best = plan(maze, seen, starts, max_steps) if countable and max(ends) <= FURTHEST else None
    if best and TIGHT * best.longest > max_steps:
        best = None
    return Figures(
        r_oracle=float(weight @ np.where(in_time, 1 - 0.9 * shortest / max_steps, 0)),
        reach=float(weight @ in_time),
        r_star=best and 1 - 0.9 * best.steps / max_steps,
        r_random=_random_return(maze, starts, max_steps, actions),
        steps=best and best.steps,
        memory_length=0 if twin else _memory_length(maze, shows_cue, shows_objects),
        credit_length=best and best.credit_length,
        leaks=bool((shows_cue & _beyond(maze)).any()),
    )


def weighted_starts(maze: Maze, scattered: bool) -> dict[int, int]:
    """{start place: how many times as likely as the rarest unit}: every layout alike, every x within it."""
    total = math.lcm(*maze.ends.tolist()) if scattered else 1
    rows = zip(maze.starts.tolist(), maze.ends.tolist(), strict=True)
    return {p: total // end if scattered else 1 for row, end in rows for p in row[: end if scattered else 1]}


def sights(maze: Maze, view_size: int, twin: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(P,) each: a number for what is seen (equal where images are), whether the cue is, whether both objects are."""
    H, W = maze.grids.shape[1:]
    view, c = View(H, W, view_size), H // 2
    images, cues, objects = [], [], []
    for places in torch.arange(len(maze.layout)).split(max(2**24 // (H * W), 1)):  # a grid for each
        layout = maze.layout[places]
        world = maze.grids[layout], maze.cell[places], maze.direction[places]
        hand = torch.tensor(CUES, dtype=torch.int32)[maze.cue[places]] if twin else world[0].new_full((len(places),), EMPTY)
        images.append(view(*world, hand).flatten(1))
        visible, x = view.visible(*world), maze.ends[layout] + 1
        row = torch.arange(len(places))
        cues.append(visible[:, c - 1, 1])
        objects.append(visible[row, c - 2, x] & visible[row, c + 2, x])
    seen = np.unique(torch.cat(images).numpy(), axis=0, return_inverse=True)[1]
    return seen.reshape(-1), torch.cat(cues).numpy(), torch.cat(objects).numpy()


def _beyond(maze: Maze) -> np.ndarray:
    """(P,) bool: places past the hallway's end. One gets there only by going forward, eastwards, onto one cell."""
    return (maze.cell % maze.grids.shape[2] > maze.ends[maze.layout]).numpy()


def _memory_length(maze: Maze, shows_cue: np.ndarray, shows_objects: np.ndarray) -> int:
    """Rows from the last sight of the cue to the row of the turn, in the longest hallway. Success is two steps after the
    turn is chosen, one where it takes a turn to see which object lies there."""
    W = maze.grids.shape[2]
    distance, end = maze.distance.numpy(), maze.ends[maze.layout].numpy()
    going = np.isfinite(distance) & (distance > 0)
    arrival = (maze.cell.numpy() % W > end) & (maze.direction.numpy() == EAST) & going
    last = 2 if shows_objects[arrival].all() else 1
    return max(0, *(int(distance[going & shows_cue & (end == e)].min()) - last for e in set(end.tolist())))


def _random_return(maze: Maze, starts: dict[int, int], max_steps: int, actions: int) -> float:
    """Exact, from the distribution over places; all but three actions do nothing."""
    p = np.zeros(len(maze.layout))
    p[list(starts)] = np.array(list(starts.values()), float) / sum(starts.values())
    going, unfailed = maze.counts
    moves, total = maze.moves.numpy()[:going].ravel(), 0.0
    for t in range(1, max_steps + 1):
        after = np.bincount(moves, np.repeat(p[:going] / actions, 3), len(p))
        after[:going] += p[:going] * (actions - 3) / actions
        total += after[unfailed:].sum() * (1 - 0.9 * t / max_steps)
        p = after
    return float(total)


def plan(maze: Maze, seen: np.ndarray, starts: dict[int, int], max_steps: int) -> Plan:
    """The best policy over histories of what is seen (and of one's own actions)."""
    going, unfailed = maze.counts
    moves, mass = maze.moves.numpy(), sum(starts.values())
    beliefs = _Beliefs(seen)
    first = beliefs.split(np.zeros(len(starts), int), np.array(list(starts)), np.array(list(starts.values())))
    edges, won, lost = [], [], []
    done = 0  # beliefs whose actions have been tried; a pass tries those of all that the last one found
    while fresh := beliefs.take_fresh():
        belief = np.repeat(done + np.arange(len(fresh)), [len(rows) for rows in fresh])
        place, weight = np.concatenate(fresh).T
        node, after = (3 * belief[:, None] + np.arange(3)).ravel(), moves[place].ravel()
        local, weight = node - 3 * done, np.repeat(weight, 3)
        total = np.bincount(local, weight)
        lost.append(np.bincount(local, weight * ((after >= going) & (after < unfailed))) / total)
        won.append(np.bincount(local, weight * (after >= unfailed)) / total)
        found = beliefs.split(*(x[after < going] for x in (node, after, weight)))
        edges.append(found._replace(weight=found.weight / total[found.node - 3 * done]))
        done += len(fresh)
    edges = Branches(*map(np.concatenate, zip(*edges, strict=True)))
    model = _Model(edges, np.concatenate(won), np.concatenate(lost))
    value, q = model.solve()
    action = q.argmin(1)
    longest = model.longest(first.belief, action, max_steps)
    after: list[dict[int, int]] = [{} for _ in action]
    chosen = action[edges.node // 3] == edges.node % 3
    for node, what, belief in zip(*(x[chosen].tolist() for x in edges[:3]), strict=True):
        after[node // 3][what] = belief
    return Plan(
        first=dict(zip(first.seen.tolist(), first.belief.tolist(), strict=True)),
        action=action,
        after=after,
        steps=float(value[first.belief] @ first.weight / mass),
        longest=longest,
        credit_length=model.credit_length(first.belief, q, max_steps) if longest <= max_steps else None,
    )


class Branches(NamedTuple):
    """(n,) each: from node, 3 * belief + action, seeing `seen` leads on to `belief`, with this weight."""

    node: np.ndarray
    seen: np.ndarray
    belief: np.ndarray
    weight: np.ndarray


class _Beliefs:
    """Numbers beliefs as they are met. One is its places with their weights in lowest terms, in order: rows of two."""

    def __init__(self, seen: np.ndarray) -> None:
        self.seen, self.number, self.fresh = seen, {}, []

    def take_fresh(self) -> list[np.ndarray]:
        """Those met since the last call."""
        fresh, self.fresh = self.fresh, []
        return fresh

    def split(self, node: np.ndarray, place: np.ndarray, weight: np.ndarray) -> Branches:
        """What the places (n,) reached from each node show, and what is believed then."""
        kinds, places = int(self.seen.max()) + 1, len(self.seen)
        code, where = np.unique((node * kinds + self.seen[place]) * places + place, return_inverse=True)
        weight = np.bincount(where.reshape(-1), weight).astype(np.int64)  # two ways may have run into one place
        group, place = np.divmod(code, places)
        start = np.flatnonzero(np.diff(group, prepend=-1))
        unit = np.repeat(np.gcd.reduceat(weight, start), np.diff(start, append=len(group)))
        belief = []
        for rows in np.split(np.stack((place, weight // unit), 1), start[1:]) if len(start) else []:
            key = rows.tobytes()
            if key not in self.number:
                self.number[key] = len(self.number)
                self.fresh.append(rows)
            belief.append(self.number[key])
        node, seen = np.divmod(group[start], kinds)
        return Branches(node, seen, np.array(belief, int), np.add.reduceat(weight, start))


class _Model:
    """The tree of beliefs as arrays: (3 * belief + action) leads on to beliefs, to success or to failure."""

    def __init__(self, edges: Branches, won: np.ndarray, lost: np.ndarray) -> None:
        self.source, self.target, self.weight = edges.node, edges.belief, edges.weight
        self.won, self.lost = won, lost

    def expect(self, value: np.ndarray) -> np.ndarray:
        """(N,) -> (N, 3): its expectation one step later, counting nothing once the episode is over."""
        return np.bincount(self.source, self.weight * value[self.target], len(self.won)).reshape(-1, 3)

    def solve(self) -> tuple[np.ndarray, np.ndarray]:
        """Fewest expected steps to success without ever failing: (N,), and (N, 3) by the first action."""
        far = 1e9
        value = np.full(len(self.won) // 3, far)
        while True:
            q = np.where(self.lost.reshape(-1, 3) > 0, far, 1 + self.expect(value))
            better = np.minimum(value, q.min(1))
            if (value - better < 1e-9).all():
                return value, q
            value = better

    def credit_length(self, first: np.ndarray, q: np.ndarray, max_steps: int) -> int:
        """Smallest n whose n-step return, with the best policy after the first action, is higher for the best action than
        for all worse ones; the largest over the beliefs that the best policy visits. Reward is counted as from t = 0."""
        best = q.argmin(1)
        rows = np.arange(len(q))
        worse = q > q.min(1, keepdims=True) + 1e-6
        visited = self._visited(first, best)
        exactly = self.won.reshape(-1, 3)  # probability that success comes exactly after n steps
        reached, n, longest = np.zeros_like(q), 0, 0
        while visited.any():
            n += 1
            reached = reached + exactly * (1 - 0.9 * n / max_steps)
            told = ((reached[rows, best][:, None] > reached + 1e-12) | ~worse).all(1)
            if (visited & told).any():
                longest = n
            visited = visited & ~told
            exactly = self.expect(exactly[rows, best])
        return longest

    def longest(self, first: np.ndarray, best: np.ndarray, limit: int) -> int:
        """Steps of the longest episode under the actions `best`, limit + 1 if it is longer than `limit`."""
        taken = best[self.source // 3] == self.source % 3
        source, target = self.source[taken] // 3, self.target[taken]
        here, n = np.zeros(len(best), bool), 0
        here[first] = True
        while here.any() and n <= limit:
            following = np.zeros_like(here)
            following[target[here[source]]] = True
            here, n = following, n + 1
        return n

    def _visited(self, first: np.ndarray, best: np.ndarray) -> np.ndarray:
        visited = np.zeros(len(best), bool)
        visited[first] = True
        taken = best[self.source // 3] == self.source % 3
        while True:
            grown = visited.copy()
            grown[self.target[taken & visited[self.source // 3]]] = True
            if (grown == visited).all():
                return visited
            visited = grown
