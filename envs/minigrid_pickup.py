"""KeyCorridor and Fetch, MiniGrid tasks without memory that end with an object in the hand: see `envs.minigrid_control`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from envs.env import Spec, at_least
from envs.minigrid_control import Control, Legs, put, room
from envs.minigrid_plan import NEVER, entering
from envs.minigrid_view import (
    BALL,
    CLOSED,
    COLOURS,
    DOOR,
    EAST,
    EMPTY,
    KEY,
    LOCKED,
    OBJECTS,
    OBS_VALUES,
    OPAQUE,
    WALL,
    World,
)
from envs.minigrid_world import DROP, PICKUP, TOGGLE, door_state, kind

CLOSED_DOOR, LOCKED_DOOR = (DOOR | how << 16 | OPAQUE for how in (CLOSED, LOCKED))  # but for the colour
IN_THE_WAY = 8.0  # what it costs the plan to have to move a key that lies in the way: more than to drop it aside


class Wanted(NamedTuple):
    """The fields of a `World`, and what is to be picked up."""

    grid: Tensor
    cell: Tensor
    direction: Tensor
    hand: Tensor
    t: Tensor
    target: Tensor  # (B,) int32: a packed cell
    phrase: Tensor  # (B,) int64: how the mission puts it, an index into `phrases`


class PickUp(Control):
    """Success is to hold the target. Both have minigrid's mission text in their Gymnasium form."""

    phrases: tuple[str, ...]

    def success(self, state: Wanted) -> Tensor:
        return state.hand == state.target

    def wanted(self, state: Wanted) -> Tensor:
        return state.grid == state.target.view(-1, 1, 1)

    def colour(self, shape: tuple[int, ...] = ()) -> Tensor:
        """(B, *shape) int32: colours drawn at random, in their place in a packed cell."""
        return (self.below(len(COLOURS), shape) << 8).to(torch.int32)

    def missions(self, state: Wanted) -> tuple[str, ...]:
        said = zip(state.phrase.tolist(), state.target.tolist(), strict=True)
        return tuple(f"{self.phrases[i]} {COLOURS[cell >> 8 & 0xFF]} {OBJECTS[cell & 0xFF]}" for i, cell in said)

    def convert(self, world: World, envs: Sequence[Any]) -> Wanted:
        said = [env.mission.rsplit(" ", 2) for env in envs]
        target = [OBJECTS.index(kind) | COLOURS.index(colour) << 8 for _, colour, kind in said]
        phrase = [self.phrases.index(phrase) for phrase, _, _ in said]
        return Wanted(*world, world.hand.new_tensor(target), world.t.new_tensor(phrase))


class KeyCorridor(PickUp):
    """MiniGrid-KeyCorridor: find the key, unlock the door, pick up the ball (`envs/keycorridor.py`, `core/roomgrid.py`).

    Rules: three columns of `num_rows` rooms of room_size x room_size cells that share their walls. The middle column is
    one hallway. Behind a locked door, to one of the rooms on the right, lies a ball; in one of the rooms on the left the
    key of the door's colour. Closed doors, of random colours, join the other rooms: a wall at a time, at random, until
    all are joined. The agent starts in the row number num_rows // 2 of the hallway, anywhere that does not face the
    locked door. To pick up the ball one must drop the key first. max_steps = 30 room_size^2.
    The mission names the ball, the only one: the image has all that it says.

    Spec sheet
      R_oracle, R*, R_random    None: the layouts are too many; the oracle's way is short but not always shortest, for it
                                counts a door that it opens on one leg as still closed on the next ones
    """

    phrases = ("pick up the",)

    def __init__(
        self,
        num_envs: int,
        room_size: int = 6,
        num_rows: int = 3,
        agent_view_size: int = 7,
        max_steps: int | None = None,
        device: str | torch.device = "cpu",
        seed: int = 0,
        cue_visible: bool = False,
    ) -> None:
        self.room_size, self.num_rows = at_least("room_size", room_size, 3), at_least("num_rows", num_rows, 1)
        steps = 30 * room_size**2 if max_steps is None else max_steps
        height, width = ((room_size - 1) * count + 1 for count in (num_rows, 3))
        super().__init__(num_envs, height, width, steps, agent_view_size, device, seed, cue_visible)

    def prepare(self) -> None:
        super().prepare()
        S, R, W, d = self.room_size - 1, self.num_rows, self.width, self.device
        layout = room(self.height, W).view(self.height, W)
        layout[::S] = WALL
        layout[:, ::S] = WALL
        layout[1:-1, S + 1 : 2 * S] = EMPTY
        self._layout = layout.view(1, -1).to(d).expand(self.num_envs, -1)
        # Doors [side, row]: into the hallway, and between rooms of a column. Both: the cell before the first one possible.
        row = torch.arange(R)
        self._across = (torch.tensor([[S], [2 * S]]) + row * S * W).to(d)
        self._down = (torch.tensor([[0], [2 * S]]) + (row[:-1] + 1) * S * W).to(d)
        self._row = row.to(d)
        start = torch.zeros(self.height, W, dtype=torch.bool)
        top = R // 2 * S
        start[top : top + S + 1, S : 2 * S + 1] = True
        self._starts = (start & (layout == EMPTY)).flatten().nonzero().squeeze(1).to(d)

    def spawn(self) -> Wanted:
        S, R, W = self.room_size - 1, self.num_rows, self.width
        inner = S - 1
        # The locked door, and all places where doors may be. [:, 0] left, [:, 1] right.
        locked_row, key_row = self.below(R), self.below(R)
        across = self._across + W * (1 + self.below(inner, (2, R)))
        down = self._down + 1 + self.below(inner, (2, R - 1))
        here = self._row == locked_row.unsqueeze(1)
        locked = torch.stack((torch.zeros_like(here), here), 1)
        # Walls get their doors in random order until all rooms are joined to the hallway: those whose number is at most
        # the largest, over rooms, of the least number at which the room is joined.
        first_across = self._uniform((2, R)).masked_fill(locked, NEVER)
        first_down = self._uniform((2, R - 1)).masked_fill(locked[..., 1:] | locked[..., :-1], NEVER)
        joined = first_across
        never = torch.full_like(joined[..., :1], NEVER)
        for _ in range(R - 1):
            from_above = torch.cat((never, torch.maximum(joined[..., :-1], first_down)), -1)
            from_below = torch.cat((torch.maximum(joined[..., 1:], first_down), never), -1)
            joined = torch.minimum(joined, torch.minimum(from_above, from_below))
        last = joined.masked_fill(locked, 0.0).amax((1, 2), keepdim=True)
        colour = self.colour()
        doors = (CLOSED_DOOR | self.colour((2, R))).masked_fill(first_across > last, WALL)
        doors = torch.where(locked, (LOCKED_DOOR | colour).view(-1, 1, 1), doors)
        doors_down = (CLOSED_DOOR | self.colour((2, R - 1))).masked_fill(first_down > last, WALL)

        target = BALL | self.colour()
        key = key_row * S * W + self._inside(inner)
        ball = locked_row * S * W + 2 * S + self._inside(inner)
        things = ((across, doors), (down, doors_down), (key, KEY | colour), (ball, target))
        grid = put(self._layout, *things)
        # Poses but the one, if it is among the starts, that faces the locked door.
        front = torch.where(locked, across, 0).amax((1, 2)) - 1
        wrong = (self._starts == front.unsqueeze(1)).to(torch.int64)
        faces, index = wrong.amax(1), wrong.argmax(1) * 4 + EAST
        pose = self.below(4 * len(self._starts) - faces)
        pose = pose + faces * (pose >= index)
        cell = self._starts.index_select(0, pose // 4)
        return Wanted(*self.world(grid, cell, pose % 4), target, self._zero)

    def _uniform(self, shape: tuple[int, ...]) -> Tensor:
        return torch.rand(self.num_envs, *shape, generator=self.generator, device=self.device)

    def _inside(self, inner: int) -> Tensor:
        """(B,) int64: any cell inside the upper left room."""
        place = self.below(inner**2)
        return (1 + place // inner) * self.width + 1 + place % inner

    def judge(self, before: Wanted, after: Wanted, action: Tensor) -> tuple[Tensor, Tensor]:
        won = (action == PICKUP) & self.success(after)
        return won, torch.zeros_like(won)

    def plan(self, state: Wanted) -> Legs:
        """Key, door, a place to drop the key off the way, ball."""
        planner, cells = self.planner, state.grid.flatten(1)
        key, door = kind(cells) == KEY, (kind(cells) == DOOR) & (door_state(cells) == LOCKED)
        locked, holding = door.any(1), kind(state.hand) == KEY
        # As long as the door is locked, later legs find it open and the key gone from where it lies.
        lying = torch.where(locked, 1.0, IN_THE_WAY).unsqueeze(1)
        later = entering(cells, locked=1.0, key=lying)
        to_ball = planner.field(later, planner.facing(cells == state.target.unsqueeze(1)))
        free = (cells == EMPTY) | key & locked.unsqueeze(1)
        aside = later.index_select(1, planner.ahead) + to_ball.cost.index_select(1, planner.onward) > to_ball.cost
        drop = planner.facing(free, to_ball.cost).masked_fill(~aside, NEVER)
        to_drop = planner.field(later, drop)
        to_door = planner.field(entering(cells, key=1.0), planner.facing(door, to_drop.cost))
        to_key = planner.field(entering(cells), planner.facing(key, to_door.cost))
        present = torch.where(locked, holding.to(torch.int64), torch.where(holding, 2, 3))
        return [(to_key, PICKUP), (to_door, TOGGLE), (to_drop, DROP), (to_ball, PICKUP)], present

    def describe(self) -> Spec:
        return self._sheet(None)

    def mission_space(self) -> Any:
        from minigrid.core.mission import MissionSpace

        say = lambda colour, kind: f"pick up the {colour} {kind}"  # noqa: E731
        return MissionSpace(say, ordered_placeholders=[sorted(COLOURS), ["ball"]])


class Fetch(PickUp):
    """MiniGrid-Fetch: among keys and balls of random colours, pick up the one that is asked for (`envs/fetch.py`).

    Rules: size x size cells, `num_objects` objects and the agent on any cells; what is asked for is one of the objects,
    and any of its kind and colour is right. Picking up anything ends the episode. Walls hide nothing. max_steps = 5 size^2.
    The mission says what to fetch. Here it is in two more codes, the same in every cell of the image: (V, V, 5), with
    0 key or 1 ball, and the colour; the first three are minigrid's image. The Gymnasium form has that image and the text.
    With three objects or more, two in front of a corner can shut off the third: such episodes cannot be won.

    Spec sheet
      R_oracle, R*, R_random    None: the layouts are too many; the oracle goes the shortest way
    """

    see_through_walls = True
    phrases = ("get a", "go get a", "fetch a", "go fetch a", "you must fetch a")
    obs_values = (*OBS_VALUES, 2, len(COLOURS))

    def __init__(
        self,
        num_envs: int,
        size: int = 8,
        num_objects: int = 3,
        agent_view_size: int = 7,
        max_steps: int | None = None,
        device: str | torch.device = "cpu",
        seed: int = 0,
        cue_visible: bool = False,
    ) -> None:
        self.size, self.num_objects = at_least("size", size, 4), at_least("num_objects", num_objects, 1)
        if num_objects >= (size - 2) ** 2:
            raise ValueError(f"num_objects must leave the agent one of {(size - 2) ** 2} cells, got {num_objects}")
        steps = 5 * size**2 if max_steps is None else max_steps
        super().__init__(num_envs, size, size, steps, agent_view_size, device, seed, cue_visible)

    def prepare(self) -> None:
        super().prepare()
        layout = room(self.size, self.size)
        self._inner = (layout == EMPTY).nonzero().squeeze(1).to(self.device)
        self._layout = layout.to(self.device).expand(self.num_envs, -1)

    def spawn(self) -> Wanted:
        N = self.num_objects
        order = torch.rand(self.num_envs, len(self._inner), generator=self.generator, device=self.device)
        places = self._inner[order.topk(N + 1, 1).indices]
        objects = (KEY + self.below(2, (N,))).to(torch.int32) | self.colour((N,))
        target = objects.gather(1, self.below(N).unsqueeze(1)).squeeze(1)
        grid = put(self._layout, (places[:, :N], objects))
        return Wanted(*self.world(grid, places[:, N], self.below(4)), target, self.below(len(self.phrases)))

    def judge(self, before: Wanted, after: Wanted, action: Tensor) -> tuple[Tensor, Tensor]:
        return self.success(after), after.hand != EMPTY

    def observe(self, state: Wanted) -> Tensor:
        asked = torch.stack((kind(state.target) - KEY, state.target >> 8), -1).to(torch.uint8)
        image = super().observe(state)
        return torch.cat((image, asked.view(-1, 1, 1, 2).expand(*image.shape[:3], 2)), -1)

    def plan(self, state: Wanted) -> Legs:
        cells = state.grid.flatten(1)
        way = self.planner.field(entering(cells), self.planner.facing(cells == state.target.unsqueeze(1)))
        return [(way, PICKUP)], torch.zeros_like(state.cell)

    def describe(self) -> Spec:
        return self._sheet(None)

    def mission_space(self) -> Any:
        from minigrid.core.mission import MissionSpace

        say = lambda phrase, colour, kind: f"{phrase} {colour} {kind}"  # noqa: E731
        return MissionSpace(say, ordered_placeholders=[list(self.phrases), sorted(COLOURS), ["key", "ball"]])
