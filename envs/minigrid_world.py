"""What the batched MiniGrid environments share: the step of `MiniGridEnv`, its reward, uniform draws, and a base class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from envs.env import Step, at_least
from envs.minigrid_mirror import Mirrored
from envs.minigrid_render import grid_frames
from envs.minigrid_view import (
    BALL,
    BOX,
    CLOSED,
    DOOR,
    EMPTY,
    GOAL,
    KEY,
    LAVA,
    LOCKED,
    OBJECTS,
    OBS_VALUES,
    OPAQUE,
    View,
    World,
    ahead,
    inject,
)

LEFT, RIGHT, FORWARD, PICKUP, DROP, TOGGLE, DONE = range(7)
ACTION_NAMES = ("left", "right", "forward", "pickup", "drop", "toggle", "done")
AGENT = OBJECTS.index("agent")
OVERLAPS = ("empty", "floor", "door", "goal", "lava")  # one can step onto these; onto a door if it is open


def kind(cells: Tensor) -> Tensor:
    """The object, an index into `OBJECTS`, of packed cells of any shape."""
    return cells & 0xFF


def door_state(cells: Tensor) -> Tensor:
    """The state of packed doors: `OPEN`, `CLOSED` or `LOCKED`."""
    return cells >> 16 & 0xFF


class Rules:
    """`MiniGridEnv.step` of minigrid 3.2.0 but for its reward and ends: turns, forward, pickup, drop, toggle, done.

    A locked door opens if the key of its colour is carried (which is kept), any other door opens or closes. Objects are
    picked up with an empty hand and dropped onto empty cells only. What a box holds is not part of a `World`, so toggling
    one does nothing here: these rules are exact where there are no boxes. The grid must have an outer wall.
    """

    def __init__(self, height: int, width: int, device: torch.device | str = "cpu") -> None:
        self.ahead = ahead(height, width, device)
        objects = torch.arange(len(OBJECTS))
        self.overlaps = torch.isin(objects, torch.tensor([OBJECTS.index(o) for o in OVERLAPS])).to(device)
        self.portable = torch.isin(objects, torch.tensor([KEY, BALL, BOX])).to(device)
        self.turns = torch.tensor([3, 1, 0, 0, 0, 0, 0], device=device)

    def __call__(self, world: Any, action: Tensor) -> dict[str, Tensor]:
        """The fields of the world after `action` (B,) int64; `world` has at least the fields of a `World`."""
        cells = world.grid.flatten(1)
        front = self.ahead.index_select(0, world.cell * 4 + world.direction)
        there = cells.gather(1, front.unsqueeze(1)).squeeze(1)
        object, opaque = kind(there), there >= OPAQUE
        free_hand = world.hand == EMPTY

        go = (action == FORWARD) & self.overlaps.index_select(0, object) & ~opaque
        take = (action == PICKUP) & self.portable.index_select(0, object) & free_hand
        put = (action == DROP) & (there == EMPTY) & ~free_hand
        turned = (action == TOGGLE) & (object == DOOR)

        colour = there & 0xFF00
        opened, closed = colour | DOOR, colour | DOOR | CLOSED << 16 | OPAQUE
        shut_tight = (door_state(there) == LOCKED) & (world.hand != (colour | KEY))
        door = torch.where(opaque, torch.where(shut_tight, there, opened), closed)
        after = torch.where(turned, door, torch.where(put, world.hand, there.masked_fill(take, EMPTY)))
        return {
            "grid": cells.scatter(1, front.unsqueeze(1), after.unsqueeze(1)).view_as(world.grid),
            "cell": torch.where(go, front, world.cell),
            "direction": (world.direction + self.turns.index_select(0, action)) & 3,
            "hand": torch.where(take, there, world.hand).masked_fill(put, EMPTY),
            "t": world.t + 1,
        }


class GridWorld(Mirrored):
    """A MiniGrid environment: image, rewards, ends as minigrid 3.2.0 has them; a subclass lays out the world.

    Actions: minigrid's seven, in its order. Observation: minigrid's "image", (V, V, 3) uint8 codes of object, colour and
    state (see `View`). Minigrid's "direction" is not shown; the twin (`cue_visible`) shows it as the colour code of an
    agent in the agent's own cell, where the image has nothing unless something is carried.
    Reward: 1 - 0.9 t / max_steps for success on step t, in double precision, then float32; else 0. Truncated on step
    max_steps, which may be the step of success too.

    After `load_minigrid`, every step is minigrid's own.
    """

    num_actions, action_names = len(ACTION_NAMES), ACTION_NAMES
    obs_kind, obs_values = "symbols", OBS_VALUES
    obs_low, obs_high = 0, len(OBJECTS) - 1
    see_through_walls = False
    mission: str

    def __init__(
        self,
        num_envs: int,
        height: int,
        width: int,
        max_steps: int,
        agent_view_size: int,
        device: str | torch.device = "cpu",
        seed: int = 0,
        cue_visible: bool = False,
    ) -> None:
        self.height, self.width = height, width
        self.max_steps = at_least("max_steps", max_steps, 1)
        self.agent_view_size = at_least("agent_view_size", agent_view_size, 3)
        super().__init__(num_envs, device, seed, cue_visible)

    def prepare(self) -> None:
        self.view = View(self.height, self.width, self.agent_view_size, self.see_through_walls, self.device)
        self.rules = Rules(self.height, self.width, self.device)
        # one entry more: `step` also moves, and then overwrites, what has ended
        payoff = 1 - 0.9 * (np.arange(self.max_steps + 2) / self.max_steps)
        self._payoff = torch.from_numpy(payoff).to(self.device)
        self._rewards = self._payoff.to(torch.float32)
        self._empty = torch.full((self.num_envs,), EMPTY, dtype=torch.int32, device=self.device)
        self._compass = torch.arange(4, device=self.device)

    def act(self, state: Any, action: Tensor) -> tuple[Any, Tensor, Tensor, Tensor]:
        after = state._replace(**self.rules(state, action))
        won, over = self.judge(state, after, action)
        reward = self._rewards.index_select(0, after.t).masked_fill(~won, 0.0)
        return after, reward, won | over, after.t >= self.max_steps

    def judge(self, before: Any, after: Any, action: Tensor) -> tuple[Tensor, Tensor]:
        """Where the step succeeded, (B,) bool, and where else it ended the episode: here, the goal and the lava."""
        at = after.grid.flatten(1).gather(1, after.cell.unsqueeze(1)).squeeze(1)
        moved = after.cell != before.cell
        return moved & (at == GOAL), moved & (at == LAVA)

    def observe(self, state: Any) -> Tensor:
        return self.view(state.grid, state.cell, state.direction, state.hand)

    def success(self, state: Any) -> Tensor:
        return state.grid.flatten(1).gather(1, state.cell.unsqueeze(1)).squeeze(1) == GOAL

    def cue(self, state: Any) -> Tensor:
        """(B, 4) float32: the agent's direction, one-hot: what minigrid's observation has beside the image."""
        return (state.direction.unsqueeze(1) == self._compass).to(torch.float32)

    def reveal(self, state: Any, obs: Tensor) -> Tensor:
        own = obs[:, self.agent_view_size // 2, self.agent_view_size - 1]
        nothing = torch.zeros_like(state.direction)
        shown = torch.stack((nothing + AGENT, state.direction, nothing), 1).to(obs.dtype)
        own[:, :3] = torch.where((state.hand == EMPTY).unsqueeze(1), shown, own[:, :3])
        return obs

    def wanted(self, state: Any) -> Tensor:
        """(B, H, W) bool: objects that a frame marks as the right ones: here none."""
        return torch.zeros_like(state.grid, dtype=torch.bool)

    def render(self, index: Sequence[int] | None = None) -> np.ndarray:
        rows = torch.arange(self.num_envs) if index is None else torch.tensor(list(index), dtype=torch.int64)
        grid, cell, direction, t = (field.cpu()[rows] for field in (*self.state[:3], self.state.t))
        view = View(self.height, self.width, self.agent_view_size, self.see_through_walls)
        image = self.observation(self.state).cpu()[rows][..., :3]
        marks = self.wanted(self.state).cpu()[rows].to(torch.int64)
        world = (grid, cell, direction, view.visible(grid, cell, direction), image, t / self.max_steps, marks)
        return grid_frames(*(field.numpy() for field in world))

    # Gymnasium's form, which is minigrid's own.

    def world_now(self) -> World:
        return World(*(getattr(self.state, field) for field in World._fields))

    def missions(self, state: Any) -> tuple[str, ...]:
        return (self.mission,) * self.num_envs

    def mission_space(self) -> Any:
        from minigrid.core.mission import MissionSpace

        return MissionSpace(lambda: self.mission)

    def gym_space(self) -> Any:
        from gymnasium import spaces

        image = spaces.Box(0, 255, (*self.obs_shape[:2], 3), np.uint8)
        return spaces.Dict({"image": image, "direction": spaces.Discrete(4), "mission": self.mission_space()})

    def gym_observation(self, obs: Tensor) -> dict[str, Any]:
        direction, mission = self.state.direction.clone(), self.missions(self.state)
        return {"image": obs[..., :3], "direction": direction, "mission": mission}

    def gym_outcome(self, row: Step) -> tuple[Tensor, Tensor, Tensor]:
        """The reward in minigrid's precision, and both flags where an episode ends on its last step."""
        reward = self._payoff.index_select(0, self.state.t).masked_fill(row.reward == 0, 0.0)
        return reward, row.discount == 0.0, self.ended & (self.state.t >= self.max_steps)

    # States from outside.

    def load_minigrid(self, envs: Sequence[Any]) -> None:
        """Go on from the states of B minigrid environments of this kind and size, reset and not over.

        Raises:
            ValueError: another number of environments, another size or step limit.
        """
        state = self.read(envs)
        if len(envs) != self.num_envs:
            raise ValueError(f"this environment has {self.num_envs} copies, got {len(envs)} states")
        for buffer, value in zip(self.state, state, strict=True):
            buffer.copy_(value)
        self.ended.fill_(False)

    def read(self, envs: Sequence[Any]) -> Any:
        """The states of any number of minigrid environments of this kind and size, as `load_minigrid` takes them."""
        for i, env in enumerate(envs):
            one = env.unwrapped
            if (one.height, one.width, one.max_steps) != (self.height, self.width, self.max_steps):
                raise ValueError(
                    f"state {i} is of {one.width} x {one.height} cells and {one.max_steps} steps, "
                    f"not {self.width} x {self.height} and {self.max_steps}"
                )
        return self.convert(inject(envs, self.device), [env.unwrapped for env in envs])

    def convert(self, world: World, envs: Sequence[Any]) -> Any:
        """The state with this world; a subclass adds what else the minigrid environments hold."""
        return world

    # Draws for `spawn`.

    def below(self, count: Tensor | int, shape: tuple[int, ...] = ()) -> Tensor:
        """(B, *shape) int64, uniform on 0..count - 1; `count` broadcasts and is small against 2^24."""
        uniform = torch.rand(self.num_envs, *shape, generator=self.generator, device=self.device)
        return (uniform * count).to(torch.int64)

    def world(self, grid: Tensor, cell: Tensor, direction: Tensor) -> World:
        """A fresh episode: nothing carried, no step taken. `grid` (B, H * W)."""
        return World(grid.view(-1, self.height, self.width), cell, direction, self._empty, self._zero)

