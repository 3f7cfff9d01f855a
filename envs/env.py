"""The stream of rows that every environment emits, and the base class that does its boundaries and randomness."""

from __future__ import annotations

import dataclasses
import math
import operator
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

NO_ACTION = -1  # `Step.action` on a `first` row: there was no action before it


class Step(NamedTuple):
    """One row of the stream: everything an agent may see at time t, for B environments.

    The last observation of an episode is a row of its own; the next row is the reset row (`first`), whose action was
    ignored (reported as `NO_ACTION`, to be read as a zero vector), whose reward is 0 and whose discount is 1.
    """

    obs: Tensor  # (B, *obs_shape), float32 in the T-mazes
    action: Tensor  # (B,) int64: a_{t-1}; -1 ("none") where `first`
    reward: Tensor  # (B,) float32: consequence of `action`
    discount: Tensor  # (B,) float32: 0 where the episode terminated on this row, else 1 (also where truncated)
    first: Tensor  # (B,) bool: this row starts an episode; it is no transition


@dataclasses.dataclass(frozen=True)
class Spec:
    """The spec sheet of an environment: undiscounted expected returns and lengths in steps. None: does not apply."""

    memory_length: int | None  # m: rows from the last sight of the needed bit to the row of the decision
    credit_length: int | None  # c: smallest n whose n-step return tells the best action from all worse ones
    r_oracle: float | None  # best return with the hidden state known
    r_star: float | None  # best return over policies of the history
    r0_memory: float | None  # best memoryless return, seeing the observation only
    r0_memory_last: float | None  # best memoryless return, seeing observation, last action and last reward
    r0_credit: float | None  # best return of a learner that assigns no credit over more than one step
    r_random: float | None  # return of uniformly random actions
    max_rows: int | None  # rows of the longest episode, the reset row included; None if unbounded
    chance: float | None  # best success rate without memory where that is under test, else without credit, else random

    def seeing_last(self, seen: bool) -> Spec:
        """The sheet for an agent that sees its last action or reward as well, if `seen`: its memoryless best may be higher,
        its chance of success is not known, and there is no score where that best is not known or is the optimum."""
        if not seen or self.r0_memory is None or self.r0_memory_last == self.r0_memory:
            return self
        last = self.r0_memory_last
        return dataclasses.replace(self, r0_memory=last, chance=None, r_star=None if last is None else self.r_star)

    @property
    def r0(self) -> float | None:
        """Best return without an ability that the task is about: memory or credit, whichever leaves more, else any skill."""
        known = [figure for figure in (self.r0_memory, self.r0_credit) if figure is not None]
        return max(known) if known else self.r_random

    def score(self, mean_return: float) -> float | None:
        """(return - r0) / (r_star - r0): 0 without the ability under test, 1 at the optimum. None where undefined."""
        if self.r0 is None or self.r_star is None or math.isclose(self.r_star, self.r0, rel_tol=1e-9, abs_tol=1e-9):
            return None
        return (mean_return - self.r0) / (self.r_star - self.r0)


class Stream(ABC):
    """B environments that emit rows: all that an agent needs of them. `Env` are ours, batched and on the device;
    `envs.gymnasium_stream` has any other Gymnasium environment.

    `ended` (B,) bool says where the row at hand is the last of its episode; setting it elsewhere ends an episode there.
    """

    num_envs: int
    device: torch.device
    num_actions: int
    action_names: tuple[str, ...]
    obs_kind: str  # "vector"; "symbols": (..., C) uint8 codes; "pixels": (h, w, c) uint8. Picks the encoder
    obs_values: tuple[int, ...] | None  # "symbols": how many codes each of the C channels has
    obs_shape: tuple[int, ...]
    obs_dtype: torch.dtype
    ended: Tensor
    state: Any
    spec: Spec
    exact: bool = True  # `state_dict` holds all that the rest of the stream depends on
    remarks: tuple[str, ...] = ()  # for whoever starts a run, a line each

    @abstractmethod
    def reset(self) -> Step:
        """Start a fresh episode everywhere. Every row is `first`."""

    @abstractmethod
    def step(self, action: Tensor) -> Step:
        """Advance by one row; actions (B,) int64 are ignored where the last row ended its episode."""

    @abstractmethod
    def success(self, state: Any) -> Tensor:
        """(B,) bool: did the episode reach its aim? Meaningful where it just ended (`self.ended`)."""

    @abstractmethod
    def seed(self, seed: int) -> None:
        """Reseed all randomness; the episodes under way go on."""

    @abstractmethod
    def state_dict(self) -> dict[str, Tensor]:
        """What `load_state_dict` continues from, exactly if `exact`."""

    @abstractmethod
    def load_state_dict(self, saved: dict[str, Tensor]) -> None:
        """Continue the saved stream. Raises ValueError for a foreign dict, and then changes nothing."""

    def cue(self, state: Any) -> Tensor | None:
        """(B, k) float32, k >= 1: what is hidden and must be remembered; None where there is no such thing."""
        return None

    def cues_before(self, state: Any) -> Tensor:
        """(B,) int64: how many cues the episode has had before this one; 0 all along where an episode has one."""
        return torch.zeros(self.num_envs, dtype=torch.int64, device=self.device)

    def render(self, index: Sequence[int] | None = None) -> np.ndarray:
        """Draw the present state: (B, h, w, 3) uint8, or only the environments in `index`, in that order."""
        raise NotImplementedError(f"{type(self).__name__} has no renderer")


class Env(Stream):
    """B copies of one environment on one device, advanced together by `step`.

    A subclass sets the class attributes below and the abstract methods, all pure given their random numbers:
    they take a state (a NamedTuple of (B, ...) tensors) and return new tensors, of fixed shape and dtype, without a
    host sync. The base class owns the state buffers (updated in place, so that `step` can be captured in a CUDA
    graph; register `generator` with the graph), the random generator, and the episode boundaries (NEXT_STEP
    autoreset). A new environment stands before its first row: `reset()` and the first `step()` give the same row.

    Args:
        num_envs: B >= 1.
        device: where state, tables and generator live.
        seed: of the generator.
        cue_visible: show `cue(state)` in every observation: the fully observed twin of the task.

    Raises:
        ValueError: num_envs < 1.
    """

    num_actions: ClassVar[int]
    action_names: ClassVar[tuple[str, ...]]
    obs_kind: ClassVar[str] = "vector"
    obs_values: ClassVar[tuple[int, ...] | None] = None
    obs_low: float = -1.0  # bounds of every entry of an observation, for adapters
    obs_high: float = 1.0
    gym_attributes: ClassVar[frozenset[str]] = frozenset()

    def __init__(
        self, num_envs: int, device: str | torch.device = "cpu", seed: int = 0, cue_visible: bool = False
    ) -> None:
        self.num_envs = at_least("num_envs", num_envs, 1)
        self.device = torch.device(device)
        self.cue_visible = flag("cue_visible", cue_visible)
        self.generator = torch.Generator(self.device)
        self._no_action = torch.full((), NO_ACTION, dtype=torch.int64, device=self.device)
        self._no_reward = torch.zeros((), dtype=torch.float32, device=self.device)
        self._zero = torch.zeros(self.num_envs, dtype=torch.int64, device=self.device)  # for subclasses, never written to
        self._never = torch.zeros(self.num_envs, dtype=torch.bool, device=self.device)
        self.prepare()
        spawned = self.spawn()
        self.state: Any = type(spawned)(*(field.clone() for field in spawned))
        self.ended = torch.ones(self.num_envs, dtype=torch.bool, device=self.device)
        row = self.observation(self.state)
        self.obs_shape: tuple[int, ...] = tuple(row.shape[1:])
        self.obs_dtype = row.dtype
        if self.cue_visible and self.obs_kind == "vector":
            self.obs_low, self.obs_high = min(self.obs_low, -1.0), max(self.obs_high, 1.0)
        self.seed(seed)

    # What a subclass provides.

    def prepare(self) -> None:
        """Called once before the first `spawn`: put tables and constants on `self.device`."""

    @abstractmethod
    def spawn(self) -> Any:
        """A fresh episode for each of the B environments; draws from `self.generator` only."""

    @abstractmethod
    def act(self, state: Any, action: Tensor) -> tuple[Any, Tensor, Tensor, Tensor]:
        """(state, action (B,) int64) -> (state, reward (B,) float32, terminated (B,) bool, truncated (B,) bool)."""

    @abstractmethod
    def observe(self, state: Any) -> Tensor:
        """What the agent sees of the state: (B, ...), a new tensor."""

    @abstractmethod
    def oracle(self, state: Any) -> Tensor:
        """(B,) int64: a best action with the hidden state known."""

    @abstractmethod
    def cue(self, state: Any) -> Tensor:
        """(B, k) float32, k >= 1: the hidden cue, which the twin (`cue_visible=True`) shows in every observation."""

    @abstractmethod
    def describe(self) -> Spec:
        """Work out the spec sheet (of the twin, if `cue_visible`); read it as `spec`."""

    @cached_property
    def spec(self) -> Spec:
        """The spec sheet, worked out on first use."""
        return self.describe()

    # What Gymnasium's side sees, for environments whose published form holds more than the row.

    def gym_space(self) -> Any:
        """The Gymnasium space of one observation; None: a Box from `obs_low` to `obs_high`."""
        return None

    def gym_observation(self, obs: Tensor) -> Any:
        """A row's observation (with the present state) as `gym_space` has it: (B, ...), or a dict of such. Entries that
        are no tensors are tuples of length B."""
        return obs

    def gym_outcome(self, row: Step) -> tuple[Tensor, Tensor, Tensor]:
        """(reward float64, terminated, truncated), (B,) each, of the row that was just made."""
        terminated = row.discount == 0.0
        return row.reward.double(), terminated, self.ended & ~terminated

    def gym_attribute(self, name: str) -> Any:
        """What a single environment shows under one of the names in `gym_attributes`: of the first copy, to be read only."""
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    # The stream.

    def observation(self, state: Any) -> Tensor:
        """The row's observation: `observe(state)`, with the cue shown in the twin. (B, *obs_shape)."""
        obs = self.observe(state)
        return self.reveal(state, obs) if self.cue_visible else obs

    def reveal(self, state: Any, obs: Tensor) -> Tensor:
        """The twin's observation: the cue appended to `obs`. Grids and pictures override this and paint it in."""
        return torch.cat((obs, self.cue(state).to(obs.dtype)), -1)

    def reset(self) -> Step:
        """Start a fresh episode everywhere (the generator goes on, it is not reseeded). Every row is `first`."""
        self.ended.fill_(True)
        return self.step(torch.zeros(self.num_envs, dtype=torch.int64, device=self.device))

    def step(self, action: Tensor) -> Step:
        """Advance by one row. Environments whose last row ended their episode ignore the action and start afresh.

        Args:
            action: (B,) int64 on `self.device`. Must lie in 0..num_actions-1 where the episode goes on (not checked:
                a check would be a host sync); anything goes where it is ignored.

        Returns:
            A row of new tensors. `self.ended` says where it is the last one of its episode; there `self.state` is
            still the final state, so `self.success(self.state)` tells how the episode went.
        """
        first = self.ended.clone()
        taken = torch.where(first, self._no_action, action)
        state, reward, terminated, truncated = self.act(self.state, taken.clamp_min(0))
        for buffer, moved, fresh in zip(self.state, state, self.spawn(), strict=True):
            start = first if buffer.dim() == 1 else first.view(-1, *[1] * (buffer.dim() - 1))
            torch.where(start, fresh, moved, out=buffer)
        terminated = terminated > first  # and not first
        torch.logical_or(terminated, truncated > first, out=self.ended)
        discount = torch.empty(self.num_envs, dtype=torch.float32, device=self.device)
        return Step(
            obs=self.observation(self.state),
            action=taken,
            reward=torch.where(first, self._no_reward, reward),
            discount=torch.logical_not(terminated, out=discount),  # wins over truncation: no bootstrap after a true end
            first=first,
        )

    # Saving.

    def seed(self, seed: int) -> None:
        """Reseed the generator; the episodes under way go on."""
        self.generator.manual_seed(seed)

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of all that the rest of the stream depends on: state fields, `ended`, the generator's state."""
        fields = {f"state.{name}": value.clone() for name, value in zip(self.state._fields, self.state, strict=True)}
        return {**fields, "ended": self.ended.clone(), "generator": self.generator.get_state()}

    def load_state_dict(self, saved: dict[str, Tensor]) -> None:
        """Continue the saved stream bit for bit. All or nothing: a refused dict leaves the environment as it was.

        The state may come from another device; the generator's state may not (CPU and CUDA generators differ), so
        drop the key "generator" to keep this environment's own when moving between device types.

        Raises:
            ValueError: a key is missing or foreign, or a shape or dtype differs.
        """
        want = self.state_dict()
        for key in sorted(want.keys() ^ saved.keys()):
            if key not in want:
                raise ValueError(f"environment state has an unknown entry {key!r}; known: {', '.join(want)}")
            if key != "generator":
                raise ValueError(f"environment state lacks the entry {key!r}")
        for key, value in saved.items():
            if value.shape != want[key].shape or value.dtype != want[key].dtype:
                raise ValueError(
                    f"environment state entry {key!r} is {tuple(value.shape)} {value.dtype}, "
                    f"this environment needs {tuple(want[key].shape)} {want[key].dtype}"
                )
        if "generator" in saved:
            try:
                self.generator.set_state(saved["generator"].cpu())  # first, for it looks at the bytes and may refuse them
            except RuntimeError as error:
                raise ValueError(f"environment state entry 'generator' is no generator's: {error}") from None
        for name, buffer in zip(self.state._fields, self.state, strict=True):
            buffer.copy_(saved[f"state.{name}"])
        self.ended.copy_(saved["ended"])


def at_least(name: str, value: int, low: int) -> int:
    """`value` as an int; ValueError with one clear line unless it is an integer >= low."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or number < low:
        raise ValueError(f"{name} must be an integer >= {low}, got {value!r}")
    return number


def flag(name: str, value: bool) -> bool:
    """`value` as a bool; ValueError unless it is one, or 0 or 1: any text would be true."""
    if isinstance(value, str) or value not in (0, 1):
        raise ValueError(f"{name} must be true or false, got {value!r}")
    return bool(value)


def in_range(name: str, value: float, low: float, high: float) -> float:
    """`value` as a float; ValueError with one clear line unless it is a number in [low, high]."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if isinstance(value, (bool, str)) or not low <= number <= high:
        raise ValueError(f"{name} must be a number from {low:g} to {high:g}, got {value!r}")
    return number
