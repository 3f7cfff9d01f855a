"""The TVT tasks once more, one episode at a time in plain Python, written from their description and sharing nothing with
`envs/`. Places are (row, column) on the board of 7 x 11; a room's walls are the ring around its floor."""

from __future__ import annotations

from functools import cache

from exact import Episode

MOVES = [(-1, 0), (1, 0), (0, -1), (0, 1)]  # north, south, west, east
FLOOR, WALL, AGENT = (204, 204, 204), (25, 25, 25), (228, 148, 109)
KEY, DOOR, APPLE, LAMP = (159, 81, 44), (134, 206, 235), (140, 178, 0), (255, 255, 255)
RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def block(top, bottom, left, right):
    return {(r, c) for r in range(top, bottom + 1) for c in range(left, right + 1)}


@cache
def ring(floor):
    return frozenset({(r + i, c + j) for r, c in floor for i in (-1, 0, 1) for j in (-1, 0, 1)} - floor)


CAGE = frozenset(block(2, 2, 5, 5))
ROOMS = frozenset(block(1, 2, 3, 7) | block(3, 3, 4, 6) | block(4, 5, 3, 7))
ORCHARD = frozenset(block(1, 5, 1, 9))
CHOICE = frozenset(block(1, 3, 1, 9) | block(4, 5, 4, 6))
HALL = frozenset(block(2, 4, 4, 6))
OBJECTS = [(1, 2), (1, 5), (1, 8)]
DOORWAY = (1, 5)
PLACES = sorted((r, c) for r, c in ORCHARD if (r + c) % 2 == 0 and (r, c) != (5, 5))  # where apples may be


class ThreePhases(Episode):
    """lengths: of the three phases; apples: {place: first row on which the apple is there}."""

    first_floor = ROOMS
    last_floor = CHOICE
    last_start = (5, 5)

    def __init__(self, lengths, start, apples=(), worth=1.0, final=5.0):
        self.lengths, self.place, self.worth, self.final = lengths, start, worth, final
        self.t = 0
        self.apples = dict.fromkeys(apples, 0)
        self.setup()
        self.obs = self.window()

    @property
    def phase(self):
        return (self.t >= self.lengths[0]) + (self.t >= sum(self.lengths[:2]))

    def walls(self):
        return ring((self.first_floor, ORCHARD, self.last_floor)[self.phase])

    def step(self, action):
        phase, reward = self.phase, 0.0
        row, column = self.place[0] + MOVES[action][0], self.place[1] + MOVES[action][1]
        if 0 <= row < 7 and 0 <= column < 11 and (row, column) not in self.walls():
            self.place = (row, column)
        seen = {p for p, since in self.apples.items() if since <= self.t}
        self.t += 1
        if phase == 1 and self.place in seen:
            reward += self.worth
            self.apples = {**self.apples, self.place: self.t + 21}
        reward += self.touch(phase)
        if self.phase != phase:
            self.place = ((5, 5), self.last_start)[self.phase - 1]
        self.obs = self.window()
        return reward, self.t == sum(self.lengths), False

    def window(self):
        board = dict.fromkeys(self.walls(), WALL)
        if self.phase == 1:
            board.update({p: APPLE for p, since in self.apples.items() if since <= self.t})
        board[self.place] = AGENT
        board.update(self.things())
        row, column = self.place
        return tuple(board.get((r, c), FLOOR) for r in range(row - 2, row + 3) for c in range(column - 2, column + 3))

    def key(self):
        return (self.t, self.place, tuple(self.apples.items()), *self.fields())


class Match(ThreePhases):
    """sign: the wall that shows the colour; colours: of the objects from the left; goal: the right one's number."""

    def __init__(self, *args, sign, colours, goal, **kwargs):
        self.sign, self.colours, self.goal = sign, colours, goal
        super().__init__(*args, **kwargs)

    def setup(self):
        self.touched = None

    def touch(self, phase):
        if phase == 2 and self.touched is None and self.place in OBJECTS:
            self.touched = OBJECTS.index(self.place)
            return self.final * (self.touched == self.goal)
        return 0.0

    def things(self):
        if self.phase == 0:
            return {self.sign: self.colours[self.goal]}
        return dict(zip(OBJECTS, self.colours)) if self.phase == 2 and self.touched is None else {}

    def fields(self):
        return self.touched, self.sign, self.colours, self.goal

    @property
    def won(self):
        return self.touched == self.goal


class Passive(Match):
    first_floor = CAGE


class KeyDoor(ThreePhases):
    last_floor = HALL
    last_start = (3, 5)

    def __init__(self, *args, key_at, **kwargs):
        self.key_at = key_at
        super().__init__(*args, **kwargs)

    def setup(self):
        self.held, self.ever, self.lamp, self.won = False, False, False, False

    def walls(self):
        return super().walls() - {DOORWAY} if self.phase == 2 and self.ever else super().walls()

    def touch(self, phase):
        self.lamp = False
        if phase == 0 and self.place == self.key_at and not self.ever:
            self.held = self.ever = self.lamp = True
        if phase == 2 and self.place == DOORWAY and self.held:
            self.held, self.won = False, True
            return self.final
        return 0.0

    def things(self):
        if self.phase == 0:
            return {**({} if self.ever else {self.key_at: KEY}), **({(0, 5): LAMP} if self.lamp else {})}
        return {DOORWAY: DOOR} if self.phase == 2 else {}

    def fields(self):
        return self.held, self.ever, self.lamp, self.key_at

