"""The T-maze rules once more, one episode at a time in plain Python: written from the published descriptions (Ni et al.
2023, AMAGO's variant, Bakker 2001), sharing nothing with `envs/`. `exact.py` works out policies on them."""

from __future__ import annotations

from exact import Episode

MOVES = [(1, 0), (0, 1), (-1, 0), (0, -1)]


class Published(Episode):
    """Ni et al.; the observation marks the oracle as visited as a side effect, so it is built once per row."""

    def __init__(self, goal: int, L: int, o: int = 0, mode: str = "schedule") -> None:
        self.goal, self.L, self.o, self.mode = goal, L, o, mode
        self.x, self.y, self.t, self.oracle_visited = o, 0, 0, False
        self.horizon = L + 2 * o + 1
        self.cells = {(x, 0) for x in range(o + L + 1)} | {(o + L, 1), (o + L, -1)}
        self.obs = self.build_obs()

    def build_obs(self) -> tuple[float, ...]:
        if self.x == 0:
            exposure = 0
            if not self.oracle_visited:
                exposure, self.oracle_visited = self.goal, True
            return (0.0, float(exposure))
        return (1.0, float(self.y)) if self.x == self.o + self.L else (0.0, 0.0)

    def move(self, action: int) -> bool:
        self.t += 1
        to = (self.x + MOVES[action][0], self.y + MOVES[action][1])
        moved = to in self.cells
        if moved:
            self.x, self.y = to
        return moved

    def step(self, action: int) -> tuple[float, bool, bool]:
        self.move(action)
        penalty = -1.0 / self.L
        over = self.t >= self.horizon
        if over:
            reward = float(self.y == self.goal)
        elif self.mode == "schedule":
            reward = penalty if self.x < self.t - self.o else 0.0
        else:
            reward = penalty if action != 0 and self.t > self.o else 0.0
        self.obs = self.build_obs()
        return reward, over, False

    def key(self) -> tuple:
        return (self.t, self.x, self.y, self.oracle_visited, self.goal)


class PublishedBakker(Published):
    def __init__(self, goal: int, L: int, limit: int) -> None:
        self.limit = limit
        super().__init__(goal, L)

    def build_obs(self) -> tuple[float, ...]:
        if self.t == 0:
            return (0.0, 1.0, 1.0) if self.goal == 1 else (1.0, 1.0, 0.0)
        return (0.0, 1.0, 0.0) if self.x == self.L else (1.0, 0.0, 1.0)

    def step(self, action: int) -> tuple[float, bool, bool]:
        moved = self.move(action)
        self.obs = self.build_obs()
        if self.y != 0:
            return (4.0 if self.y == self.goal else -0.1), True, self.t == self.limit
        return (0.0 if moved else -0.1), False, self.t == self.limit
