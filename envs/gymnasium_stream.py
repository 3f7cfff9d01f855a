"""Any Gymnasium environment as a stream of rows, for the same agents and scripts as ours."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import gymnasium
import numpy as np
import torch
from torch import Tensor

from envs.env import NO_ACTION, Spec, Step, Stream, at_least
from envs.group import Group, Leaf, Recipe, Rows, describe
from envs.spaces import action_layout, observation_layout
from envs.vector_sources import EnvPoolSource, VectorSource
from envs.workers import Workers

VECTORIZATIONS = ("sync", "async", "vector", "envpool")


class Source(Protocol):
    """Where the rows come from: `Group`, `Workers`, `VectorSource` or `EnvPoolSource`."""

    num_envs: int
    leaves: list[Leaf]
    texts: list[str]
    action_space: gymnasium.Space
    action_names: list[str]
    max_steps: int | None
    reward_threshold: float | None

    def step(self, actions: np.ndarray, restart: np.ndarray, seeds: np.ndarray) -> Rows: ...

    def render(self, index: Sequence[int]) -> list[np.ndarray]: ...

    def close(self) -> None: ...


class Outcome(NamedTuple):
    success: Tensor  # (B,) bool


class GymnasiumStream(Stream):
    """The environments of a source, on the CPU whatever `device` the rows are for.

    Success: what the environment's `info` says on an episode's last row under "success" or "is_success"; else whether
    the episode's undiscounted return reaches `success_return`, by default the reward threshold that the environment is
    registered with; else whether that return is positive. `remarks` says which, and what is left out of observations.

    These environments cannot be saved (`exact` is False): a loaded stream starts fresh episodes, from seeds of its own.
    Seeds: environment i is reset with the i-th number drawn from the seed; those of `seed()` hold from each one's next
    reset on. The same seed gives the same rows, if the environment keeps to it.

    Args:
        source: as above. device: of the rows. seed: 0 or more.
        observation, direction: as in `envs.spaces.observation_layout`.
        success_return: see above.

    Raises:
        ValueError: observations or actions that an agent of ours cannot take.
    """

    exact = False

    def __init__(
        self,
        source: Source,
        device: str | torch.device = "cpu",
        seed: int = 0,
        observation: str = "auto",
        direction: bool = True,
        success_return: float | None = None,
    ) -> None:
        self.source, self.num_envs, self.device = source, source.num_envs, torch.device(device)
        self.layout = observation_layout(source.leaves, observation, direction)
        self.obs_kind, self.obs_shape, self.obs_values = self.layout.kind, self.layout.shape, self.layout.values
        self.obs_dtype = torch.from_numpy(np.empty(0, self.layout.dtype)).dtype
        self.actions = action_layout(source.action_space, source.action_names)
        self.num_actions, self.action_names = self.actions.count, self.actions.names
        self.spec = Spec(*[None] * 8, max_rows=source.max_steps and source.max_steps + 1, chance=None)
        threshold = source.reward_threshold if success_return is None else success_return
        self.success_return = threshold
        rule = "positive" if threshold is None else f"{threshold:g} or more"
        hidden = [leaf.name for k, leaf in enumerate(source.leaves) if k not in self.layout.used]
        endless = "episodes have no limit of steps, and an evaluation waits for their end; env.max_episode_steps=N sets one"
        self.remarks = (
            *(() if source.max_steps else (endless,)),
            *(f"of the observation, {name!r} is not shown to the agent" for name in (*source.texts, *hidden)),
            f"an episode is a success where the environment says so, or says nothing and the return is {rule}",
        )
        self.ended = torch.ones(self.num_envs, dtype=torch.bool, device=self.device)
        self.state = Outcome(torch.zeros(self.num_envs, dtype=torch.bool, device=self.device))
        self._returns, self._seed, self._loads = np.zeros(self.num_envs), seed, 0
        self._draw_seeds()

    def reset(self) -> Step:
        self.ended.fill_(True)
        return self.step(torch.zeros(self.num_envs, dtype=torch.int64, device=self.device))

    def step(self, action: Tensor) -> Step:
        """As `Stream.step`. Raises EnvError where an environment or its process fails."""
        first = self.ended.clone()
        restart = first.cpu().numpy()
        flat = np.where(restart, 0, action.cpu().numpy())
        rows = self.source.step(self.actions.decode(flat), restart, np.where(restart, self._seeds, -1))
        self._seeds[restart] = -1
        self._returns = np.where(restart, 0.0, self._returns + rows.reward)
        enough = self._returns > 0 if self.success_return is None else self._returns >= self.success_return
        put = lambda array: torch.from_numpy(np.array(array)).to(self.device)  # noqa: E731
        self.ended.copy_(put(rows.terminated | rows.truncated))
        self.state = Outcome(put(np.where(rows.success < 0, enough, rows.success > 0)))
        return Step(
            obs=torch.from_numpy(self.layout.encode(rows.leaves)).to(self.device),
            action=action.masked_fill(first, NO_ACTION),
            reward=put(rows.reward.astype(np.float32)),
            discount=put(1 - rows.terminated.astype(np.float32)),
            first=first,
        )

    def success(self, state: Outcome) -> Tensor:
        return state.success

    def seed(self, seed: int) -> None:
        self._seed, self._loads = seed, 0
        self._draw_seeds()

    def _draw_seeds(self) -> None:
        drawn = np.random.SeedSequence([self._seed, self._loads]).generate_state(self.num_envs)
        self._seeds = drawn.astype(np.int64) & 0x7FFFFFFF  # some environments take no more

    def state_dict(self) -> dict[str, Tensor]:
        """Only what it takes to go on with other episodes than those that have been."""
        return {"seed": torch.tensor(self._seed), "loads": torch.tensor(self._loads), "ended": self.ended.clone()}

    def load_state_dict(self, saved: dict[str, Tensor]) -> None:
        """Every environment starts a fresh episode on the next row. Raises ValueError for a foreign dict."""
        for key, want in self.state_dict().items():
            if key not in saved or saved[key].shape != want.shape or saved[key].dtype != want.dtype:
                raise ValueError(f"environment state entry {key!r} is missing, or not {tuple(want.shape)} {want.dtype}")
        if saved["seed"] < 0 or saved["loads"] < 0:
            raise ValueError("environment state has a negative seed")
        self._seed, self._loads = int(saved["seed"]), int(saved["loads"]) + 1
        self._draw_seeds()
        self.ended.fill_(True)

    def render(self, index: Sequence[int] | None = None) -> np.ndarray:
        """Frames, (B, h, w, 3) uint8; the source must have been made for it. Raises EnvError."""
        return np.stack(self.source.render(range(self.num_envs) if index is None else index))

    def close(self) -> None:
        self.source.close()


def make_gymnasium(
    id: str,
    num_envs: int,
    device: str | torch.device = "cpu",
    seed: int = 0,
    vectorization: str = "sync",
    workers: int | None = None,
    timeout: float = 60.0,
    kwargs: str | None = None,
    max_episode_steps: int | None = None,
    render: bool = False,
    **options: Any,
) -> GymnasiumStream:
    """The stream of `num_envs` environments `id`.

    Args:
        id: of a registered environment; "module:Id-v0" imports the module first.
        vectorization: "sync": one after the other in this process. "async": over `workers` processes (None: one for
            each CPU core). "vector": the environment's own vector form. "envpool": EnvPool's.
        timeout: seconds that a worker may take for a step.
        kwargs: arguments of the environment, "size=8,slippery=false".
        max_episode_steps: truncate episodes after so many steps. render: for `GymnasiumStream.render`.
        options: further arguments of `GymnasiumStream`.

    Raises:
        ValueError: what is wrong, in one line. EnvError: a worker process failed at the start.
    """
    at_least("num_envs", num_envs, 1)
    if max_episode_steps is not None:
        at_least("max_episode_steps", max_episode_steps, 1)
    if workers is not None and vectorization != "async":
        raise ValueError(f"workers={workers} needs vectorization=async, it is {vectorization}")
    recipe = Recipe(id, parse_kwargs(kwargs), max_episode_steps, render)
    if render:
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame draws into arrays; there need be no screen
    if vectorization == "sync":
        source: Source = Group(recipe, num_envs)
    elif vectorization == "async":
        source = Workers(recipe, num_envs, workers or os.cpu_count() or 1, timeout)
    elif vectorization == "vector":
        source = VectorSource(_own_vector_form(recipe, num_envs))
    elif vectorization == "envpool":
        source = EnvPoolSource(recipe, num_envs)
    else:
        raise ValueError(f"vectorization must be one of {', '.join(VECTORIZATIONS)}, got {vectorization!r}")
    source.max_steps = min((n for n in (max_episode_steps, source.max_steps) if n is not None), default=None)
    try:
        return GymnasiumStream(source, device, seed, **options)
    except ValueError as error:
        source.close()
        raise ValueError(f"{id}: {error}") from error


def _own_vector_form(recipe: Recipe, num_envs: int) -> gymnasium.vector.VectorEnv:
    name = recipe.load()
    limit = {} if recipe.max_episode_steps is None else {"max_episode_steps": recipe.max_episode_steps}
    try:
        return gymnasium.make_vec(name, num_envs, "vector_entry_point", **recipe.kwargs, **limit,
                                  **({"render_mode": "rgb_array"} if recipe.render else {}))  # fmt: skip
    except Exception as error:
        raise ValueError(f"cannot make {recipe.id} in a vector form of its own: {describe(error)}") from error


def parse_kwargs(text: str | None) -> dict[str, bool | int | float | str]:
    """'size=8,slippery=false,mode=rgb' -> {"size": 8, "slippery": False, "mode": "rgb"}. Raises ValueError."""
    found: dict[str, bool | int | float | str] = {}
    for part in text.split(",") if text else ():
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not key.isidentifier() or key in found or key == "render_mode":
            raise ValueError(f"kwargs={text!r}: expected name=value,name=value without render_mode, got {part!r}")
        found[key] = _scalar(value)
    return found


def _scalar(text: str) -> bool | int | float | str:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text
