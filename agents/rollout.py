"""Collecting T transitions from B environments: T + 1 rows of the stream, the last of which starts the next rollout."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from agents.agent import Agent, act
from envs.env import Step, Stream
from memory_cells.cells import State


class Carry(NamedTuple):
    """What goes on from rollout to rollout: the present row and the agent's state before it."""

    row: Step
    state: State


class Rollout(NamedTuple):
    rows: Step  # each field (T+1, B, ...)
    reward: Tensor  # (T, B): what is learned from, of transition t; rows hold what the agent saw
    logits: Tensor  # (T, B, A): behaviour policy at rows 0..T-1
    state: State  # the agent's state before row 0
    noise: tuple[Tensor, ...]  # of the core, each (T+1, B, .)
    ended: Tensor  # (T, B) bool: row t+1 is the last of its episode
    success: Tensor  # (T, B) bool: and the episode succeeded
    past: Step | None = None  # rows before row 0, each field (M, B, ...), where an auxiliary loss remembers them


def start(env: Stream, agent: Agent) -> Carry:
    """Fresh episodes and the state before their first row."""
    return Carry(env.reset(), tuple(s.detach() for s in agent.initial_state(env.num_envs)))


def stagger_rows(longest_episode: int | None) -> int:
    """Rows that `stagger` plays: an episode's length, at most 2000."""
    return min(longest_episode or 2000, 2000)


def stagger(env: Stream, agent: Agent, generator: torch.Generator) -> tuple[Carry, int]:
    """As `start`, with the environments spread over their episodes; also the environment steps that it took.

    Plays an episode's length of rows and restarts every environment once at a row drawn from these.
    Without it, episodes of one fixed length all end on the same row, a rollout sees one phase of them, and whatever a
    value function without a clock gets wrong there is the same for the whole batch.
    """
    carry, rows = start(env, agent), stagger_rows(env.spec.max_rows)
    restart = torch.randint(rows, (env.num_envs,), generator=generator, device=env.device)
    steps = torch.zeros((), dtype=torch.int64, device=env.device)
    for row in range(rows):
        env.ended.logical_or_(restart == row)
        _, carry = collect(env, agent, carry, 1, generator)
        steps += (~carry.row.first).sum()
    return carry, int(steps)


def collect(env: Stream, agent: Agent, carry: Carry, length: int, generator: torch.Generator) -> tuple[Rollout, Carry]:
    """Acts for `length` steps with `agent` (which may be older than the learner's). No gradient, no host sync."""
    row, state = carry
    rows, logits, ended, success = [row], [], [], []
    with torch.no_grad():
        noise = agent.core.draw(length + 1, env.num_envs, generator)
        for t in range(length):
            output, state = agent(Step(*(x.unsqueeze(0) for x in row)), state, tuple(n[t : t + 1] for n in noise))
            row = env.step(act(output, generator))
            rows.append(row)
            logits.append(output.logits[0])
            ended.append(env.ended.clone())
            success.append(env.success(env.state) & env.ended)
    stacked = Step(*(torch.stack(field) for field in zip(*rows, strict=True)))
    ends = torch.stack(ended), torch.stack(success)
    return Rollout(stacked, stacked.reward[1:], torch.stack(logits), carry.state, noise, *ends), Carry(row, state)
