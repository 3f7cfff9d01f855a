"""Everything that a training run carries from update to update, and one iteration of it."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agents.graphs import Recorded, Recorder
from agents.learner import Learner
from agents.rollout import Carry, Rollout, collect, stagger, start
from agents.tracker import EpisodeTracker, RewardScale
from envs.env import Step, Stream


@dataclass(frozen=True)
class Schedule:
    """Linear from `start` at step 0 to `start * end_fraction` at the last step."""

    start: float
    end_fraction: float

    def __call__(self, progress: float) -> float:
        return self.start * (1 + (self.end_fraction - 1) * min(progress, 1.0))


def seeds_of(seed: int) -> dict[str, int]:
    """A seed for each generator of a run, by what it draws: streams that have nothing to do with one another, nor with those
    of the next seed."""
    names = ("env", "actions", "minibatches", "positions", "decoder")
    return dict(zip(names, map(int, np.random.SeedSequence(seed).generate_state(len(names)))))


class Trainer:
    """Env, learner and all state between updates; `iterate` is one rollout and one update."""

    def __init__(self, env: Stream, learner: Learner, *, steps: int, unroll_length: int, full_episode: bool,
                 learning_rate: Schedule, entropy_cost: Schedule, normalise_reward: bool, seed: int,
                 stagger_episodes: bool = True, recorder: Recorder | None = None):  # fmt: skip
        self.env, self.learner, self.steps = env, learner, steps
        self.learning_rate, self.entropy_cost, self.full_episode = learning_rate, entropy_cost, full_episode
        if full_episode and env.spec.max_rows is None:
            raise ValueError("agent.full_episode=true needs an environment with a longest episode")
        self.unroll_length = env.spec.max_rows - 1 if full_episode else unroll_length
        seeds = seeds_of(seed)
        self.generator = torch.Generator(env.device).manual_seed(seeds["actions"])
        learner.generator.manual_seed(seeds["minibatches"])
        learner.positions.manual_seed(seeds["positions"])
        self.tracker = EpisodeTracker(env.num_envs, env.device)
        self.scale = RewardScale(env.num_envs, learner.settings.gamma, env.device) if normalise_reward else None
        self.recorder = recorder
        self._record()
        self.step = self.update = 0
        self.rollout: Rollout | None = None  # the last one, for diagnostics
        if stagger_episodes and not full_episode:
            self.carry, self.step = stagger(env, learner.actor, self.generator)
            if self.done:
                raise ValueError(f"train.steps={steps} is used up by spreading the episodes ({self.step} steps); "
                                 f"expected more, or train.stagger_episodes=false")  # fmt: skip
        else:
            self.carry = start(env, learner.actor)
        self.tracker.partial.copy_(~(self.carry.row.first | env.ended))

    @property
    def done(self) -> bool:
        return self.step >= self.steps

    def iterate(self) -> dict[str, Tensor]:
        """One rollout, one update; counts environment steps (reset rows are none)."""
        progress = self.step / self.steps
        self.learner.schedule(self.learning_rate(progress), self.entropy_cost(progress), progress)
        if self.full_episode:
            self.carry = start(self.env, self.learner.actor)
            if self.scale:
                self.scale.discounted.zero_()  # no row of an episode's start clears it
        self.rollout, valid, self.carry = self._roll(self.carry)
        log = self.learner.update(self.rollout, valid)
        self.step += int((~self.rollout.rows.first[1:]).sum())
        self.update += 1
        return log

    def roll(self, carry: Carry) -> tuple[Rollout, Tensor, Carry]:
        """One rollout with its rewards scaled and its episodes counted, where it has transitions, and what goes on."""
        rollout, carry = collect(self.env, self.learner.actor, carry, self.unroll_length, self.generator)
        valid = transitions(rollout, self.full_episode)
        self.tracker.add(rollout.reward, rollout.rows.discount[1:], valid, rollout.ended, rollout.success)
        if self.scale:
            rollout = rollout._replace(reward=self.scale(rollout.reward, rollout.rows.discount[1:], valid))
        return rollout, valid, carry

    def _record(self) -> None:
        """Rollouts and updates are recorded anew from here on, if they are at all."""
        self._roll = self.roll
        if self.recorder:
            self._roll = Recorded(self.roll, self.recorder, (self.env.generator, self.generator))
            self.learner.record(self.recorder)

    def state(self) -> dict[str, Any]:
        """Nested dict of tensors and plain numbers that the rest of the run depends on."""
        learner = self.learner
        return {
            "agent": dict(learner.agent.state_dict()),
            "optimizer": learner.optimizer.state_dict()["state"],  # its settings are the config's
            "env": self.env.state_dict(),
            "carry": {"row": list(self.carry.row), "state": list(self.carry.state)},
            "generators": {
                "act": self.generator.get_state(),
                "minibatch": learner.generator.get_state(),
                "positions": learner.positions.get_state(),
                "torch": torch.get_rng_state(),
            },
            "tracker": self.tracker.state_dict(),
            "scale": self.scale.state_dict() if self.scale else None,
            "actor": dict(learner.actor.state_dict()) if learner.actor_lag else None,
            "history": [list(entry) for entry in learner.history],
            "auxiliary": dict(learner.auxiliary.state_dict()) if learner.auxiliary else None,
            "past": list(learner.past) if learner.past else None,
            "step": self.step,
            "update": self.update,
        }

    def state_like(self, saved: dict[str, Any]) -> dict[str, Any]:
        """What `saved` should be built like: `state()`, with a history as long and an optimiser that has made a step.
        Raises KeyError, TypeError where `saved` is no state at all."""
        own, optimizer = self.state(), copy.deepcopy(self.learner.optimizer)
        for p in (p for group in optimizer.param_groups for p in group["params"]):
            p.grad = torch.zeros_like(p)
        optimizer.step()
        blank = optimizer.state_dict()["state"]
        own["optimizer"] = {index: blank[index] for index in saved["optimizer"]}
        own["history"] = [list(self.learner.agent.parameters())] * len(saved["history"])
        return own

    def load(self, saved: dict[str, Any]) -> list[str]:
        """Continues from `state()`, exactly; returns what could not be carried over, in words (generators, when the
        kind of device changed; the episodes of an environment that cannot be saved)."""
        learner, device = self.learner, self.env.device
        learner.agent.load_state_dict(saved["agent"])
        learner.optimizer.load_state_dict(learner.optimizer.state_dict() | {"state": saved["optimizer"]})
        lost = self._load_generators(saved)
        row, state = saved["carry"]["row"], saved["carry"]["state"]
        self.carry = Carry(Step(*(x.to(device) for x in row)), tuple(x.to(device) for x in state))
        self.tracker.load_state_dict(saved["tracker"])
        if not self.env.exact:
            self.tracker.running.zero_()  # of episodes that are broken off
            self.tracker.partial.zero_()
            lost.append("the resume is not exact: this environment cannot be saved, and its episodes start anew")
        if self.scale:
            self.scale.load_state_dict({k: v.to(device) for k, v in saved["scale"].items()})
        learner.history.clear()
        learner.history.extend([x.to(device) for x in entry] for entry in saved["history"])
        if learner.actor_lag:
            learner.actor.load_state_dict(saved["actor"])
        if learner.auxiliary:
            learner.auxiliary.load_state_dict(saved["auxiliary"])
            learner.past = saved["past"] and Step(*(x.to(device) for x in saved["past"]))
        self.step, self.update = saved["step"], saved["update"]
        learner.updates = self.update
        self._record()
        return lost

    def _load_generators(self, saved: dict[str, Any]) -> list[str]:
        env, generators = dict(saved["env"]), saved["generators"]
        torch.set_rng_state(generators["torch"].cpu())
        self.learner.positions.set_state(generators["positions"].cpu())
        same_kind = self.generator.get_state().shape == generators["act"].shape
        if same_kind:
            self.generator.set_state(generators["act"].cpu())
            self.learner.generator.set_state(generators["minibatch"].cpu())
        else:
            env.pop("generator", None)
        self.env.load_state_dict(env)
        return [] if same_kind else ["random generators start anew: the checkpoint is from another kind of device"]


def transitions(rollout: Rollout, full_episode: bool) -> Tensor:
    """(T, B) bool: row t is followed by a transition; in full-episode mode, one of the first episode."""
    valid = ~rollout.rows.first[1:]
    if not full_episode:
        return valid
    over = rollout.ended.cumsum(0) - rollout.ended.to(torch.int64)  # episodes ended before this transition
    return valid & (over == 0)
