"""Exactly N episodes of an agent, and what they say with intervals."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from agents.agent import Agent, act
from agents.statistics import wilson
from envs.env import Step, Stream
from memory_cells.wrappers import TimeGate, step_open_units


class Stopped(Exception):
    """An evaluation was broken off because `stop` said so; it has changed nothing but its own environment."""


class Episodes(NamedTuple):
    """One entry per episode, (N,) on the CPU."""

    returns: Tensor  # float64, undiscounted
    lengths: Tensor  # int64, transitions
    success: Tensor  # bool


@contextmanager
def evaluating(agent: Agent) -> Iterator[None]:
    """Eval mode (noise off) inside the block."""
    was = agent.training
    agent.eval()
    try:
        yield
    finally:
        agent.train(was)


def play(agent: Agent, env: Stream, episodes: int, generator: torch.Generator | None, stop: object = False) -> Episodes:
    """Plays `episodes` episodes; greedy without a generator, else sampled with it. Raises Stopped once `stop` is true.

    Every environment has a quota fixed beforehand, so short episodes are not over-counted; what it plays beyond the
    quota is dropped. The agent's state is carried and reset by the stream, so a recurrent agent cannot be evaluated
    without it.
    """
    B, device = env.num_envs, env.device
    quota = torch.full((B,), episodes // B, device=device)
    quota[: episodes % B] += 1
    most = int(quota.max())
    returns = torch.zeros(B, most, dtype=torch.float64, device=device)
    lengths = torch.zeros(B, most, dtype=torch.int64, device=device)
    success = torch.zeros(B, most, dtype=torch.bool, device=device)
    done = torch.zeros(B, dtype=torch.int64, device=device)
    total, length = torch.zeros(B, dtype=torch.float64, device=device), torch.zeros(B, dtype=torch.int64, device=device)
    env_index = torch.arange(B, device=device)
    row, state, steps = env.reset(), agent.initial_state(B), 0
    with torch.no_grad(), evaluating(agent):
        while steps % 16 or bool((done < quota).any()):  # ask the device only now and then
            if stop:
                raise Stopped
            output, state = agent(Step(*(x.unsqueeze(0) for x in row)), state)
            row = env.step(act(output, generator))
            total += row.reward
            length += ~row.first
            slot, ends = done.clamp(max=most - 1), env.ended & (done < quota)
            for table, now in ((returns, total), (lengths, length), (success, env.success(env.state))):
                table[env_index, slot] = torch.where(ends, now, table[env_index, slot])
            done += ends
            total, length = total * ~env.ended, length * ~env.ended
            steps += 1
    kept = torch.arange(most, device=device) < quota.unsqueeze(1)
    return Episodes(returns[kept].cpu(), lengths[kept].cpu(), success[kept].cpu())


def summarise(episodes: Episodes) -> dict[str, Any]:
    """Success rate with its 95 % Wilson interval, mean return with a 95 % bootstrap interval over these episodes.

    Both describe this one agent; a claim about a method needs several seeds.
    """
    n = len(episodes.success)
    success = wilson(int(episodes.success.sum()), n)
    returns = episodes.returns.numpy()
    return {
        "episodes": n,
        "success_rate": success.value,
        "success_interval": [success.low, success.high],
        "mean_return": float(returns.mean()),
        "return_interval": _bootstrap(returns),
        "mean_length": float(episodes.lengths.double().mean()),
    }


def _bootstrap(values: np.ndarray) -> list[float]:
    from scipy import stats

    if np.ptp(values) == 0:  # every resample is the same
        return [float(values[0])] * 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        found = stats.bootstrap(
            (values,), np.mean, n_resamples=2000, method="percentile", rng=np.random.default_rng(0), batch=200
        )
    return [float(found.confidence_interval.low), float(found.confidence_interval.high)]


def computation(agent: Agent, lengths: Tensor) -> dict[str, Any]:
    """What its time gates had the core compute in episodes of these lengths, (N,) int64, at the rows that were acted on:
    executed multiply-adds of its matrix products, all there were, and the share of unit updates made. {} for a core without.

    A time gate looks at nothing but the row's number in its episode, so the lengths are all it takes.
    """
    gates = agent.core.time_gates(agent.initial_state(1))
    if not gates:
        return {}
    times = torch.bincount(lengths)[1:].flip(0).cumsum(0).flip(0).unsqueeze(1)  # episodes that have a row 1, 2, ...
    first, device = torch.arange(len(times)).unsqueeze(1) == 0, next(agent.parameters()).device
    with evaluating(agent):
        counts = [gate.multiply_adds(first.to(device), state, times.to(device)) for gate, state in gates]
    executed, total = ([int(n) for n in each] for each in zip(*counts, strict=True))
    share = sum(part / whole for part, whole in zip(executed, total, strict=True)) / len(gates)
    return {"unit_updates": share, "multiply_adds": sum(executed), "multiply_adds_total": sum(total)}


def row_seconds(agent: Agent, rows: int) -> dict[str, float]:
    """Measured seconds that a time-gated core takes for one row of one environment, the mean over an episode's first `rows`
    and the best of three: "plain", as acting does it, and "open_units", with the rows of closed units left out. {} where
    `step_open_units` does not apply.
    """
    core, like = agent.core, next(agent.parameters())
    if not isinstance(core, TimeGate):
        return {}
    x = torch.zeros(rows, 1, core.input_size, dtype=like.dtype, device=like.device)  # what is open is a matter of time

    def plain(row, state):
        return core.step(tuple(z[0] for z in core.project(row.unsqueeze(0))), state)

    def seconds(step) -> float:
        state, began = core.initial_state(1), time.perf_counter()
        for row in x:
            state = step(row, state)
        float(state[-1])  # waits for the device
        return (time.perf_counter() - began) / rows

    with torch.no_grad(), evaluating(agent):
        try:
            step_open_units(core, x[0], core.initial_state(1))
        except ValueError:
            return {}
        ways = {"plain": plain, "open_units": lambda row, state: step_open_units(core, row, state)[0]}
        return {name: min(seconds(step) for _ in range(3)) for name, step in ways.items()}


def evaluate(agent: Agent, env: Stream, episodes: int, seed: int, stop: object = False) -> dict[str, Any]:
    """Greedy and sampled play from the same seed, with chance and optimum beside them. Raises Stopped as `play` does.

    "score" is `Spec.score` of the mean return: 0 without the ability under test, 1 at the optimum; None where undefined.
    `env` is the evaluation's own and is reseeded; no other generator is touched.
    """

    def summary(generator: torch.Generator | None) -> dict[str, Any]:
        env.seed(seed)
        played = play(agent, env, episodes, generator, stop)
        return summarise(played) | computation(agent, played.lengths)

    greedy, sampled = summary(None), summary(torch.Generator(env.device).manual_seed(seed + 1))
    spec = env.spec.seeing_last(agent.see_last_action or agent.see_last_reward)
    for found in (greedy, sampled):
        found["score"] = spec.score(found["mean_return"])
    reference = {"chance": spec.chance, "r_star": spec.r_star, "r0_memory": spec.r0_memory, "r_random": spec.r_random}
    return {"seed": seed, "episodes": episodes, "greedy": greedy, "sampled": sampled, "reference": reference}
