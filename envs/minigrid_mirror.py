"""A batched MiniGrid environment as an object of minigrid's: what minigrid's wrappers and users' scripts read from
`env.unwrapped` (`grid`, `agent_pos`, `get_frame`, ...) beside the observation."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch

from envs.env import Env
from envs.minigrid_view import EMPTY, World, unpack

#: attributes and methods of minigrid 3.2.0's `MiniGridEnv` that read the state and change nothing
READABLE = frozenset((
    "actions", "agent_dir", "agent_pos", "agent_sees", "agent_view_size", "carrying", "dir_vec", "front_pos", "gen_obs",
    "gen_obs_grid", "get_frame", "get_full_render", "get_pov_render", "get_view_coords", "get_view_exts", "grid",
    "height", "highlight", "in_view", "max_steps", "mission", "pprint_grid", "relative_coords", "right_vec",
    "see_through_walls", "step_count", "steps_remaining", "tile_size", "width",
))  # fmt: skip


class Mirrored(Env):
    """An environment whose first copy `gym_attribute` shows as a `minigrid.minigrid_env.MiniGridEnv`, to be read only."""

    gym_attributes = READABLE
    max_steps: int
    agent_view_size: int
    see_through_walls: bool = False
    _mirror: Any = None

    @abstractmethod
    def world_now(self) -> World:
        """The present state as every MiniGrid environment has it."""

    @abstractmethod
    def missions(self, state: Any) -> tuple[str, ...]:
        """What minigrid's observations say as "mission", one for each copy."""

    def gym_attribute(self, name: str) -> Any:
        if name not in READABLE:
            return super().gym_attribute(name)
        from minigrid.core.grid import Grid
        from minigrid.core.mission import MissionSpace
        from minigrid.core.world_object import WorldObj
        from minigrid.minigrid_env import MiniGridEnv

        world = World(*(field[0].cpu() for field in self.world_now()))
        height, width = world.grid.shape
        mission = self.missions(self.state)[0]
        if self._mirror is None:
            shown = MiniGridEnv(MissionSpace(lambda: mission), width=width, height=height, max_steps=self.max_steps,
                                see_through_walls=self.see_through_walls, agent_view_size=self.agent_view_size)  # fmt: skip
            self._mirror = torch.empty(0), shown
        grid, shown = self._mirror
        if not torch.equal(grid, world.grid):
            shown.grid, _ = Grid.decode(unpack(world.grid).numpy().transpose(1, 0, 2))
            for i, thing in enumerate(shown.grid.grid):
                if thing:
                    thing.cur_pos = (i % width, i // width)
            self._mirror = world.grid.clone(), shown
        shown.mission, shown.step_count, shown.agent_dir = mission, int(world.t), int(world.direction)
        shown.agent_pos = (int(world.cell) % width, int(world.cell) // width)
        shown.carrying = None if world.hand == EMPTY else WorldObj.decode(*unpack(world.hand).tolist())
        return getattr(shown, name)
