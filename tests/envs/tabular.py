"""Exact values on small instances of any of our environments.

`Tabular(env)` enumerates the states of one episode through the environment's own `spawn`, `act` and `observation`, with
every outcome of its random draws, and gives

    value(policy)         the expected return of memoryless stochastic policies, exactly
    uniform()             that of uniformly random actions
    search(...)           the best memoryless policy that many starts of ascent find: a lower bound on R0_memory
    full_information()    the optimum of an agent that sees the whole state: R_oracle, and an upper bound on R*
    relaxed(blind)        an upper bound on R0_memory: memoryless in the contexts where `blind`, full information elsewhere
    credit_length()       c of a task whose cue is known (to an agent with memory, or in the twin)

A context is what a memoryless agent sees: the observation as a tuple, and the last action and reward if `last`. The
episode must end within `env.spec.max_rows` rows (not None). Returns are undiscounted.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from envs.env import NO_ACTION, Env

Context = tuple[float, ...]
Outcome = tuple[float, Sequence[float]]  # probability, and what torch.rand gives one environment
#: draws whose outcomes cannot be enumerated here
REFUSED = {torch.randn, torch.bernoulli, torch.multinomial, torch.randperm, torch.normal, Tensor.uniform_, Tensor.normal_,
           Tensor.random_, Tensor.bernoulli_, Tensor.exponential_}  # fmt: skip


class Script(TorchFunctionMode):
    """Inside, every torch.randint and torch.rand gives what the script says, the same in all environments of the batch;
    `asked` lists the outcomes (probability, values) that each could have had."""

    def __init__(self, uniform: Sequence[Outcome], lines: Sequence[Tensor] = ()) -> None:
        super().__init__()
        self.uniform, self.lines = uniform, lines
        self.asked: list[list[tuple[float, Tensor]]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in REFUSED:
            raise TypeError(f"cannot enumerate the outcomes of {func.__name__}")
        if func not in (torch.randint, torch.rand):
            return func(*args, **(kwargs or {}))
        numbers = args[:-1] if func is torch.randint else ()
        size = args[-1] if isinstance(args[-1], (tuple, list, torch.Size)) else args
        if func is torch.rand:
            if not self.uniform:
                raise TypeError("torch.rand needs `uniform`: the outcomes that stand for its intervals")
            outcomes = [(p, torch.tensor(values).reshape(size[1:])) for p, values in self.uniform]
        else:
            drawn = itertools.product(range(*numbers), repeat=math.prod(size[1:]))
            outcomes = [(1.0, torch.tensor(values).reshape(size[1:])) for values in drawn]
            outcomes = [(1 / len(outcomes), values) for _, values in outcomes]
        value = self.lines[len(self.asked)] if self.lines else outcomes[0][1]
        self.asked.append(outcomes)
        return value.expand(size).clone()


class Tabular:
    """Args:
    env: of any number of environments, which are states at a time here.
    last: whether the agent sees the last action and reward too.
    uniform: the outcomes of a torch.rand in the environment, each a probability and the values of one environment:
        one representative for each set of values that the environment treats alike.
    """

    def __init__(self, env: Env, last: bool = False, uniform: Sequence[Outcome] = ()) -> None:
        self.env, self.last, self.uniform_outcomes = env, last, uniform
        self.contexts: dict[Context, int] = {}
        self.layers: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []  # context, next node, reward, probability
        assert env.spec.max_rows is not None, "episodes without a limit cannot be enumerated"
        spawned = self._outcomes(env.spawn)
        self.fields = spawned[0][1]
        rows = np.concatenate([np.append(self._rows(state)[:1], [[NO_ACTION, 0.0]], 1) for _, state in spawned])
        nodes, to = np.unique(rows, axis=0, return_inverse=True)
        self.start = torch.zeros(len(nodes), dtype=torch.float64)
        self.start.index_add_(0, torch.from_numpy(to.reshape(-1)), torch.tensor([p for p, _ in spawned]).double())
        while len(nodes):
            if len(self.layers) + 1 == env.spec.max_rows:
                raise ValueError(f"an episode goes on beyond its {env.spec.max_rows} rows")
            nodes = self._layer(nodes)

    def _outcomes(self, call: Callable[[], Any]) -> list[tuple[float, Any]]:
        """(probability, result) for every outcome of the draws in `call`."""
        with Script(self.uniform_outcomes) as script:
            call()
        found = []
        for lines in itertools.product(*script.asked):
            with Script(self.uniform_outcomes, [values for _, values in lines]):
                found.append((math.prod(p for p, _ in lines), call()))
        return found

    def _rows(self, state: Any) -> np.ndarray:
        return np.concatenate([field.double().reshape(len(field), -1).numpy() for field in state], 1)

    def _states(self, rows: np.ndarray) -> Any:
        """A batch of states from rows of numbers, filled up with copies of the last."""
        rows = np.concatenate([rows, rows[-1:].repeat(self.env.num_envs - len(rows), 0)])
        widths = np.cumsum([field[0].numel() for field in self.fields])[:-1]
        parts = np.split(rows[:, : self.fields_width], widths, 1)
        fields = (torch.from_numpy(p).to(f.dtype).reshape(f.shape) for p, f in zip(parts, self.fields, strict=True))
        return type(self.fields)(*fields)

    @property
    def fields_width(self) -> int:
        return sum(field[0].numel() for field in self.fields)

    def _layer(self, nodes: np.ndarray) -> np.ndarray:
        """Adds the layer of `nodes` (rows of state, last action, last reward); returns the nodes of the next one."""
        A, B = self.env.num_actions, self.env.num_envs
        contexts, parts = [], []
        for chunk in (nodes[i : i + B] for i in range(0, len(nodes), B)):
            n, state = len(chunk), self._states(chunk)
            for seen, after in zip(self.env.observation(state)[:n].flatten(1).tolist(), chunk[:, -2:], strict=True):
                context = (*seen, *after.tolist()) if self.last else tuple(seen)
                contexts.append(self.contexts.setdefault(context, len(self.contexts)))
            moves = []
            for a in range(A):
                outcomes = self._outcomes(lambda state=state, a=a: self.env.act(state, torch.full((B,), a)))
                probability = torch.tensor([p for p, _ in outcomes], dtype=torch.float64)
                for _, (new, reward, terminated, truncated) in outcomes:
                    gained = reward.double().numpy()[:, None]
                    memory = [np.full_like(gained, a), gained] if self.last else [np.zeros_like(gained)] * 2
                    over = (terminated | truncated).numpy()[:, None]
                    moves.append(np.concatenate([self._rows(new), *memory, gained, over], 1)[:n])
            parts.append(np.stack(moves, 1))
        found = np.concatenate(parts).reshape(len(nodes), A, len(probability), -1)
        going = found[..., -1] == 0
        following, to = np.unique(found[going][:, :-2], axis=0, return_inverse=True)
        onward = np.full(going.shape, -1)
        onward[going] = to.reshape(-1)
        self.layers.append((torch.tensor(contexts), torch.from_numpy(onward), torch.from_numpy(found[..., -2].copy()),
                            probability))  # fmt: skip
        return following

    def _backward(self, choose: Callable[[int, Tensor, Tensor], Tensor], batch: int = 1) -> Tensor:
        """`choose(layer, contexts (n,), q (N, n, A)) -> (N, n)` values, backward in time; the values at the start (N,)."""
        after = torch.zeros(batch, 0, dtype=torch.float64)
        for k in reversed(range(len(self.layers))):
            context, onward, reward, probability = self.layers[k]
            padded = torch.cat((after, after.new_zeros(len(after), 1)), 1)  # index -1: the episode is over
            after = choose(k, context, ((reward + padded[:, onward]) * probability).sum(-1))
        return after @ self.start

    def value(self, policy: Tensor) -> Tensor:
        """(N, contexts, A) float64 -> (N,) expected returns."""
        return self._backward(lambda _, context, q: (policy[:, context] * q).sum(-1), len(policy))

    def uniform(self) -> float:
        A = self.env.num_actions
        return self.value(torch.full((1, len(self.contexts), A), 1 / A, dtype=torch.float64)).item()

    def full_information(self) -> float:
        return self._backward(lambda _, context, q: q.amax(-1)).item()

    def search(self, starts: int = 24, steps: int = 60, sweeps: int = 2, seed: int = 0) -> float:
        """The best return found: gradient ascent on stochastic policies from random ones, then coordinate ascent on
        deterministic ones, half of them where the gradient led to and half random."""
        A, C = self.env.num_actions, len(self.contexts)
        generator = torch.Generator().manual_seed(seed)
        logits = 2 * torch.randn(starts, C, A, generator=generator, dtype=torch.float64)
        best, logits = _ascend(lambda policy: self.value(policy), logits, steps)
        tables = torch.cat((logits.argmax(-1), torch.randint(A, (starts, C), generator=generator)))
        for _ in range(sweeps):
            for context in torch.randperm(C, generator=generator).tolist():
                tried = tables.repeat(A, 1, 1)
                tried[torch.arange(A), :, context] = torch.arange(A)[:, None]
                value = self.value(torch.nn.functional.one_hot(tried.flatten(0, 1), A).double()).view(A, -1)
                tables[:, context] = value.argmax(0)
                best = max(best, value.max().item())
        return best

    def relaxed(self, blind: Callable[[Context], bool], starts: int = 24, steps: int = 60, seed: int = 0) -> float:
        """An upper bound on the return of memoryless policies by relaxation: in contexts where `blind(context)` the agent
        acts by one distribution per context, elsewhere it sees the whole state and what comes of it.

        The few distributions are searched: all deterministic ones (enough where no blind context is met twice in an
        episode, for the bound is then convex in each), and ascent from random ones.
        """
        A = self.env.num_actions
        index = torch.tensor([-1] * len(self.contexts))
        for context, k in self.contexts.items():
            if blind(context):
                index[k] = index.max() + 1
        rows = int(index.max()) + 1

        def bound(policy: Tensor) -> Tensor:
            def choose(_: int, context: Tensor, q: Tensor) -> Tensor:
                blindly = (policy[:, index[context].clamp(min=0)] * q).sum(-1)
                return torch.where(index[context] >= 0, blindly, q.amax(-1))

            return self._backward(choose, len(policy))

        every = torch.tensor(list(itertools.islice(itertools.product(range(A), repeat=rows), 4096)))
        best = bound(torch.nn.functional.one_hot(every, A).double()).max().item()
        generator = torch.Generator().manual_seed(seed)
        logits = 2 * torch.randn(starts, rows, A, generator=generator, dtype=torch.float64)
        return max(best, _ascend(bound, logits, steps)[0])

    def credit_length(self, gamma: float = 1.0) -> int:
        """The smallest n such that the n-step return of the best action exceeds that of all worse ones, at every state that
        an optimal policy of full information visits: the one of them that needs the least. After the action the first of
        equally good ones are taken."""
        best: dict[int, Tensor] = {}
        gaps: dict[int, Tensor] = {}

        def choose(k: int, context: Tensor, q: Tensor) -> Tensor:
            best[k], gaps[k] = q[0].argmax(-1), q[0].amax(-1, keepdim=True) - q[0]
            return gamma * q.amax(-1)

        self._backward(choose)
        after = [torch.zeros(len(layer[0]), dtype=torch.float64) for layer in self.layers]
        for n in itertools.count(1):
            before, enough = [], torch.ones(1, dtype=torch.bool)  # the entry after the last state's: the episode is over
            tells = []
            for k, (context, onward, reward, probability) in enumerate(self.layers):
                coming = after[k + 1] if k + 1 < len(after) else reward.new_zeros(0)
                padded = torch.cat((coming, coming.new_zeros(1)))
                n_step = ((reward + gamma * padded[onward]) * probability).sum(-1)
                before.append(n_step[torch.arange(len(context)), best[k]])
                worse = n_step.masked_fill(gaps[k] <= 1e-9, -torch.inf).amax(-1, keepdim=True)
                tells.append((gaps[k] <= 1e-9) & (n_step > worse + 1e-9))
            for (_, onward, _, probability), told in zip(reversed(self.layers), reversed(tells), strict=True):
                goes_on = (enough[onward] | (probability == 0)).all(-1)
                enough = torch.cat(((told & goes_on).any(-1), torch.ones(1, dtype=torch.bool)))
            if enough[:-1][self.start > 0].all():
                return n
            after = before
        raise AssertionError


def _ascend(value: Callable[[Tensor], Tensor], logits: Tensor, steps: int) -> tuple[float, Tensor]:
    """Adam on (N, rows, A) logits: the best value met, and where the logits went."""
    logits = logits.clone().requires_grad_()
    optimiser = torch.optim.Adam([logits], lr=0.3)
    best = -math.inf
    for _ in range(steps):
        optimiser.zero_grad()
        now = value(logits.softmax(-1))
        (-now.sum()).backward()
        optimiser.step()
        best = max(best, now.max().item())
    return best, logits.detach()
