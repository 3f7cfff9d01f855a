"""Shooting a film: whole episodes, of two cue values where there are such, row by row, with what the agent did and what
its units held."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from agents.agent import Agent, act
from agents.diagnostics import has_gate
from agents.evaluate import evaluating
from envs.env import NO_ACTION, Step, Stream
from envs.group import EnvError

TRIES = 100  # resets in search of two cue values


class FilmError(ValueError):
    """A film that cannot be shot or written; the message is one line."""


class Reel(Sequence):
    """Frames (h, w, 3) uint8, kept compressed: long episodes would fill the memory. `reel[i]` is a new array."""

    def __init__(self) -> None:
        self._packed: list[tuple[bytes, tuple[int, ...]]] = []

    def append(self, frame: np.ndarray) -> None:
        self._packed.append((zlib.compress(frame.tobytes(), 1), frame.shape))

    def __len__(self) -> int:
        return len(self._packed)

    def __getitem__(self, index: int) -> np.ndarray:
        packed, shape = self._packed[index]
        return np.frombuffer(zlib.decompress(packed), np.uint8).reshape(shape)


@dataclass(frozen=True, eq=False)
class Episode:
    """One episode of n rows = n - 1 steps, on the CPU. The last row is the one after the last step."""

    frames: Reel  # n
    probs: Tensor  # (n, A): the policy on each row, that of the last row included, though it takes no action
    value: Tensor  # (n,)
    action: Tensor  # (n,) int64: taken on this row; NO_ACTION on the last
    reward: Tensor  # (n,): received on this row, a consequence of the row before
    memory: Tensor  # (n, H): the state that carries the core's memory, after this row
    keep: Tensor | None  # (n, H) in [0, 1]; None: the core has no gate
    write: Tensor | None
    success: bool | None  # None: broken off before its end
    cue: Tensor | None  # (k,)

    @property
    def rows(self) -> int:
        return len(self.frames)

    @property
    def decision(self) -> int:
        """The row of the last action."""
        return self.rows - 2


Pair = tuple[Episode, Episode]


def has_sides(film: Sequence[Pair]) -> bool:
    """Is one cue value always on the left and another one always on the right?"""
    lefts, rights = zip(*film, strict=True)
    same = all(a.cue is not None and torch.equal(a.cue, side[0].cue) for side in (lefts, rights) for a in side)
    return same and not torch.equal(lefts[0].cue, rights[0].cue)


def shoot(agent: Agent, env: Stream, pairs: int, generator: torch.Generator | None = None,
          max_steps: int | None = None) -> list[Pair]:  # fmt: skip
    """Plays `pairs` episodes of each of two cue values, or any 2 * `pairs` where the environment shows no two values so
    often or has no cue, as an evaluation does: noise off; greedy without a generator, else sampled with it. Longer ones are
    broken off after `max_steps`.

    The left of a pair has the larger cue. A function of the agent, of `env` and the states of its generator and of
    `generator`; the default generators are left as they were. `env` is the film's own and is reset; the more
    environments it has, the surer both values are found.

    Raises FilmError where the environment has no renderer, or is fewer than 2 * `pairs` environments.
    """
    if env.num_envs < 2 * pairs:
        raise FilmError(f"{pairs} pairs of episodes need {2 * pairs} environments, got {env.num_envs}")
    row, chosen = _choose(env, pairs)
    with torch.no_grad(), evaluating(agent):
        episodes = _play(agent, env, row, chosen, generator, max_steps)
    return list(zip(episodes[:pairs], episodes[pairs:], strict=True))


def _choose(env: Stream, pairs: int) -> tuple[Step, list[int]]:
    """Resets `env`, if need be until two cue values are there `pairs` times: the row, and whom to film, larger cue first."""
    row = env.reset()
    for _ in range(TRIES if env.cue(env.state) is not None else 0):
        cues = env.cue(env.state).cpu().flatten(1)
        values, member, counts = torch.unique(cues, dim=0, return_inverse=True, return_counts=True)
        enough = [v for v in reversed(range(len(values))) if counts[v] >= pairs]
        if len(enough) >= 2:
            sides = (enough[0], enough[-1])
            return row, [i for v in sides for i in (member == v).nonzero().flatten()[:pairs].tolist()]
        row = env.reset()
    return row, list(range(2 * pairs))


def _play(agent: Agent, env: Stream, row: Step, chosen: list[int], generator: torch.Generator | None,
          max_steps: int | None) -> list[Episode]:  # fmt: skip
    gated = has_gate(agent.core)
    memory = agent.core.memory
    record = [memory, "keep", "write"] if gated else [memory]
    index = torch.tensor(chosen, device=env.device)
    cue, reels = env.cue(env.state), [Reel() for _ in chosen]
    cues = [None] * len(chosen) if cue is None else cue[index].cpu()
    length, success = [0] * len(chosen), [None] * len(chosen)
    tracks: list[list[Tensor]] = []
    state, live, rows = agent.initial_state(env.num_envs), list(range(len(chosen))), 0
    while live:
        try:
            drawn = env.render([chosen[k] for k in live])
        except (NotImplementedError, EnvError) as error:
            raise FilmError(str(error)) from error
        for k, frame in zip(live, drawn, strict=True):
            reels[k].append(frame)
        output, state, traces = agent(Step(*(x.unsqueeze(0) for x in row)), state, record=record)
        action, rows = act(output, generator), rows + 1
        now = (output.logits[0].softmax(-1), output.value[0], action, row.reward, *(traces[r][0] for r in record))
        tracks.append([x[index].cpu() for x in now])
        ended, won = env.ended[index].tolist(), env.success(env.state)[index].tolist()
        for k in [k for k in live if ended[k]]:
            live.remove(k)
            length[k], success[k] = rows, won[k]
        if rows - 1 == max_steps:
            length, live = [n or rows for n in length], []
        row = env.step(action)
    columns = [torch.stack(column) for column in zip(*tracks, strict=True)]
    columns += [None] * (7 - len(columns))  # no gate
    episodes = []
    for k, n in enumerate(length):
        own = [None if column is None else column[:n, k].clone() for column in columns]
        own[2][-1] = NO_ACTION
        episodes.append(Episode(reels[k], *own, success=success[k], cue=cues[k]))
    return episodes


def rank_units(film: Sequence[Pair], top: int) -> Tensor:
    """The `top` units, at most H, whose memory tells the cue best: those higher with the left cue first. Without two
    sides (`has_sides`): those whose memory moves most, by its standard deviation over time.

    The score of a unit is the difference of its memory between the two cues over the second half of the way, up to
    and with the row of the last action (the episodes of a pair are aligned there), in units of its spread over these
    rows: a unit that holds the cue scores higher than one that answers to it at the end. A floor under the spread, a
    quarter of the root mean square over all units, keeps small units that hardly move from the top. Averages over
    the pairs. Within the two halves the best unit is the outermost.
    """
    if not has_sides(film):
        moves = sum(episode.memory.double().std(0, correction=0) for pair in film for episode in pair)
        return moves.argsort(descending=True, stable=True)[:top]
    difference, spread, size = 0.0, 0.0, 0.0
    for left, right in film:
        rows = min(left.decision, right.decision) // 2 + 1
        a, b = (e.memory[e.decision + 1 - rows : e.decision + 1].double() for e in (left, right))
        difference = difference + (a - b).mean(0) / len(film)
        spread = spread + (a.std(0, correction=0) + b.std(0, correction=0)) / (2 * len(film))
        size = size + (a.square().mean() + b.square().mean()).div(2).sqrt() / len(film)
    score = difference / (spread + 0.25 * size + 1e-12)
    best = score.abs().argsort(descending=True, stable=True)[:top]
    return best[score[best].argsort(descending=True, stable=True)]
