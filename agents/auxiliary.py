"""Auxiliary losses on the core's state: reconstruct the past, or predict the future, from what the state holds.

Trinh, Dai, Luong & Le 2018 (arXiv 1803.00144), carried over from sequences to the agent's stream: at an anchor row a
decoder starts from the core's state and runs over a segment of rows, told each true row before the next. The paper's
anchors are drawn per sequence; ours once per update and minibatch, for all its environments (those with an episode's
boundary in between are masked). Its regression on pixels becomes one on observations and rewards, and cross-entropy on
actions and on the codes of symbolic observations.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agents.agent import Agent
from agents.losses import masked_mean
from agents.observations import Codes, Numbers
from agents.rollout import Rollout
from envs.env import Step
from memory_cells.cells import Cell, State, is_clock

#: errors are logged apart for rows this far (at most) from the anchor
DISTANCES = (1, 4, 16, 64, 256, 1024)


@dataclass(frozen=True)
class AuxiliarySettings:
    """`configs/schema.py` documents each under the same name."""

    kind: str  # "reconstruct" or "predict"
    cost: float
    anchors: int
    segment: int
    truncation: int
    memory: int
    pretrain_updates: int
    decoder_size: int
    decoder_layers: int


class Auxiliary(nn.Module):
    """The decoder and its loss. Needs the agent only for its sizes."""

    def __init__(self, agent: Agent, target: Numbers | Codes, settings: AuxiliarySettings):
        super().__init__()
        self.settings, self.num_actions, self.target = settings, agent.num_actions, target
        size, layers = settings.decoder_size, settings.decoder_layers
        width = flat_state(agent.core, agent.initial_state(1)).shape[-1]
        self.start = nn.Linear(width, 2 * size)  # state -> (h, c) of the bottom layer; the upper ones start at zero
        self.decoder = nn.LSTM(target.size + self.num_actions + 1, size, layers)
        outputs = target.size + 1 + (self.num_actions if settings.kind == "reconstruct" else 0)
        self.readout = nn.Sequential(nn.Linear(size, size), nn.ReLU(), nn.Linear(size, outputs))

    def loss(self, agent: Agent, rollout: Rollout, state: State, generator: torch.Generator) -> tuple[Tensor, dict]:
        """Mean loss over `anchors` draws, and errors by distance. A draw where every environment has an episode's boundary
        between segment and anchor asks for nothing and counts for nothing; without another an error is NaN, the loss 0.

        state: the core's state before the rollout's first row. generator: on the CPU; it decides positions, which are
        the same for all environments, so no tensor is read back from the device.
        """
        drawn = [self._anchor(agent, rollout, state, generator) for _ in range(self.settings.anchors)]
        asked = torch.stack([some for _, _, some in drawn]).to(drawn[0][0].dtype)
        errors = {}
        for name in dict.fromkeys(name for _, log, _ in drawn for name in log):
            found, weight = zip(*((log[name], w) for (_, log, _), w in zip(drawn, asked, strict=True) if name in log))
            errors[name] = (torch.stack(found) * torch.stack(weight)).sum() / torch.stack(weight).sum()
        return torch.stack([term for term, _, _ in drawn]).sum() / asked.sum().clamp(min=1), errors

    def _anchor(self, agent: Agent, rollout: Rollout, state: State, generator: torch.Generator):
        s, rows, past = self.settings, rollout.rows, rollout.past
        before = past.first.shape[0] if past is not None else 0
        T = rows.first.shape[0] - 1
        stream = rows if not before else Step(*(torch.cat(pair) for pair in zip(past, rows, strict=True)))
        # as long as asked for, or at first, with less behind it than `memory`, as there is
        segment = min(s.segment, T if s.kind == "predict" else before + T)
        draw = lambda low, high: int(torch.randint(low, high + 1, (), generator=generator))  # noqa: E731
        if s.kind == "predict":
            anchor = draw(1, T + 1 - segment)  # the state has seen rows 0 .. anchor - 1 of the rollout
            begin = before + anchor - 1
        else:
            anchor = draw(max(1, segment - before), T)
            begin = draw(0, before + anchor - segment)
        end = before + anchor  # of what the state has seen, counted in the stream
        held = self._state_at(agent, rollout, state, anchor)
        span = Step(*(x[begin : begin + segment + (s.kind == "predict")] for x in stream))
        last = max(end, begin + span.first.shape[0])
        same_episode = ~stream.first[begin + 1 : last].any(0)
        return *self._decode(flat_state(agent.core, held), span, same_episode, end - begin), same_episode.any()

    def _state_at(self, agent: Agent, rollout: Rollout, state: State, anchor: int) -> State:
        """The core's state after `anchor` rows, with a gradient through the last `truncation` of them."""
        cut = max(0, anchor - self.settings.truncation)
        part = lambda a, b: (Step(*(x[a:b] for x in rollout.rows)), tuple(n[a:b] for n in rollout.noise))  # noqa: E731
        if cut:
            with torch.no_grad():
                rows, noise = part(0, cut)
                _, state = agent(rows, state, noise)
        rows, noise = part(cut, anchor)
        _, state = agent(rows, tuple(x.detach() for x in state), noise)
        return state

    def _decode(self, held: Tensor, span: Step, same_episode: Tensor, distance: int):
        """Loss of predicting rows 1.. of `span` from the rows before and the held state; `distance` of row 0."""
        reward = span.reward.unsqueeze(-1)
        reconstruct = self.settings.kind == "reconstruct"
        action = span.action if reconstruct else torch.roll(span.action, -1, 0)  # the action that leads to the next row
        taken = (action.unsqueeze(-1) == torch.arange(self.num_actions, device=action.device)).float()
        x = torch.cat([self.target.read(span.obs), taken, reward], -1)[:-1]
        h, c = self.start(held).tanh().chunk(2, -1)
        pad = torch.zeros(self.decoder.num_layers - 1, *h.shape, device=h.device, dtype=h.dtype)
        y, _ = self.decoder(x, (torch.cat([h.unsqueeze(0), pad]), torch.cat([c.unsqueeze(0), pad])))
        guess_obs, guess_reward, *guess_action = self.readout(y).split(
            [self.target.size, 1] + ([self.num_actions] if reconstruct else []), -1
        )
        error = self.target.error(guess_obs, span.obs[1:]) + (guess_reward - reward[1:]).square().squeeze(-1)
        mask = same_episode.expand(error.shape)
        loss = masked_mean(error, mask)
        if reconstruct:  # a first row, which only row 0 could be, has no action
            loss = loss + masked_mean(_cross_entropy(guess_action[0], span.action[1:]), mask)
        return loss, self._by_distance(error.detach(), mask, distance)

    def _by_distance(self, error: Tensor, mask: Tensor, distance: int) -> dict[str, Tensor]:
        found, per_row = {}, torch.where(mask, error, 0).sum(1) / mask.sum(1).clamp(min=1)
        for j in range(error.shape[0]):
            away = abs(distance - 1 - j) if self.settings.kind == "reconstruct" else j + 1
            bound = next((d for d in DISTANCES if away <= d), DISTANCES[-1])
            found.setdefault(f"auxiliary_error_within_{bound}", []).append(per_row[j])
        return {name: torch.stack(rows).mean() for name, rows in found.items()}


def flat_state(core: Cell, state: State) -> Tensor:
    """All entries of the core's state side by side, (B, .); clocks left out."""
    parts = [s for name, s in zip(core.state_names, state, strict=True) if not is_clock(name)]
    return torch.cat([p.flatten(1) for p in parts], -1)


def _cross_entropy(logits: Tensor, action: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), action.clamp(min=0).flatten(), reduction="none").view(action.shape)


def remember(past: Step | None, rows: Step, memory: int) -> Step | None:
    """The last `memory` rows before the next rollout: a ring buffer kept as a slice. `rows` is (T+1, B, ...)."""
    if not memory:
        return None
    parts = [Step(*(x[:-1] for x in rows))]
    if past is not None:
        parts.insert(0, past)
    return Step(*(torch.cat(fields)[-memory:] for fields in zip(*parts, strict=True)))
