"""One update: from a rollout to new parameters."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from agents import losses, returns
from agents.agent import Agent
from agents.auxiliary import Auxiliary, remember
from agents.graphs import Recorded, Recorder
from agents.rollout import Rollout
from envs.env import Step
from memory_cells.cells import State
from memory_cells.constrained import constrain
from memory_cells.wrappers import set_progress


class NonFiniteError(RuntimeError):
    """A loss or a gradient is NaN or infinite; the step that they were for was not made."""


@dataclass(frozen=True)
class Settings:
    """What an update does; `configs/schema.py` documents each, under the same name."""

    gamma: float
    trace_lambda: float
    returns: str
    policy_loss: str
    ppo_clip: float
    rho_bar: float
    c_bar: float
    correct_off_policy: bool
    value_cost: float
    exploration: str
    exploration_mean: str
    logit_cost: float
    normalise_advantage: str
    advantage_floor: float
    reuse: int
    minibatches: int
    start_state: str
    bptt_length: int | None
    burn_in: int
    max_grad_norm: float
    budget_cost: float = 0.0


class Learner:
    """Holds the agent, its optimiser and the parameters of the last `actor_lag` updates."""

    def __init__(self, agent: Agent, actor: Agent, optimizer: torch.optim.Optimizer, settings: Settings, actor_lag: int,
                 auxiliary: Auxiliary | None = None):  # fmt: skip
        self.agent, self.actor, self.optimizer, self.settings = agent, actor, optimizer, settings
        self.history: deque[list[Tensor]] = deque(maxlen=max(actor_lag, 1))
        self.actor_lag = actor_lag
        device = next(agent.parameters()).device
        self.entropy_cost = torch.zeros((), device=device)
        self.generator = torch.Generator(device)  # order of the minibatches
        self.auxiliary, self.past, self.updates = auxiliary, None, 0
        self.positions = torch.Generator()  # of the auxiliary loss; on the CPU, so that drawing one is no host sync
        self.modules = nn.ModuleDict({"agent": agent} | ({"auxiliary": auxiliary} if auxiliary else {}))
        self._gradients, self._descend = self.gradients, self.descend

    def record(self, recorder: Recorder) -> None:
        """Both halves of a step are recorded anew from here on. An auxiliary loss, which draws its positions on the host,
        cannot be."""
        assert not self.auxiliary
        self._gradients, self._descend = Recorded(self.gradients, recorder), Recorded(self.descend, recorder)

    def schedule(self, learning_rate: float, entropy_cost: float, progress: float) -> None:
        """Before a rollout and its update: the optimiser's and the loss's values, and the cells' own by `progress`, the
        fraction of the training that is done; those of an actor that lags too."""
        set_progress(self.agent, progress)
        if self.actor is not self.agent:
            set_progress(self.actor, progress)
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(learning_rate)  # a captured step reads it from there
            else:
                group["lr"] = learning_rate
        self.entropy_cost.fill_(entropy_cost)

    def update(self, rollout: Rollout, valid: Tensor) -> dict[str, Tensor]:
        """Learns from a rollout; `valid` (T, B) is true where row t is followed by a transition to learn from.

        Returns means over the update of every loss term and diagnostic. Raises NonFiniteError before the optimiser
        steps on a bad gradient; that look at the numbers is its only host sync.
        """
        if self.auxiliary:
            rollout = rollout._replace(past=self.past)
        before = [p.detach().clone() for p in self.agent.parameters()] if self.actor_lag else []
        logs: list[dict[str, Tensor]] = []
        for _ in range(self.settings.reuse):
            for part in self._minibatches(rollout, valid):
                logs.append(self._step(*part))
        if self.actor_lag:
            self._age(before)
        if self.auxiliary:
            self.past = remember(self.past, rollout.rows, self.auxiliary.settings.memory)
        self.updates += 1
        names = dict.fromkeys(name for log in logs for name in log)
        # an auxiliary error is NaN where a minibatch was asked for nothing at that distance
        means = {name: torch.stack([log[name] for log in logs if name in log]).nanmean() for name in names}
        # of the first minibatch on fresh data alone: how far replay is from the rollout
        return means | {"ratio_error": logs[0]["ratio_error"]}

    def _age(self, before: list[Tensor]) -> None:
        """The actor gets the parameters from `actor_lag` updates ago (at first: the oldest there are)."""
        self.history.append(before)
        with torch.no_grad():
            for p, old in zip(self.actor.parameters(), self.history[0], strict=True):
                p.copy_(old)
            for b, now in zip(self.actor.buffers(), self.agent.buffers(), strict=True):  # scheduled values do not lag
                b.copy_(now)

    def _minibatches(self, rollout: Rollout, valid: Tensor) -> list[tuple[Rollout, Tensor]]:
        """The batch, or parts of its environments in random order."""
        if self.settings.minibatches == 1:
            return [(rollout, valid)]
        # sorting random keys is a permutation that a CUDA graph can capture, which randperm is not everywhere
        order = torch.rand(valid.shape[1], generator=self.generator, device=valid.device).argsort()
        return [(_columns(rollout, part), valid[:, part]) for part in order.chunk(self.settings.minibatches)]

    def _step(self, rollout: Rollout, valid: Tensor) -> dict[str, Tensor]:
        norm, log = self._gradients(rollout, valid)
        log = {name: x.clone() for name, x in log.items()}  # a replay overwrites them
        if not torch.isfinite(log["loss"] + norm):
            raise NonFiniteError(self._blame(log))
        self._descend(norm)
        return log

    def gradients(self, rollout: Rollout, valid: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Leaves the loss's gradient in the parameters; returns its norm, and every loss term and diagnostic."""
        self.optimizer.zero_grad(set_to_none=True)
        terms, scales, log = self.losses(rollout, valid)
        loss = sum(scales[name] * term for name, term in terms.items() if name in scales)
        loss.backward()
        # in float64: the gradient of a memory without bounds (NRU) is finite where its square is not
        norms = [torch.linalg.vector_norm(grad, dtype=torch.float64) for grad in self._grads()]
        norm = torch.stack(norms).norm()
        log |= {f"{name}_loss": term.detach() for name, term in terms.items()}
        return norm, log | {"loss": loss.detach(), "grad_norm": norm}

    def descend(self, norm: Tensor) -> None:
        """The optimiser's step along a gradient of this norm."""
        if self.settings.max_grad_norm:
            shrink = (self.settings.max_grad_norm / norm).clamp(max=1.0)
            for grad in self._grads():
                grad.mul_(shrink)
        self.optimizer.step()
        constrain(self.agent)

    def _grads(self) -> list[Tensor]:
        return [p.grad for p in self.modules.parameters() if p.grad is not None]

    def _blame(self, log: dict[str, Tensor]) -> str:
        for name in (name for name in log if name.endswith("_loss")):
            if not torch.isfinite(log[name]):
                return f"the {name.removesuffix('_loss')} loss is {log[name].item()}"
        for name, p in self.modules.named_parameters():
            if p.grad is not None and not torch.isfinite(p.grad).all():
                return f"the gradient of {name} is not finite"
        return f"the loss is {log['loss'].item()}"

    def losses(self, rollout: Rollout, valid: Tensor) -> tuple[dict, dict, dict]:
        """Terms, the scales of those that make the loss, and diagnostics of one minibatch."""
        s = self.settings
        output, rows, mu, valid = self._replay(rollout, valid)
        policy, value, action = output.logits[:-1].log_softmax(-1), output.value, rows.action[1:]
        log_pi, log_mu = losses.log_prob(policy, action), losses.log_prob(mu.log_softmax(-1), action)
        log_rho = torch.where(valid, (log_pi - log_mu).detach(), 0)
        ret = self._returns(value.detach(), rollout.reward[s.burn_in :], rows.discount[1:], ~valid, log_rho)
        advantage = losses.normalise(ret.advantage, valid, s.normalise_advantage, s.advantage_floor)
        if s.policy_loss == "ppo":
            improve = losses.ppo(log_pi, log_mu, advantage, valid, s.ppo_clip)
        else:
            improve = losses.policy_gradient(log_pi, ret.weight * advantage, valid)
        explore = losses.negative_entropy if s.exploration == "entropy" else losses.uniform_kl
        weight = 1.0
        if s.exploration_mean == "observations":
            weight = losses.rarity(rows.obs[:-1], rows.first[:-1], valid).to(policy)
        terms = {
            "policy": improve,
            "value": losses.value_error(value[:-1], ret.target, valid),
            "exploration": explore(policy, valid, weight),
            "logit": losses.logit_energy(policy, valid),
        }
        scales = {"policy": 1.0, "value": s.value_cost, "exploration": self.entropy_cost, "logit": s.logit_cost}
        log = {}
        if gates := self.agent.core.time_gates(self._start_state(rollout)):
            mean = lambda rows: losses.masked_mean(torch.stack(rows).mean(0)[s.burn_in : -1], valid)  # noqa: E731
            terms["budget"] = mean([gate.budget(rollout.rows.first, state) for gate, state in gates])
            log["unit_updates"] = mean([gate.unit_updates(rollout.rows.first, state) for gate, state in gates])
            scales["budget"] = s.budget_cost
        if self.auxiliary:
            terms["auxiliary"], found = self.auxiliary.loss(
                self.agent, rollout, self._start_state(rollout), self.positions
            )
            log |= found
            scales["auxiliary"] = self.auxiliary.settings.cost
            if self.updates < self.auxiliary.settings.pretrain_updates:
                scales = {"auxiliary": scales["auxiliary"]}
        with torch.no_grad():
            log |= {
                "entropy": -losses.negative_entropy(policy, valid),
                "value": losses.masked_mean(value[:-1], valid),
                "ratio_error": (log_rho.exp() - 1).abs().max(),
                "advantage_rms": losses.masked_mean(ret.advantage.square(), valid).sqrt(),
            }
        return terms, scales, log

    def _returns(self, value: Tensor, reward: Tensor, discount: Tensor, cut: Tensor, log_rho: Tensor) -> returns.Returns:
        s, discount = self.settings, self.settings.gamma * discount
        if s.returns == "gae":
            return returns.gae(value, reward, discount, cut, trace_lambda=s.trace_lambda)
        log_rho = log_rho if s.correct_off_policy else torch.zeros_like(log_rho)
        return returns.vtrace(value, reward, discount, cut, log_rho, trace_lambda=s.trace_lambda,
                              rho_bar=s.rho_bar, c_bar=s.c_bar)  # fmt: skip

    def _start_state(self, rollout: Rollout) -> State:
        if self.settings.start_state == "stored":
            return rollout.state
        return _detach(self.agent.initial_state(rollout.logits.shape[1]))

    def _replay(self, rollout: Rollout, valid: Tensor):
        """Runs the agent over the rollout's rows, in pieces of `bptt_length` between which no gradient flows."""
        s, rows, state = self.settings, rollout.rows, self._start_state(rollout)
        mu, noise = rollout.logits, rollout.noise
        if s.burn_in:
            with torch.no_grad():
                _, state = self.agent(_rows(rows, 0, s.burn_in), state, tuple(n[: s.burn_in] for n in noise))
            rows, mu, valid = _rows(rows, s.burn_in, None), mu[s.burn_in :], valid[s.burn_in :]
            noise = tuple(n[s.burn_in :] for n in noise)
        length, pieces = rows.first.shape[0], []
        step = s.bptt_length or length
        for t in range(0, length, step):
            output, state = self.agent(_rows(rows, t, t + step), _detach(state), tuple(n[t : t + step] for n in noise))
            pieces.append(output)
        joined = type(pieces[0])(*(torch.cat(field) for field in zip(*pieces, strict=True)))
        return joined, rows, mu, valid


def _detach(state: State) -> State:
    return tuple(s.detach() for s in state)


def _rows(rows: Step, start: int, stop: int | None) -> Step:
    return Step(*(field[start:stop] for field in rows))


def _columns(rollout: Rollout, part: Tensor) -> Rollout:
    """The rollout of some of the environments."""
    rows, past = (x and Step(*(field[:, part] for field in x)) for x in (rollout.rows, rollout.past))
    state = tuple(s[part] for s in rollout.state)
    noise = tuple(n[:, part] for n in rollout.noise)
    ends = rollout.ended[:, part], rollout.success[:, part]
    return Rollout(rows, rollout.reward[:, part], rollout.logits[:, part], state, noise, *ends, past)


def make_optimizer(modules: nn.Module, name: str, learning_rate: float, beta1: float, beta2: float, eps: float,
                   weight_decay: float) -> torch.optim.Optimizer:  # fmt: skip
    """Adam(W) or RMSProp. Decoupled weight decay applies to matrices only, so that no gate's bias is pulled to zero, and not
    to those that their module names in `undecayed`."""
    if name == "rmsprop" and weight_decay:
        raise ValueError("rmsprop takes no weight_decay here; use adam")
    spared = {id(getattr(part, name)) for part in modules.modules() for name in getattr(part, "undecayed", ())}
    decayed = lambda p: p.dim() > 1 and id(p) not in spared  # noqa: E731
    matrices = [p for p in modules.parameters() if decayed(p)]
    others = [p for p in modules.parameters() if not decayed(p)]
    capturable = matrices[0].device.type == "cuda"
    lr = torch.tensor(learning_rate, device=matrices[0].device) if capturable else learning_rate
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    if name == "rmsprop":
        return torch.optim.RMSprop(groups, lr=lr, alpha=beta2, eps=eps, capturable=capturable)
    return torch.optim.AdamW(groups, lr=lr, betas=(beta1, beta2), eps=eps, capturable=capturable, fused=not capturable)
