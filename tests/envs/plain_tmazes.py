"""The rules of the noisy, rewriting, multi-cue and delayed T-mazes once more, one episode at a time in plain Python and
sharing nothing with `envs/`. What is random is handed in."""

from __future__ import annotations

FORWARD, LEFT, RIGHT = 0, 1, 2  # in a series
MOVES = {0: (1, 0), 1: (0, 1), 2: (-1, 0), 3: (0, -1)}  # in a single maze


class PlainNoisy:
    """`goal` +1 up, -1 down."""

    def __init__(self, goal: int, L: int, limit: int) -> None:
        self.goal, self.L, self.limit = goal, L, limit
        self.x, self.y, self.t = 0, 0, 0

    def code(self) -> tuple[float, float, float]:
        """Without noise."""
        if self.t == 0:
            return (0, 1, 1) if self.goal == 1 else (1, 1, 0)
        return (0, 1, 0) if self.x == self.L else (1, 0, 1)

    @property
    def in_corridor(self) -> bool:
        return self.x < self.L

    def step(self, action: int, slips: bool) -> tuple[float, bool, bool]:
        self.t += 1
        if self.in_corridor:
            if action == 0:
                self.x += not slips
            elif action == 2 and self.x > 0:
                self.x -= 1
            return (0.0 if action == 0 else -0.1), False, self.t == self.limit
        if action in (1, 3):
            self.y = 1 if action == 1 else -1
            return (4.0 if self.y == self.goal else -0.1), True, self.t == self.limit
        self.x -= action == 2
        return -0.1, False, self.t == self.limit


class PlainDelayed:
    def __init__(self, goal: int, L: int, D: int) -> None:
        self.goal, self.L, self.D = goal, L, D
        self.x, self.y, self.t = 0, 0, 0

    @property
    def obs(self) -> tuple[float, float, float]:
        if self.t > self.L:
            return (0, 0, 1)
        if self.t == 0:
            return (0, self.goal, 0)
        return (1, 0, 0) if self.x == self.L else (0, 0, 0)

    @property
    def waiting(self) -> bool:
        return self.t > self.L

    def step(self, action: int, noise: float) -> tuple[float, bool]:
        reward = noise if self.waiting else 0.0
        if not self.waiting:
            dx, dy = MOVES[action]
            if dy and self.x == self.L:
                self.y = dy
            elif not dy and 0 <= self.x + dx <= self.L:
                self.x += dx
        self.t += 1
        if self.t <= self.L and self.x < self.t:
            reward -= 1 / self.L
        over = self.t == self.L + 1 + self.D
        return reward + (over and self.y == self.goal), over


class PlainEndless:
    """The endless T-maze: `new` draws (length, hint) of a corridor."""

    def __init__(self, K: int, cost: float, wrong: float, limit: int, new) -> None:
        self.K, self.cost, self.wrong, self.limit, self.new = K, cost, wrong, limit, new
        self.length, self.hint = new()
        self.x, self.t, self.passed = 0, 0, 0

    @property
    def obs(self) -> tuple[float, float]:
        return (float(self.x == self.length), float(self.hint if self.x == 0 else 0))

    def step(self, action: int) -> tuple[float, bool, bool]:
        self.t += 1
        if self.x < self.length:
            if action == FORWARD:
                self.x += 1
                return 0.0, False, self.t == self.limit
            return -self.cost, False, self.t == self.limit
        if action != (LEFT if self.hint == -1 else RIGHT):
            return -self.wrong, True, self.t == self.limit
        self.passed += 1
        if self.passed == self.K:
            return 1.0, True, self.t == self.limit
        self.x = 0
        self.length, self.hint = self.new()
        return 1.0, False, self.t == self.limit


class PlainMultiCue:
    """`cues`: K turns, -1 left or +1 right."""

    def __init__(self, cues: list[int], l: int, cost: float, limit: int) -> None:
        self.cues, self.l, self.cost, self.limit = cues, l, cost, limit
        self.x, self.t, self.turns = 0, 0, []

    @property
    def obs(self) -> tuple[float, float]:
        return (float(self.x == self.l), float(self.cues[self.t]) if self.t < len(self.cues) else 0.0)

    def step(self, action: int) -> tuple[float, bool, bool]:
        cue_rows_left = self.t < len(self.cues) - 1
        self.t += 1
        if cue_rows_left:
            return 0.0, False, self.t == self.limit
        if self.x < self.l:
            self.x += action == FORWARD
            return (0.0 if action == FORWARD else -self.cost), False, self.t == self.limit
        right = action == (LEFT if self.cues[len(self.turns)] == -1 else RIGHT)
        self.turns.append(right)
        over = len(self.turns) == len(self.cues)
        if not over:
            self.x = 0
        return (1.0 if right else -1.0), over, self.t == self.limit

    @property
    def won(self) -> bool:
        return len(self.turns) == len(self.cues) and all(self.turns)
