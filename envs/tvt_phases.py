"""What the TVT tasks share: three phases with a clock, the apple orchard between, the window that the agent sees."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from envs import tvt_rooms as rooms
from envs.env import Env, at_least
from envs.tvt_render import APPLE_GREEN, HEIGHT, WIDTH, Scene, Thing, draw

RESPAWN = 20  # an apple is seen again RESPAWN + 1 rows after the one that it was taken on, and found from the next on
NEVER = 1 << 40

BACKGROUND, BORDER, PLAYER, KEY, DOOR, APPLE, WHITE, RED, GREEN, BLUE = range(10)
PALETTE = (
    (204, 204, 204), (25, 25, 25), (228, 148, 109), (159, 81, 44), (134, 206, 235), (140, 178, 0), (255, 255, 255),
    (255, 0, 0), (0, 255, 0), (0, 0, 255),
)  # fmt: skip


class ThreePhases(Env):
    """What the three tasks share: phases and clock, the apple orchard, the window that the agent sees.

    Phase 1 (`explore_length` steps), phase 2 (`distractor_length` D steps in the orchard), phase 3 (`reward_length`
    steps), then a true terminal; T = their sum. A phase's last step is taken in its room and its reward counts, but
    the row shows the first sight of the next room; with D = 0 the orchard is left out.
    Observation (5, 5, 3) uint8: RGB of the cells around the agent, which is in the middle; beyond the board as floor.
    Actions: north, south, west, east; into a wall: no move. Walls are as in the rooms' plans; other cells are free.
    Orchard: `apples` of its 22 places, drawn in each episode, hold one. Stepping on it gives `apple_reward`, or where
    `apple_reward_high` is given one of the two, drawn once per episode with equal chance (the published high-variance
    setting is 1 and 10). Taken on row t, it shows again on row t + 21 and can be taken again from row t + 22 on.
    Cue-visible twin: the cue as the colour of the middle pixel, which else shows only the agent.

    The return is the final reward (of phase 3) and the apples. The most that can be had of the apples is an orienteering
    problem of which there is no exact value, so with apples the figures that contain it (R_oracle, R*, R0_memory,
    R0_credit) are None and there is no normalised score; `success` and `chance` speak of the final reward alone and
    always apply, and so do R_random, m and c (these two of the final reward). With apples = 0 every figure is exact.

    Args:
        explore_length, reward_length: steps of phases 1 and 3, at least as many as the figures need.
        distractor_length: D >= 0.
        apples: 0..22.
        apple_reward: finite; apple_reward_high: finite or None.
        final_reward: > 0, finite.
        num_envs, device, seed, cue_visible: as in `Env`.

    Raises:
        ValueError: an argument out of range.
    """

    num_actions = 4
    action_names = ("north", "south", "west", "east")
    obs_kind = "pixels"
    obs_low, obs_high = 0, 255
    areas: tuple[rooms.Room, ...]  # of phases 1, 2, 3; key to door: also phase 3 with the door open
    least_explore: int
    least_reward: int

    def __init__(
        self,
        num_envs: int,
        device: str | torch.device = "cpu",
        seed: int = 0,
        cue_visible: bool = False,
        explore_length: int = 15,
        distractor_length: int = 60,
        reward_length: int = 15,
        apples: int = 10,
        apple_reward: float = 1.0,
        apple_reward_high: float | None = None,
        final_reward: float = 5.0,
    ) -> None:
        self.explore_length = at_least("explore_length", explore_length, self.least_explore)
        self.distractor_length = at_least("distractor_length", distractor_length, 0)
        self.reward_length = at_least("reward_length", reward_length, self.least_reward)
        self.apples = at_least("apples", apples, 0)
        if self.apples > rooms.DISTRICT:
            raise ValueError(f"apples must be at most {rooms.DISTRICT}, got {apples}")
        self.apple_reward = _number("apple_reward", apple_reward)
        self.apple_reward_high = self.apple_reward
        if apple_reward_high is not None:
            self.apple_reward_high = _number("apple_reward_high", apple_reward_high)
        self.final_reward = _number("final_reward", final_reward)
        if self.final_reward <= 0:
            raise ValueError(f"final_reward must be positive, got {final_reward!r}")
        self.orchard_end = self.explore_length + self.distractor_length
        self.episode_length = self.orchard_end + self.reward_length
        super().__init__(num_envs, device, seed, cue_visible)

    def prepare(self) -> None:
        E, end, T, n = self.explore_length, self.orchard_end, self.episode_length, rooms.CELLS
        t = np.arange(T + 2)  # one more than is read: rows after the end are computed and thrown away
        entry = np.full(T + 2, -1)
        entry[E] = self.areas[1].starts[0]
        entry[end] = self.areas[2].starts[0]
        window = rooms.windows()
        views, places = [], []
        for area in self.areas:
            code = np.full(n + 1, BACKGROUND)
            code[list(area.walls)] = BORDER
            views.append(code[window])
            views[-1][:, 12] = PLAYER
            place = np.full(n + 1, rooms.DISTRICT)
            if area is rooms.ORCHARD:
                place[list(area.marks)] = np.arange(rooms.DISTRICT)
            places.append(place)
        self._area_of = self._table((t >= E) * 1 + (t >= end))  # by row
        self._entry = self._table(entry)  # by row: where a phase begins, else -1
        self._moves = self._table([rooms.moves(area.walls) for area in self.areas]).view(-1)  # [4 * at + action]
        self._views = self._table(views).to(torch.int32).view(-1, 25)  # [at], at = 77 * area + cell
        self._places = self._table([place[beside(window)] for place in places]).view(-1, 25)
        standing = np.arange(rooms.DISTRICT + 1) == np.array(places)[:, :n, None]
        standing[..., -1] = False
        self._standing = self._table(standing).view(-1, rooms.DISTRICT + 1)  # [at] -> one-hot place
        self._palette = torch.tensor(PALETTE, dtype=torch.uint8, device=self.device)
        self._baskets = torch.from_numpy(rooms.apple_sets(self.apples)).to(self.device)
        self._bits = torch.arange(rooms.DISTRICT + 1, dtype=torch.int32, device=self.device)
        self._worth = torch.tensor([self.apple_reward, self.apple_reward_high], device=self.device)
        self._pick = self._table(rooms.directions(rooms.ORCHARD.walls, rooms.ORCHARD.marks))
        away = rooms.distances(rooms.ORCHARD.walls)[:, list(rooms.ORCHARD.marks)]
        self._away = self._table(np.where(away == 0, 2, away))

    def _table(self, values: Any) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self.device)

    def _draw(self, options: Tensor) -> Tensor:
        """One of `options` for each environment."""
        pick = torch.randint(len(options), (self.num_envs,), generator=self.generator, device=self.device)
        return options.index_select(0, pick)

    def _fresh_orchard(self) -> tuple[Tensor, Tensor]:
        """`ripe` and `worth`."""
        basket = self._draw(self._baskets).unsqueeze(1)
        empty = 1 - ((basket >> self._bits) & 1).to(torch.int64)
        return empty * NEVER, self._draw(self._worth)

    def _at(self, state: Any) -> Tensor:
        return self._area_of.index_select(0, state.t) * rooms.CELLS + state.cell

    def _walk(self, state: Any, at: Tensor, action: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """What is the same in the three tasks: `at` after the move, still in the old room; the reward of apples; and
        `cell`, `t` and `ripe` of the new row."""
        moved = self._moves.index_select(0, at * 4 + action)
        at, t = at - state.cell + moved, state.t + 1
        eaten = self._standing.index_select(0, at) & (state.ripe <= state.t.unsqueeze(1))
        ripe = torch.where(eaten, (t + RESPAWN + 1).unsqueeze(1), state.ripe)
        entry = self._entry.index_select(0, t)
        cell = torch.where(entry >= 0, entry, moved)
        return at, eaten.any(1) * state.worth, {"cell": cell, "t": t, "ripe": ripe}

    def _codes(self, state: Any, at: Tensor) -> Tensor:
        """(B, 25) int32: what the window shows of the rooms and the apples, as rows of PALETTE."""
        seen = state.ripe.gather(1, self._places.index_select(0, at)) <= state.t.unsqueeze(1)
        return torch.add(self._views.index_select(0, at), seen, alpha=APPLE)  # on floor, which is 0

    def _image(self, codes: Tensor) -> Tensor:
        return self._palette.index_select(0, codes.view(-1)).view(-1, rooms.VIEW, rooms.VIEW, 3)

    def reveal(self, state: Any, obs: Tensor) -> Tensor:
        """The cue as the colour of the middle pixel."""
        obs[:, 2, 2] = (self.cue(state) * 255).round().to(torch.uint8)
        return obs

    def _pick_apples(self, state: Any) -> Tensor:
        """Towards the apple that is reached first: greedy, which is good and not optimal."""
        wait = state.ripe[:, :-1] - state.t.unsqueeze(1) + 1  # it must be seen before it is found
        place = torch.maximum(self._away.index_select(0, state.cell), wait).argmin(1, keepdim=True)
        return self._pick.index_select(0, state.cell).gather(1, place).squeeze(1)

    def _figures(self, found: float) -> tuple[float | None, float]:
        """R_oracle (None with apples), and the random return where phase 3 has `found` of its reward."""
        random, busy = found * self.final_reward, self.apples and self.distractor_length
        if busy:
            share = self.apples / rooms.DISTRICT * (self.apple_reward + self.apple_reward_high) / 2
            random += share * rooms.random_apples(self.distractor_length, RESPAWN + 1)
        return (None if busy else self.final_reward), random

    @abstractmethod
    def depict(self, state: Any, area: int) -> tuple[list[Thing], tuple[str, str], bool | None]:
        """What `Scene` calls things, badge and won, of one state whose fields are Python numbers in the room `area`."""

    def render(self, index: Sequence[int] | None = None) -> np.ndarray:
        """(B, h, w, 3) uint8: the room, the agent's view, the aim and the phases (`envs/tvt_render.py`)."""
        rows = torch.tensor(list(range(self.num_envs) if index is None else index), dtype=torch.int64, device=self.device)
        batch = type(self.state)(*(field.index_select(0, rows) for field in self.state))
        views, at = self.observation(batch).cpu().numpy(), self._at(batch).tolist()
        lengths = (self.explore_length, self.distractor_length, self.reward_length)
        frames = np.empty((len(views), HEIGHT, WIDTH, 3), np.uint8)
        for frame, view, where, *fields in zip(frames, views, at, *(field.tolist() for field in batch), strict=True):
            one, area = type(self.state)(*fields), where // rooms.CELLS
            room = self.areas[min(area, 2)]  # drawn as with the door shut
            things, badge, won = self.depict(one, area)
            if room is rooms.ORCHARD:
                things += [(c, "apple", APPLE_GREEN) for c, ripe in zip(room.marks, one.ripe) if ripe <= one.t]
            if won is None and one.t == self.episode_length:
                won = False
            frame[:] = draw(Scene(room.walls, room.starts[0], one.cell, tuple(things), view, badge, won, lengths, one.t))
        return frames


def beside(window: np.ndarray) -> np.ndarray:
    """`window` without its middle, where the agent covers what lies there."""
    beside = window.copy()
    beside[:, 12] = rooms.OUTSIDE
    return beside


def _number(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, got {value!r}")
    return float(value)
