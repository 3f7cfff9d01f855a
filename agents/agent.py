"""The agent: encoder -> recurrent core -> (hidden layer) -> policy and value. It is itself unrolled like a core."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from agents.encoders import hidden
from envs.env import Step
from memory_cells.cells import Cell, State
from memory_cells.unroll import unroll


class Output(NamedTuple):
    logits: Tensor  # (T, B, A)
    value: Tensor  # (T, B)


def extra_inputs(num_actions: int, see_last_action: bool, see_last_reward: bool) -> int:
    """How many numbers an agent sees beside its observation."""
    return num_actions * see_last_action + see_last_reward


class Agent(nn.Module):
    """An actor-critic over rows of the stream.

    `encoder` maps observations (T, B, *obs_shape) and extra inputs (T, B, E) to (T, B, I), `core` these to (T, B, H); E is
    `extra_inputs(...)`. `head_size`: units of a ReLU layer between the core and both outputs, None for none; an agent that
    has to compare what it sees with what it remembers needs one, for outputs are else linear in both. Last action and last
    reward are inputs only if asked for: with them a memoryless agent can carry a bit through its own actions.
    """

    def __init__(self, encoder: nn.Module, num_actions: int, core: Cell, *, head_size: int | None = None,
                 see_last_action: bool = False, see_last_reward: bool = False, path: str = "auto"):  # fmt: skip
        super().__init__()
        self.num_actions, self.core, self.path = num_actions, core, path
        self.see_last_action, self.see_last_reward = see_last_action, see_last_reward
        self.encoder, self.head = encoder, nn.Identity()
        if head_size is not None:
            self.head = nn.Sequential(hidden(core.hidden_size, head_size), nn.ReLU())
        width = head_size or core.hidden_size
        self.policy, self.value = nn.Linear(width, num_actions), nn.Linear(width, 1)
        nn.init.orthogonal_(self.policy.weight, 0.01)  # start from an almost uniform policy
        nn.init.orthogonal_(self.value.weight, 1.0)
        nn.init.zeros_(self.policy.bias)
        nn.init.zeros_(self.value.bias)

    def initial_state(self, batch: int) -> State:
        return self.core.initial_state(batch)

    def forward(self, rows: Step, state: State, noise: tuple[Tensor, ...] | None = None, record: Sequence[str] = ()):
        """`rows` with leading (T, B); `state` before the first of them; `noise` as drawn by the core for these rows.

        Returns Output, the state after the last row, and the traces of `unroll` if `record` names any.
        """
        y, *rest = unroll(self.core, self.embed(rows), rows.first, state, path=self.path, record=record, noise=noise)
        return self.outputs(y), *rest

    def outputs(self, y: Tensor) -> Output:
        """What the agent makes of the core's output (..., H)."""
        y = self.head(y)
        return Output(self.policy(y), self.value(y).squeeze(-1))

    def embed(self, rows: Step) -> Tensor:
        """(T, B, I): what the core gets of `rows`."""
        return self.encoder(rows.obs, self._extra(rows))

    def _extra(self, rows: Step) -> Tensor:
        """(T, B, E): last action (one-hot; "none" is all zero) and last reward, as far as the agent sees them."""
        weight, extra = self.policy.weight, []
        if self.see_last_action:
            extra.append(rows.action.unsqueeze(-1) == torch.arange(self.num_actions, device=weight.device))
        if self.see_last_reward:
            extra.append(rows.reward.unsqueeze(-1))
        empty = weight.new_zeros(*rows.first.shape, 0)
        return torch.cat([empty, *(x.to(weight.dtype) for x in extra)], -1)


def act(output: Output, generator: torch.Generator | None) -> Tensor:
    """(B,) actions from a one-row Output: sampled with `generator`, greedy without one. No host sync."""
    logits = output.logits[0]
    if generator is None:
        return logits.argmax(-1)
    # argmax(p / e) with e ~ Exp(1) is a draw from p, in one fixed-shape call
    race = torch.empty_like(logits).exponential_(generator=generator)
    return (logits.log_softmax(-1) - race.log()).argmax(-1)
