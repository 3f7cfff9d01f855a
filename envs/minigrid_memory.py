"""MiniGrid-Memory, step for step minigrid 3.2.0, and the same rules in a corridor of any width.

The agent starts somewhere between a room and the end of a hallway, in the room lies a key or a ball, and at the hallway's
end it must turn to where the like object lies. `envs.minigrid_maze` draws the maze and numbers the poses ("places"), of
which there are few, so that a step is some gathers from tables which the generic rules and `envs.minigrid_view` filled.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from envs.env import Spec, Step, at_least
from envs.minigrid_maze import CUES, Maze, make_maze, stream_from_bytes, stream_to_bytes
from envs.minigrid_mirror import Mirrored
from envs.minigrid_optimum import figures
from envs.minigrid_render import grid_frames
from envs.minigrid_view import EMPTY, OBS_VALUES, View, World, ahead, inject, unpack

MISSION = "go to the matching object at the end of the hallway"
ACTIONS = ("left", "right", "forward", "pickup", "drop", "toggle", "done")
TABLE_BYTES = 64 * 2**20  # images of all places up to this size are tabulated


class MemoryState(NamedTuple):
    """Fields of shape (B,)."""

    place: Tensor  # int64: layout and pose of the agent, as `Maze` numbers them
    t: Tensor  # int64: steps taken in this episode


class _Memory(Mirrored):
    """What both environments share: rules, views, draws and figures over a `Maze`."""

    obs_kind = "symbols"
    obs_values = OBS_VALUES
    obs_low, obs_high = 0, 255

    def __init__(
        self,
        num_envs: int,
        device: str | torch.device,
        seed: int,
        cue_visible: bool,
        shape: tuple[int, int],
        ends: tuple[int, ...],
        max_steps: int,
        agent_view_size: int,
        actions: int,
        path: str,
        draws: str,
        scattered: bool = True,
    ) -> None:
        self.agent_view_size = at_least("agent_view_size", agent_view_size, 3)  # and what `View` says
        if actions not in (3, 7) or not isinstance(actions, int):
            raise ValueError(f"actions must be 3 (left, right, forward) or 7 (all of MiniGrid's), got {actions!r}")
        if path not in ("auto", "table", "grid"):
            raise ValueError(f"path must be 'auto', 'table' or 'grid', got {path!r}")
        if draws not in ("device", "minigrid"):
            raise ValueError(f"draws must be 'device' or 'minigrid', got {draws!r}")
        self.actions = self.num_actions = actions
        self.action_names = ACTIONS[:actions]
        self.max_steps, self.draws = at_least("max_steps", max_steps, 1), draws
        self.ends, self.scattered = ends, scattered
        self.maze: Maze = make_maze(*shape, ends)
        fits = len(self.maze.layout) * self.agent_view_size**2 * 3 <= TABLE_BYTES
        if path == "table" and not fits:
            raise ValueError(f"path='table' would take more than {TABLE_BYTES >> 20} MiB of images; use path='grid'")
        self.path, self.tabled = path, fits and path != "grid"
        super().__init__(num_envs, device, seed, cue_visible)

    def prepare(self) -> None:
        maze, d = self.maze, self.device
        self._view = View(*maze.grids.shape[1:], self.agent_view_size, device=d)
        self._area = maze.grids[0].numel()
        self._grids, self._ahead = maze.grids.to(d), ahead(*maze.grids.shape[1:], d)
        self._places = torch.stack((maze.layout, maze.cell, maze.direction)).to(d)
        self._index = maze.index.to(d)
        self._turns = torch.tensor([3, 1, *[0] * (self.num_actions - 2)], device=d)
        self._cue = maze.cue.to(d)
        self._cues = torch.tensor(CUES, dtype=torch.int32, device=d)
        self._best = maze.distance[maze.moves].argmin(1).to(d)
        t = np.arange(self.max_steps + 2)  # one more: where a row's action is ignored, `act` counts on all the same
        self._payoff = torch.from_numpy(1 - 0.9 * (t / self.max_steps)).to(d)  # float64, as minigrid computes it
        self._reward = self._payoff.to(torch.float32)
        self._starts, self._ends = maze.starts.reshape(-1).to(d), maze.ends.to(d)
        self._alike = maze.starts[:, : maze.starts.shape[1] if self.scattered else 1].reshape(-1).to(d)
        self.ended = torch.ones(self.num_envs, dtype=torch.bool, device=d)
        if self.draws == "minigrid":
            self._streams = [np.random.default_rng(0) for _ in range(self.num_envs)]
            self._drawn = torch.zeros(self.num_envs, dtype=torch.int64)
        if self.tabled:
            places = torch.arange(len(maze.layout), device=d)
            moved = [self._move(places, torch.full_like(places, action)) for action in range(self.num_actions)]
            self._next = torch.stack(moved, 1).reshape(-1)  # [num_actions * place + action] -> place
            self._images = torch.cat([self._look(chunk) for chunk in places.split(1024)]).flatten(1)

    # Draws: every layout is equally likely, and so is every start in it.

    def spawn(self) -> MemoryState:
        if self.draws == "minigrid":
            return MemoryState(self._replay(), self._zero)
        B, d, g = self.num_envs, self.device, self.generator
        if not self.scattered or len(self.ends) == 1:
            start = torch.randint(len(self._alike), (B,), generator=g, device=d)
            return MemoryState(self._alike.index_select(0, start), self._zero)
        layout = torch.randint(len(self._ends), (B,), generator=g, device=d)
        x = torch.rand(B, dtype=torch.float64, generator=g, device=d) * self._ends.index_select(0, layout)
        start = torch.add(x.to(torch.int64), layout, alpha=max(self.ends))
        return MemoryState(self._starts.index_select(0, start), self._zero)

    def _replay(self) -> Tensor:
        """(B,) int64: start places drawn on the host in minigrid's order, from the streams of environments that start."""
        for i in self.ended.cpu().numpy().nonzero()[0]:
            draw = self._streams[i].integers
            number = draw(len(self.ends)) if len(self.ends) > 1 else 0
            x = draw(self.ends[number]) if self.scattered else 0
            cue, top = draw(2), draw(2)
            self._drawn[i] = self.maze.starts[(number * 2 + cue) * 2 + top, x]
        return self._drawn.to(self.device, copy=True)

    def seed(self, seed: int) -> None:
        """Reseed the draws; with draws="minigrid" environment i draws as minigrid does after `reset(seed=seed + i)`."""
        super().seed(seed)
        if self.draws == "minigrid":
            self._streams = [np.random.Generator(np.random.PCG64(seed + i)) for i in range(self.num_envs)]

    # Rules. A step of the table path gathers what the grid path works out.

    def act(self, state: MemoryState, action: Tensor) -> tuple[MemoryState, Tensor, Tensor, Tensor]:
        if self.tabled:
            place = self._next.index_select(0, torch.add(action, state.place, alpha=self.num_actions))
        else:
            place = self._move(state.place, action)
        t = state.t + 1
        reward = self._reward.index_select(0, t) * self._succeeded(place)
        return MemoryState(place, t), reward, place >= self.maze.counts[0], t >= self.max_steps

    def observe(self, state: MemoryState) -> Tensor:
        if self.tabled:
            V = self.agent_view_size
            return self._images.index_select(0, state.place).view(-1, V, V, 3)
        return self._look(state.place)

    def _move(self, place: Tensor, action: Tensor) -> Tensor:
        layout, cell, direction = self._places.index_select(1, place)
        front = self._ahead.index_select(0, torch.add(direction, cell, alpha=4))
        free = self._grids.view(-1).index_select(0, torch.add(front, layout, alpha=self._area)) == EMPTY
        cell = torch.where(free & (action == 2), front, cell)
        direction = (direction + self._turns.index_select(0, action)) & 3
        return self._index.index_select(0, (layout * self._area + cell) * 4 + direction)

    def _look(self, place: Tensor) -> Tensor:
        layout, cell, direction = self._places.index_select(1, place)
        nothing = torch.full_like(place, EMPTY, dtype=torch.int32)
        return self._view(self._grids, cell, direction, nothing, layout)

    def _succeeded(self, place: Tensor) -> Tensor:
        return place >= self.maze.counts[1]

    def success(self, state: MemoryState) -> Tensor:
        return self._succeeded(state.place)

    def oracle(self, state: MemoryState) -> Tensor:
        """The first action of a shortest way to the right object."""
        return self._best.index_select(0, state.place)

    def cue(self, state: MemoryState) -> Tensor:
        """(B, 1) float32: -1 key, +1 ball."""
        return (2 * self._cue.index_select(0, state.place) - 1).to(torch.float32).unsqueeze(1)

    def reveal(self, state: MemoryState, obs: Tensor) -> Tensor:
        """The cue painted where MiniGrid shows a carried object, which is never seen here otherwise."""
        V = self.agent_view_size
        obs[:, V // 2, V - 1] = unpack(self._cues.index_select(0, self._cue.index_select(0, state.place)))
        return obs

    def render(self, index: Sequence[int] | None = None) -> np.ndarray:
        rows = torch.arange(self.num_envs) if index is None else torch.tensor(list(index), dtype=torch.int64)
        place, t = (field.cpu()[rows] for field in self.state)
        maze, seen = self.maze, self.observation(self.state).cpu()[rows]
        layout, cell, direction = maze.layout[place], maze.cell[place], maze.direction[place]
        grid = maze.grids[layout]
        view = View(*grid.shape[1:], self.agent_view_size)
        over = maze.index.view(len(maze.grids), -1, 4)[layout, :, 0].view(grid.shape)
        marks = (over >= maze.counts[1]) + 2 * ((over >= maze.counts[0]) & (over < maze.counts[1]))
        world = (grid, cell, direction, view.visible(grid, cell, direction), seen, t / self.max_steps, marks)
        return grid_frames(*(field.numpy() for field in world))

    # Gymnasium's form, which is minigrid's own.

    def world_now(self) -> World:
        layout, cell, direction = self._places.index_select(1, self.state.place)
        nothing = torch.full_like(layout, EMPTY, dtype=torch.int32)
        return World(self._grids.index_select(0, layout), cell, direction, nothing, self.state.t)

    def missions(self, state: Any) -> tuple[str, ...]:
        return (MISSION,) * self.num_envs

    def gym_space(self) -> Any:
        from gymnasium import spaces
        from minigrid.core.mission import MissionSpace

        image = spaces.Box(0, 255, self.obs_shape, np.uint8)
        return spaces.Dict({"image": image, "direction": spaces.Discrete(4), "mission": MissionSpace(lambda: MISSION)})

    def gym_observation(self, obs: Tensor) -> dict[str, Any]:
        direction = self._places[2].index_select(0, self.state.place)
        return {"image": obs, "direction": direction, "mission": self.missions(self.state)}

    def gym_outcome(self, row: Step) -> tuple[Tensor, Tensor, Tensor]:
        """The reward in minigrid's precision, and both flags where an episode succeeds or fails on its last step."""
        reward = self._payoff.index_select(0, self.state.t) * self._succeeded(self.state.place)
        return reward, row.discount == 0.0, self.ended & (self.state.t >= self.max_steps)

    def describe(self) -> Spec:
        shape, V = tuple(self.maze.grids.shape[1:]), self.agent_view_size
        f = figures(shape, self.ends, self.max_steps, V, self.num_actions, self.scattered, self.cue_visible)
        memoryless = None if f.leaks or self.cue_visible else f.r_oracle / 2
        return Spec(
            memory_length=f.memory_length,
            credit_length=f.credit_length,
            r_oracle=f.r_oracle,
            r_star=f.r_star,
            r0_memory=memoryless,
            r0_memory_last=memoryless,
            r0_credit=None,
            r_random=f.r_random,
            max_rows=self.max_steps + 1,
            chance=f.reach if self.cue_visible else None if f.leaks else f.reach / 2,
        )

    # Saving, and states from outside.

    def state_dict(self) -> dict[str, Tensor]:
        saved = super().state_dict()
        if self.draws == "minigrid":
            saved["streams"] = torch.stack([stream_to_bytes(stream) for stream in self._streams])
        return saved

    def load_state_dict(self, saved: dict[str, Tensor]) -> None:
        streams = [stream_from_bytes(row) for row in saved.get("streams", ())]  # first, for it may refuse them
        super().load_state_dict(saved)
        if self.draws == "minigrid":
            self._streams = streams

    def load_minigrid(self, envs: Sequence[Any]) -> None:
        """Go on from the states of B minigrid environments (`MemoryEnv`s of this size, reset and not over).

        Raises:
            ValueError: another number of environments, another size, or a state that is not one of this environment.
        """
        if len(envs) != self.num_envs:
            raise ValueError(f"this environment has {self.num_envs} copies, got {len(envs)} states")
        shape = tuple(self.maze.grids.shape[1:])
        for i, env in enumerate(envs):
            if (env.unwrapped.height, env.unwrapped.width) != shape or env.unwrapped.max_steps != self.max_steps:
                raise ValueError(f"state {i} is not of a {shape[1]} x {shape[0]} maze with {self.max_steps} steps")
        world = inject(envs)
        same = (world.grid.flatten(1).unsqueeze(1) == self.maze.grids.flatten(1)).all(2)
        layout = same.to(torch.uint8).argmax(1)
        place = self.maze.index[(layout * shape[0] * shape[1] + world.cell) * 4 + world.direction]
        good = same.any(1) & (place >= 0) & (place < self.maze.counts[0]) & (world.t < self.max_steps)
        if not good.all():
            raise ValueError(f"state {int((~good).nonzero()[0])} is over, or not one of MiniGrid-Memory")
        for buffer, value in zip(self.state, (place, world.t), strict=True):
            buffer.copy_(value)
        self.ended.fill_(False)


class MiniGridMemory(_Memory):
    """MiniGrid-MemoryS7 to S17Random and all like them, as `minigrid/envs/memory.py` of minigrid 3.2.0 has it.

    Maze: `size` x `size` cells, hallway ending at e = S - 3, or for "...Random" at e ~ U{4 ... S - 3}; see
    `envs.minigrid_maze`. The agent starts at x ~ U{1 ... e}, facing east, so mostly with its back to the cue.
    Observation (V, V, 3) uint8: MiniGrid's image; direction and mission are only in the Gymnasium form. An agent knows
    its direction from its own turns, and nothing below depends on it.
    Actions: left, right, forward; with actions=7 also MiniGrid's pickup, drop, toggle and done, which do nothing here but
    cost a step (minigrid turns pickup into toggle, so nothing can ever be carried).
    Reward: 1 - 0.9 t / (5 S^2), in float64 and then float32, where step t reaches the cell before the matching object;
    there and before the other object the episode terminates. Step 5 S^2 truncates; success on it is both, reward 0.1.
    Success: at the matching object.

    Spec sheet (V agent_view_size, e the longest hallway's; all by computation, `envs.minigrid_optimum`)
      m                      rows from the last sight of the cue to the row of the turn: e + 3 - V for V >= 5, and one
                             more for V = 3, where one must turn to see an object; of the
                             longest hallway, so 0 only where all are leaky
      c                      longest over the best policy's histories; about the length of its episodes
      R_oracle               mean of 1 - 0.9 d / (5 S^2), d the shortest way (0 where it is longer than max_steps)
      R*                     shortest path over beliefs (start, e, cue and sides are hidden, also from a view-3 agent); not
                             for hallways above 260 cells, from S35Random on, and with a max_steps below 1.8 times its
                             longest episode, where a guess may be better (None, and c too)
      R0_memory = R0_memory_last = R_oracle / 2, success 0.5, unless it leaks (then None, chance None)
        <= : if no place past the hallway's end shows the cue, one comes there only by walking east onto one cell, with the
             same row, last action and reward whatever the cue; from there a memoryless policy chooses A or B with odds
             that do not depend on the cue. For each arrangement of the objects, these odds are right for one cue and
             wrong for the other; and no success comes sooner than on the shortest way.
        >= : walk east, turn left, walk: right half of the time, on the shortest way.
      leaky                  e <= V - 1 for some e: at the hallway's end, facing west, cue and an object are seen at once or
                             a turn apart. With MiniGrid's view 7 a memoryless policy succeeds in 97 % of the episodes of S7
                             and S9; S13Random and S17Random leak in part (e = 4, 5, 6), S11 and S13 do not, nor view 3 ever.
      R0_credit              does not apply
      R_random               exact, from the distribution over places
      max_rows = 5 S^2 + 1
    Cue-visible twin: the cue's object is painted on the agent's own cell (where MiniGrid would show a carried one). m = 0,
    chance 1; R* is below R_oracle only by looking where the objects lie.

    Args:
        size: "S7", "S9", "S11", "S13", "S13Random", "S17Random", or S and any odd number >= 7, with or without "Random".
        agent_view_size: V, odd, 3 ... 23. MiniGrid's default 7 leaks in small mazes; the default here never does.
        actions: 3 or 7.
        max_steps: in place of 5 S^2, the step limit and the scale of the reward.
        path: "table" gathers next places and images from tables (built here by the generic rules), "grid" works them out
            at every step; equal. "auto": table, unless its images would take over 64 MiB.
        draws: "device": layouts come from `generator`. "minigrid": from one numpy generator per environment, on the host,
            in minigrid's order: after `seed(s)` environment i meets the layouts of `MemoryEnv` after `reset(seed=s + i)`,
            `reset()`, ... This costs a host sync per step.
        num_envs, device, seed, cue_visible: as in `Env`.

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(
        self,
        num_envs: int,
        device: str | torch.device = "cpu",
        seed: int = 0,
        cue_visible: bool = False,
        size: str = "S13",
        agent_view_size: int = 3,
        actions: int = 3,
        max_steps: int | None = None,
        path: str = "auto",
        draws: str = "device",
    ) -> None:
        match = re.fullmatch(r"S(\d{1,3})(Random)?", str(size))
        cells = int(match[1]) if match else 0
        if cells < 7 or cells % 2 == 0:
            raise ValueError(f"size must be S and an odd number >= 7, with or without Random (S13, S17Random), got {size!r}")
        self.size = size
        ends = tuple(range(4, cells - 2)) if match[2] else (cells - 3,)
        max_steps = 5 * cells**2 if max_steps is None else max_steps
        super().__init__(num_envs, device, seed, cue_visible, (cells, cells), ends, max_steps, agent_view_size, actions,
                         path, draws)  # fmt: skip


class MiniGridMemoryLong(_Memory):
    """MiniGrid-Memory in a corridor of any width: the same rules, height 7, the hallway ending at e = W - 3.

    What differs from `MiniGridMemory`: a step limit of 8 W (and so the reward 1 - 0.9 t / (8 W)), and starts at x = 1, beside
    the cue, or as there at x ~ U{1 ... e}. Published elsewhere only in another form
    (`dunnolab/xland-minigrid:src/xminigrid/envs/minigrid/memory.py`: no occlusion, another step limit).

    Spec sheet: as `MiniGridMemory`; m = W - V for V >= 5, W - 2 for V = 3, leaky for V >= W - 2; and with start="first"
      R_oracle = 1 - 0.9 (W - 1) / (8 W); R* the same for V >= 5, less for V = 3, where the object that one looks at first
      is the wrong one half of the time
    A random agent hardly ever reaches the end from x = 1 (1e-12 at W = 129), from scattered starts it does.

    Args:
        width: W >= 7.
        start: "scattered" or "first".
        max_steps: in place of 8 W, the step limit and the scale of the reward.
        agent_view_size, actions, path, draws, num_envs, device, seed, cue_visible: as in `MiniGridMemory`.

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(
        self,
        num_envs: int,
        device: str | torch.device = "cpu",
        seed: int = 0,
        cue_visible: bool = False,
        width: int = 33,
        start: str = "scattered",
        agent_view_size: int = 3,
        actions: int = 3,
        max_steps: int | None = None,
        path: str = "auto",
        draws: str = "device",
    ) -> None:
        self.width, self.start = at_least("width", width, 7), start
        if start not in ("scattered", "first"):
            raise ValueError(f"start must be 'scattered' or 'first', got {start!r}")
        max_steps = 8 * self.width if max_steps is None else max_steps
        super().__init__(num_envs, device, seed, cue_visible, (7, self.width), (self.width - 3,), max_steps,
                         agent_view_size, actions, path, draws, scattered=start == "scattered")  # fmt: skip
