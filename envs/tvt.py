"""Three-phase tasks: learn or do something, be busy elsewhere for D steps, and only then is it worth something.

Gridworld tasks of Hung et al. 2019 (arXiv 1810.06721), `google-deepmind/deepmind-research:tvt/pycolab`, and their
passive and configurable forms of Ni et al. 2023 (arXiv 2307.03864), `twni2016/Memory-RL:envs/key_to_door`; their rules
step for step, but for the colours (see `_Match`). Phases, orchard, observation: `envs/tvt_phases.py`; rooms and numbering
of cells: `envs/tvt_rooms.py`.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from envs import tvt_rooms as rooms
from envs.env import Spec, flag
from envs.render import GRID
from envs.tvt_phases import BLUE, DOOR, GREEN, KEY, RED, WHITE, ThreePhases, beside
from envs.tvt_render import BLOCKS, DOOR_BLUE, GOLD, LIGHT, Thing

NOTHING = 3  # in place of the number of an object
LAMP = 5  # the cell that is white on the row on which the key is picked up
ORDERS = tuple(itertools.permutations((RED, GREEN, BLUE)))  # colours of the three objects from left to right


class MatchState(NamedTuple):
    """Fields of shape (B,) but for `ripe`."""

    cell: Tensor  # int64: 0..76
    t: Tensor  # int64: steps taken in this episode
    ripe: Tensor  # (B, 23) int64: the row from which place i of the orchard shows an apple; the last one is no place
    worth: Tensor  # float32: the reward of an apple
    sign: Tensor  # int64: the wall cell that shows the colour in the first phase
    order: Tensor  # int64: row of ORDERS
    goal: Tensor  # int64: the right object, 0..2 from left to right
    touched: Tensor  # int64: the object that was touched, or NOTHING


class KeyState(NamedTuple):
    """Fields of shape (B,) but for `ripe`; the first four as in `MatchState`."""

    cell: Tensor
    t: Tensor
    ripe: Tensor
    worth: Tensor
    key: Tensor  # int64: the cell where the key lies or lay
    picked: Tensor  # int64: the row on which it was picked up, -1 if not
    opened: Tensor  # bool: the door has given its reward


class _Match(ThreePhases):
    """Phase 1 shows a colour on a wall, phase 3 has three objects, each of another colour; the one of that colour is
    right.

    Phase 3: touching the right object gives `final_reward`, another nothing; then all three are gone.
    Colours: red, green, blue, distributed over the objects anew in every episode. In the published code the mapping is
    drawn once per environment object, so there a colour is a position and the objects need not be looked at; with
    `fixed_colours` it is so here, red on the left and blue on the right.
    """

    least_reward = 9

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
        fixed_colours: bool = False,
    ) -> None:
        self.fixed_colours = flag("fixed_colours", fixed_colours)
        super().__init__(num_envs, device, seed, cue_visible, explore_length, distractor_length, reward_length, apples,
                         apple_reward, apple_reward_high, final_reward)  # fmt: skip

    def prepare(self) -> None:
        super().prepare()
        window, n, areas = rooms.windows(), rooms.CELLS, len(self.areas)
        objects = np.full((areas, n + 1), NOTHING)
        objects[2, list(rooms.CHOICE.marks)] = range(3)
        self._object_of = self._table(objects[:, :-1]).reshape(-1)  # [at] -> object
        self._objects = self._table(objects[:, beside(window)]).view(-1, 25)
        self._signs = self._table([window, *[np.full_like(window, -1)] * (areas - 1)]).view(-1, 25)
        # [4 * order + touched]: colours of the three objects and of nothing; those of objects that are gone are floor
        paint = [[*order, 0] if touched == NOTHING else [0] * 4 for order in ORDERS for touched in range(4)]
        self._paint = self._table(paint).to(torch.int32)
        self._starts, self._marks = self._table(self.areas[0].starts), self._table(self.areas[0].marks)
        self._orders, self._goals = self._table(range(len(ORDERS))), self._table(range(3))
        self._reach = self._table(rooms.directions(rooms.CHOICE.walls, rooms.CHOICE.marks, avoid=True))

    def spawn(self) -> MatchState:
        ripe, worth = self._fresh_orchard()
        cell, sign = self._draw(self._starts), self._draw(self._marks)
        order = self._zero if self.fixed_colours else self._draw(self._orders)
        goal = self._draw(self._goals)
        return MatchState(cell, self._zero, ripe, worth, sign, order, goal, self._zero + NOTHING)

    def act(self, state: MatchState, action: Tensor) -> tuple[MatchState, Tensor, Tensor, Tensor]:
        at, reward, walked = self._walk(state, self._at(state), action)
        touched = torch.where(state.touched == NOTHING, self._object_of.index_select(0, at), state.touched)
        right = (touched == state.goal) & (state.touched == NOTHING)
        new = state._replace(**walked, touched=touched)
        return new, reward + right * self.final_reward, new.t >= self.episode_length, self._never

    def _colour(self, state: MatchState) -> Tensor:
        """(B, 1) int64: the code of the right colour."""
        return self._paint.index_select(0, state.order * 4 + NOTHING).gather(1, state.goal.unsqueeze(1))

    def observe(self, state: MatchState) -> Tensor:
        at = self._at(state)
        codes = self._codes(state, at)
        shown = self._signs.index_select(0, at) == state.sign.unsqueeze(1)
        codes = torch.where(shown, self._colour(state), codes)
        paint = self._paint.index_select(0, state.order * 4 + state.touched)
        return self._image(codes + paint.gather(1, self._objects.index_select(0, at)))  # on floor, which is 0

    def success(self, state: MatchState) -> Tensor:
        return state.touched == state.goal

    def cue(self, state: MatchState) -> Tensor:
        """(B, 3) float32: the right colour, as RGB in [0, 1]."""
        return self._palette.index_select(0, self._colour(state).squeeze(1)) / 255

    def oracle(self, state: MatchState) -> Tensor:
        """The way to the right object past the others; apples as `_pick_apples`; any action in phase 1."""
        area = self._area_of.index_select(0, state.t)
        go = self._reach.index_select(0, state.cell).gather(1, state.goal.unsqueeze(1)).squeeze(1)
        return torch.where(area == 2, go, torch.where(area == 1, self._pick_apples(state), 0))

    def depict(self, state: MatchState, area: int) -> tuple[list[Thing], tuple[str, str], bool | None]:
        colours = [BLOCKS[code - RED] for code in ORDERS[state.order]]
        aim, things = ("block", colours[state.goal]), []
        if area == 0:
            things = [(state.sign, *aim)]
        elif area == 2 and state.touched == NOTHING:
            things = [(cell, "block", colour) for cell, colour in zip(rooms.CHOICE.marks, colours, strict=True)]
        return things, aim, None if state.touched == NOTHING else state.touched == state.goal

    def _sheet(self, credit: int, r0_credit: float | None) -> Spec:
        room, twin = rooms.CHOICE, self.cue_visible
        touch = rooms.hits(room.walls, room.starts, frozenset(room.marks), self.reward_length)
        best, random = self._figures(touch / 3)
        return Spec(
            memory_length=0 if twin else self.distractor_length + 4,
            credit_length=5 if twin else credit,
            r_oracle=best,
            r_star=best,
            r0_memory=None if twin or best is None else best / 3,
            r0_memory_last=None if twin else best,
            r0_credit=None if twin or best is None else r0_credit,
            r_random=random,
            max_rows=self.episode_length + 1,
            chance=1.0 if twin else 1 / 3,
        )


class PassiveMatch(_Match):
    """Passive visual match (Ni et al. 2023): in phase 1 the agent is locked in and one of the eight walls around it has
    the colour. Rules: `ThreePhases`, `_Match`.

    Spec sheet (D distractor_length; figures with apples: see `ThreePhases`)
      m = D + 4                 The colour is last seen on the row before D begins. In phase 3 the quickest way looks at
                                the middle object on its row 2 and at the left (or right) one on row 3; there the colour
                                is needed for the last time.
      c = 5                     with any discount below 1: on row 2 of phase 3, if the middle object is wrong, the next one
                                is five steps away
      R_oracle = R* = final     every object can be looked at and reached in 9 steps, in the worst order
      R0_memory = final / 3     what a memoryless agent does in phase 3 does not depend on the right colour
      R0_memory_last = R*       The last action carries the colour: code it by the action in phase 1, repeat that action
                                (into a wall) through phase 2, and let it choose one of three ways through phase 3 that
                                meet no cell with the same last action but to do the same (script in the tests).
      R0_credit                 does not apply: phases 1 and 2 ask for nothing
      R_random                  exact, from the random walk: a third of the chance to touch an object, and the apples
      max_rows = T + 1, chance = 1/3
    Cue-visible twin: m = 0, R* = final.
    """

    areas = (rooms.CAGE, rooms.ORCHARD, rooms.CHOICE)
    least_explore = 1

    def describe(self) -> Spec:
        return self._sheet(5, None)


class ActiveMatch(_Match):
    """Active visual match (Hung et al. 2019): phase 1 has two rooms; one of their 26 walls, drawn in each episode, has
    the colour, and the agent, which starts somewhere in the lower room, has to go and look. Rules: `ThreePhases`, `_Match`.

    Spec sheet (D distractor_length; figures with apples: see `ThreePhases`)
      m = D + 4                 as PassiveMatch, for an agent that looks at the colour until phase 1 ends
      c = D + 9                 of the last chance to look: an agent that does not look takes the middle object, right as
                                often as for one that looked; only at the next object, 9 steps after the look plus D, is
                                there a difference. Until that chance nothing is lost: every action of phase 1 is still
                                optimal, and read strictly Ni et al.'s definition finds nothing there to credit.
      R_oracle = R* = final     a round through both rooms shows all walls in 8 moves at most
      R0_memory = final / 3     as PassiveMatch
      R0_memory_last = R*       as PassiveMatch: that round until the colour is seen, then to a near wall on the side that
                                codes it, and bump into it; always in time if explore_length >= 10
      R0_credit = final (1/3 + 2/3 P(seen)): random in phase 1, so that the colour is seen by chance (exact), else as good
                                as can be
      R_random                  as PassiveMatch
      max_rows = T + 1, chance = 1/3
    Cue-visible twin: m = 0, c = 5, R* = final; nothing in phase 1 matters.
    """

    areas = (rooms.TWO_ROOMS, rooms.ORCHARD, rooms.CHOICE)
    least_explore = 10

    def describe(self) -> Spec:
        room, window = rooms.TWO_ROOMS, rooms.windows()
        near = [frozenset(np.flatnonzero((window == sign).any(1)).tolist()) for sign in room.marks]
        seen = np.mean([rooms.hits(room.walls, room.starts, n, self.explore_length - 1) for n in near])
        return self._sheet(self.distractor_length + 9, self.final_reward * float(1 + 2 * seen) / 3)


class KeyToDoor(ThreePhases):
    """Key to door (Hung et al. 2019; Ni et al. 2023 with reward_length 10): a key picked up in phase 1 opens the door of
    phase 3. Rules: `ThreePhases`.

    Phase 1: the key lies in the upper of two rooms, the agent starts in the lower one, both at random; stepping on the
    key picks it up, and for this row alone a white cell shows in the upper wall (not if it is phase 1's last step).
    Phase 3: without the key the door is a wall. With it the first step into the doorway gives `final_reward` (there the
    door is seen, not the agent); the door stays open, and behind it the agent can walk all over the board.
    Cue: holding the key; the key's column and row. Success: the door was opened.

    Spec sheet (D distractor_length; figures with apples: see `ThreePhases`)
      m = 0                     Going for the key and for the door needs no memory: the walls in sight tell the place, and
                                whether the key is held need not be known.
      c = D + 3                 of the last chance to pick up the key, the last step of phase 1, to the doorway, which is
                                reached on step 2 of phase 3. Until then nothing is lost, as in ActiveMatch.
      R_oracle = R* = final     the key is at most 8 moves away, on a way that shows it
      R0_memory, R0_memory_last do not apply (m = 0)
      R0_credit = final P(key)  random in phase 1, so that the key is found by chance (exact), then as good as can be. An
                                agent whose phase 1 has drifted to something else gets 0.
      R_random                  exact: final P(key) P(door), and the apples
      max_rows = T + 1, chance = P(key), the success that R0_credit comes with
    Cue-visible twin: shows the state in full; the same figures.
    """

    areas = (rooms.KEY_ROOMS, rooms.ORCHARD, rooms.DOOR_SHUT, rooms.DOOR_OPEN)
    least_explore = 8
    least_reward = 2

    def prepare(self) -> None:
        super().prepare()
        window, room, (door,) = rooms.windows(), rooms.KEY_ROOMS, rooms.DOOR_SHUT.marks
        self._hidden = self._table([window, *[np.full_like(window, -1)] * 3]).view(-1, 25)
        views = self._views.view(4, -1, 25)
        views[2:] = torch.where(self._table(window) == door, DOOR, views[2:])
        self._doorway = 3 * rooms.CELLS + door
        self._starts, self._keys = self._table(room.starts), self._table(room.marks)
        self._fetch = self._table(rooms.directions(room.walls, tuple(range(rooms.CELLS))))
        self._leave = self._table(rooms.directions(rooms.DOOR_OPEN.walls, (door,))[:, 0])

    def spawn(self) -> KeyState:
        ripe, worth = self._fresh_orchard()
        cell, key = self._draw(self._starts), self._draw(self._keys)
        return KeyState(cell, self._zero, ripe, worth, key, self._zero - 1, self._never)

    def _at(self, state: KeyState) -> Tensor:
        area = self._area_of.index_select(0, state.t)
        return (area + ((area == 2) & (state.picked >= 0))) * rooms.CELLS + state.cell

    def act(self, state: KeyState, action: Tensor) -> tuple[KeyState, Tensor, Tensor, Tensor]:
        at, reward, walked = self._walk(state, self._at(state), action)
        picks = (at == state.key) & (state.picked < 0)  # in phase 1 `at` is the cell
        opens = (at == self._doorway) > state.opened
        picked = torch.where(picks, walked["t"], state.picked)
        new = state._replace(**walked, picked=picked, opened=state.opened | opens)
        return new, reward + opens * self.final_reward, new.t >= self.episode_length, self._never

    def observe(self, state: KeyState) -> Tensor:
        at = self._at(state)
        codes, hidden = self._codes(state, at), self._hidden.index_select(0, at)
        key = (hidden == state.key.unsqueeze(1)) & (state.picked < 0).unsqueeze(1)
        lamp = (hidden == LAMP) & (state.picked == state.t).unsqueeze(1)
        return self._image(torch.where(lamp, WHITE, torch.where(key, KEY, codes)))

    def success(self, state: KeyState) -> Tensor:
        return state.opened.clone()

    def cue(self, state: KeyState) -> Tensor:
        """(B, 3) float32: 1 while the key is held; its column, 0.2 to 1 from left to right; its row, 0 upper, 1 lower."""
        held = (state.picked >= 0) & ~state.opened
        row, column = state.key // rooms.COLS - 1, (state.key % rooms.COLS - 2) / 5
        return torch.stack((held.to(torch.float32), column.to(torch.float32), row.to(torch.float32)), 1)

    def oracle(self, state: KeyState) -> Tensor:
        """The way to the key, then to the door; apples as `_pick_apples`."""
        area = self._area_of.index_select(0, state.t)
        fetch = self._fetch.index_select(0, state.cell).gather(1, state.key.unsqueeze(1)).squeeze(1)
        late = torch.where(area == 1, self._pick_apples(state), self._leave.index_select(0, state.cell))
        return torch.where(area == 0, fetch, late)

    def depict(self, state: KeyState, area: int) -> tuple[list[Thing], tuple[str, str], bool | None]:
        things = []
        if area == 0:
            things = [(state.key, "key", GOLD)] if state.picked < 0 else []
            things += [(LAMP, "block", LIGHT)] if state.picked == state.t else []
        elif area >= 2:
            things = [(rooms.DOOR_SHUT.marks[0], "door", DOOR_BLUE)]
        held = state.picked >= 0 and not state.opened
        return things, ("key", GOLD if held else GRID), True if state.opened else None

    def describe(self) -> Spec:
        room, hall = rooms.KEY_ROOMS, rooms.DOOR_OPEN
        keys = [rooms.hits(room.walls, room.starts, frozenset([key]), self.explore_length) for key in room.marks]
        found = float(np.mean(keys))
        opened = rooms.hits(hall.walls, hall.starts, frozenset(hall.marks), self.reward_length)
        best, random = self._figures(found * opened)
        return Spec(
            memory_length=0,
            credit_length=self.distractor_length + 3,
            r_oracle=best,
            r_star=best,
            r0_memory=None,
            r0_memory_last=None,
            r0_credit=None if best is None else best * found,
            r_random=random,
            max_rows=self.episode_length + 1,
            chance=found,
        )
