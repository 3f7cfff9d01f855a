"""Tasks that are a row of questions: what is shown does not depend on the agent, and every answer is paid at once."""

from __future__ import annotations

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from envs.env import Env, Spec
from envs.render_quiz import Tile, quiz_frames


class Quiz(Env):
    """An episode of `steps` rows that can be acted on, the last Q = `questions` of them questions; then it terminates.

    A question earns 1/Q if the action is the answer, else -1/Q, so returns lie in [-1, 1]. The state has the fields `t`
    (B,) int64, steps taken, and `right` (B,) int64, right answers so far, besides the subclass's own.
    Success: at least nine in ten questions answered rightly (all of them where there are fewer than ten).
    For every quiz c = 1, R_oracle = R* = 1 (who remembers all that was shown knows each answer) and R0_credit does not
    apply; the cue is the answer due now; the cue-visible twin needs no memory: m = 0.
    """

    questions: int
    steps: int

    def prepare(self) -> None:
        self.worth = 1.0 / self.questions
        self.pass_mark = -(-9 * self.questions // 10)  # right answers that make a success
        self._choices = torch.arange(self.num_actions, device=self.device)

    @abstractmethod
    def answer(self, state: Any) -> Tensor:
        """(B,) int64: the right action; before the first question, what it would be for what was shown so far."""

    @abstractmethod
    def advance(self, state: Any) -> Any:
        """What is shown next: the state with all fields moved but `t` and `right`."""

    @abstractmethod
    def figures(self) -> Spec:
        """The spec sheet of the form that hides the answer."""

    @abstractmethod
    def tiles(self, state: Any) -> list[Tile]:
        """What a frame shows, from left to right. `state`: one environment's, as Python numbers and lists."""

    def act(self, state: Any, action: Tensor) -> tuple[Any, Tensor, Tensor, Tensor]:
        asked = state.t >= self.steps - self.questions
        right = asked & (action == self.answer(state))
        reward = torch.where(right, self.worth, -self.worth) * asked
        t = state.t + 1
        return self.advance(state)._replace(t=t, right=state.right + right), reward, t >= self.steps, self._never

    def success(self, state: Any) -> Tensor:
        return state.right >= self.pass_mark

    def oracle(self, state: Any) -> Tensor:
        return self.answer(state)

    def cue(self, state: Any) -> Tensor:
        """(B, num_actions) float32: the answer, one-hot."""
        return (self.answer(state).unsqueeze(1) == self._choices).float()

    def describe(self) -> Spec:
        spec = self.figures()
        if not self.cue_visible:
            return spec
        return dataclasses.replace(spec, memory_length=0, r0_memory=None, r0_memory_last=None, chance=1.0)

    def sheet(self, memory: int, right: float, right_last: float | None, chance: float | None) -> Spec:
        """The spec sheet, given m, the share of right answers of the best memoryless policies that see the observation
        only (`right`) and the last action and reward too (`right_last`), and their success rate."""
        return Spec(
            memory_length=memory,
            credit_length=1,
            r_oracle=1.0,
            r_star=1.0,
            r0_memory=2 * right - 1,
            r0_memory_last=None if right_last is None else 2 * right_last - 1,
            r0_credit=None,
            r_random=2 * (1 / self.num_actions) - 1,
            max_rows=self.steps + 1,
            chance=chance,
        )

    def draw(self, below: Tensor | int) -> Tensor:
        """(B,) int64, uniform in 0..below-1 (0 where below is 0), but for a bias of at most below / 2^62."""
        big = torch.randint(2**62, (self.num_envs,), generator=self.generator, device=self.device)
        return big % (below.clamp(min=1) if isinstance(below, Tensor) else below)

    def render(self, index: Sequence[int] | None = None) -> np.ndarray:
        fields = [field.cpu()[slice(None) if index is None else list(index)].tolist() for field in self.state]
        states = [type(self.state)(*values) for values in zip(*fields, strict=True)]
        before = self.steps - self.questions
        return quiz_frames(
            [(self.tiles(s), s.t / self.steps, s.right, max(s.t - before, 0) - s.right) for s in states], self.questions
        )


def tail(trials: int, p: float, least: int) -> float:
    """P(at least `least` successes in `trials` independent trials of probability p), 0 < p < 1."""
    logs = [
        math.lgamma(trials + 1) - math.lgamma(j + 1) - math.lgamma(trials - j + 1)
        + j * math.log(p) + (trials - j) * math.log1p(-p)
        for j in range(max(least, 0), trials + 1)
    ]  # fmt: skip
    return math.fsum(map(math.exp, logs))
