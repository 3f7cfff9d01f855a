"""Hand-made policies for the TVT tasks, each a function of little: where the agent stands, what its window shows and, for
some, the last action. `test_tvt.py` shows that they need no more than the observation (and the last action)."""

from __future__ import annotations

from collections import deque

from slow_tvt import BLUE, GREEN, MOVES, OBJECTS, RED, ROOMS, ring

NORTH, SOUTH, WEST, EAST = range(4)
ROUND = {  # a tour that shows every wall of the two rooms, and how to join it
    (4, 6): NORTH, (3, 6): NORTH, (2, 6): WEST, (2, 5): WEST, (2, 4): SOUTH, (3, 4): SOUTH, (4, 4): EAST, (4, 5): EAST,
    (4, 3): EAST, (4, 7): WEST, **{(5, c): NORTH for c in range(3, 8)},
}  # fmt: skip
CODE = {RED: (NORTH,), GREEN: (SOUTH,), BLUE: (WEST, EAST)}  # the actions that mean a colour


def visible(place, thing):
    return abs(place[0] - thing[0]) <= 2 and abs(place[1] - thing[1]) <= 2


def neighbour(place, action):
    return place[0] + MOVES[action][0], place[1] + MOVES[action][1]


def toward(floor, goals):
    """{place: action}: a shortest way within `floor` to the nearest of `goals` ({place: what to do there})."""
    plan, queue = dict(goals), deque(goals)
    while queue:
        here = queue.popleft()
        for action in range(4):
            before = neighbour(here, action ^ 1)  # north and south, west and east undo each other
            if before in floor and before not in plan:
                plan[before] = action
                queue.append(before)
    return plan


def bump(sign, colour):
    """Go where the sign stays in sight and a wall is on a side that means its colour, and bump into that wall for ever."""
    near = {p for p in ROOMS if visible(p, sign)}
    return toward(near, {p: a for p in near for a in CODE[colour] if neighbour(p, a) in ring(ROOMS)})


class ByLastAction:
    """Match, without memory: the last action tells the colour, through the orchard and through phase 3.

    There each colour goes its own way: red comes to the objects from the left, green from the right, blue in the middle;
    wherever two of them pass the same place by the same action, they go on alike.
    """

    def __init__(self):
        self.plans = {}

    def explore(self, passive, place, last, sign, colour):
        if passive:
            return CODE[colour][0]
        if not visible(place, sign):
            return ROUND[place]
        if (sign, colour) not in self.plans:
            self.plans[sign, colour] = bump(sign, colour)
        return self.plans[sign, colour][place]

    def orchard(self, last):
        return last

    def choose(self, place, last, colours):
        """colours: of the objects in sight, None for the others."""
        left, middle, right = colours
        if place == (5, 5):
            return {NORTH: WEST, SOUTH: EAST}.get(last, NORTH)
        if place == (3, 4) and last == NORTH:  # red
            return WEST if left == RED else NORTH if middle == RED else EAST
        if place == (3, 6) and last == NORTH:  # green
            return EAST if right == GREEN else NORTH if middle == GREEN else WEST
        if place == (2, 5) and last == NORTH:  # blue
            return NORTH if middle == BLUE else WEST
        if place == (2, 4) and last == WEST:
            return WEST if left == BLUE else EAST
        if place in ((3, 3), (3, 4), (3, 5), (3, 6), (3, 7), (2, 3), (2, 5), (2, 6), (2, 7)):
            return last
        return {(1, 4): EAST, (1, 6): WEST}.get(place, NORTH)


def choose_seeing(place, colour, colours):
    """Phase 3 of match in the twin, without memory: the middle, else the left, else by the row above to the right."""
    left, middle, _ = colours
    if place == (3, 5):
        return NORTH if middle == colour else WEST
    if place == (3, 4):
        return WEST if left == colour else NORTH
    if place == (2, 5):
        return NORTH if middle == colour else EAST
    return {(3, 3): WEST, (2, 4): EAST, (2, 6): EAST, (2, 7): EAST}.get(place, NORTH)


def in_sight(place, colours):
    return [colour if colours and visible(place, thing) else None for colour, thing in zip(colours or [0] * 3, OBJECTS)]


def fetch(place, key):
    """Phase 1 of key to door: to the key if it is in sight (None: it is not there), else to the passage, whence all is."""
    if key is not None and visible(place, key):
        return toward(ROOMS, {key: NORTH})[place]
    return toward(ROOMS, {(3, 5): NORTH})[place]
