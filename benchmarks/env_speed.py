"""Environment steps per second: MiniGrid-MemoryS13 against EnvPool and minigrid, then every environment of the table.

    python benchmarks/env_speed.py [--device cpu] [--rounds 7] [--seconds 0.3] [--no-table] [--only NAME ...]

MemoryS13 (view 7, all seven actions drawn at random) runs at B = 1024 on one thread with resets, rewards and random draws
included. Contenders are interleaved (A B C A B C ...), and compared round by round in CPU time of the whole process, their
own threads included: what they cost of one core. In the same run, before anything is timed, the contenders' rows are
checked: minigrid's and ours from the same seeds must be equal; EnvPool draws its own layouts, so every row of its must be
that of a layout and a pose that its earlier rows allow, with the same reward. A peer that is not installed is skipped with a
line. Exit status 1 if a check fails.

EnvPool 1.2.5 goes into a folder of its own (`pip install --target PEERS envpool==1.2.5`, less what else it brings that
would hide ours: numpy, gymnasium), then run with PYTHONPATH=PEERS.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

import envs

NAME, BATCH, ACTIONS = "MiniGrid-MemoryS13-v0", 1024, 7
BATCHES = (64, 1024, 8192)
GOALS = {"EnvPool": (30, 80), "minigrid": (500, 500)}  # ratio asked for, and hoped for


def ours(path: str, count: int = BATCH, draws: str = "device", device: str = "cpu") -> envs.Env:
    return envs.make("minigrid_memory", count, device, size="S13", agent_view_size=7, actions=ACTIONS, path=path, draws=draws)


def their_minigrid(count: int = 1):
    import gymnasium
    import minigrid  # noqa: F401 (registers its environments)

    return [gymnasium.make(NAME, disable_env_checker=True).unwrapped for _ in range(count)]


def their_envpool(count: int = BATCH):
    import envpool

    return envpool.make_gymnasium(NAME, num_envs=count, num_threads=1, seed=1)


# Checks.


def equals_minigrid(steps: int = 250, count: int = 16) -> bool:
    """The same seeds and actions give the same images, rewards and flags, through resets."""
    others, rng = their_minigrid(count), np.random.default_rng(0)
    env = ours("table", count, draws="minigrid")
    env.seed(0)
    row = env.reset()
    same = np.array_equal(row.obs.numpy(), [o.reset(seed=i)[0]["image"] for i, o in enumerate(others)])
    for _ in range(steps):
        action, over = rng.choice(ACTIONS, count, p=[0.1, 0.1, 0.6, 0.05, 0.05, 0.05, 0.05]), env.ended.tolist()
        rows = [
            (o.reset()[0], 0.0, False, False) if done else o.step(int(a))[:4]
            for o, a, done in zip(others, action, over, strict=True)
        ]
        row = env.step(torch.from_numpy(action))
        images, *rest = zip(*rows, strict=True)
        same &= np.array_equal(row.obs.numpy(), [o["image"] for o in images])
        same &= all(np.array_equal(a.numpy(), b) for a, b in zip(env.gym_outcome(row), rest, strict=True))
    return bool(same)


def equals_envpool(steps: int = 600, count: int = 64) -> bool:
    """A set of (layout, pose) that explains all rows of each of EnvPool's environments so far: it must not get empty."""
    env, pool, rng = ours("table", 1), their_envpool(count), np.random.default_rng(0)
    everywhere = torch.arange(len(env.maze.layout))
    images = env.observe(env.state._replace(place=everywhere)).flatten(1).numpy()
    starts = np.unique(env.maze.starts.numpy())
    row = pool.reset()[0]["image"].reshape(count, -1)
    possible = [starts[(images[starts] == image).all(1)] for image in row]
    t, over = np.zeros(count, int), np.zeros(count, bool)
    for _ in range(steps):
        action = rng.choice(ACTIONS, count, p=[0.1, 0.1, 0.6, 0.05, 0.05, 0.05, 0.05]).astype(np.int32)
        obs, reward, terminated, truncated, _ = pool.step(action)
        for i, image in enumerate(obs["image"].reshape(count, -1)):
            if over[i]:
                t[i], at, worth, ends, late = 0, starts, np.zeros(len(starts)), np.zeros(len(starts), bool), False
            else:
                t[i] += 1
                before = torch.from_numpy(possible[i])
                state = env.state._replace(place=before, t=torch.full_like(before, t[i] - 1))
                after, value, end, limit = env.act(state, torch.full_like(before, int(action[i])))
                at, worth, ends, late = after.place.numpy(), value.numpy(), end.numpy(), bool(limit[0])
            fits = (images[at] == image).all(1) & (np.abs(worth - reward[i]) < 1e-6) & (ends == terminated[i])
            possible[i] = np.unique(at[fits])
            if not len(possible[i]) or bool(truncated[i]) not in {late, late and not terminated[i]}:
                return False
        over = terminated | truncated
    return True


# Speed.


class Contender:
    """`run(n)` takes n batches of steps; CPU seconds per step of one environment."""

    def __init__(self, name: str, batch: int, run: Callable[[int], None]) -> None:
        self.name, self.batch, self.run = name, batch, run
        self.times: list[float] = []
        run(3)
        self.count = 1
        while self.once() * self.count * batch < 0.05:
            self.count *= 2

    def once(self) -> float:
        start = time.process_time()
        self.run(self.count)
        return (time.process_time() - start) / self.count / self.batch


def torch_loop(env: envs.Env) -> Callable[[int], None]:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(env.num_actions, (64, env.num_envs), generator=generator).to(env.device).unbind(0)

    def run(n: int) -> None:
        for i in range(n):
            env.step(drawn[i % 64])
        if env.device.type == "cuda":
            torch.cuda.synchronize()

    return run


def minigrid_loop(env) -> Callable[[int], None]:
    drawn = np.random.default_rng(0).integers(ACTIONS, size=4096).tolist()
    env.reset(seed=0)

    def run(n: int) -> None:
        for i in range(n):
            _, _, terminated, truncated, _ = env.step(drawn[i % 4096])
            if terminated or truncated:
                env.reset()

    return run


def envpool_loop(pool) -> Callable[[int], None]:
    drawn = np.random.default_rng(0).integers(ACTIONS, size=(64, BATCH)).astype(np.int32)
    pool.reset()

    def run(n: int) -> None:
        for i in range(n):
            pool.step(drawn[i % 64])

    return run


def duel(rounds: int) -> bool:
    """MemoryS13 against the peers that are installed. False if a check failed."""
    contenders = [Contender("table path", BATCH, torch_loop(ours("table")))]
    contenders.append(Contender("grid path", BATCH, torch_loop(ours("grid"))))
    good = True
    for peer, check, loop, make in (
        ("EnvPool", equals_envpool, envpool_loop, their_envpool),
        ("minigrid", equals_minigrid, lambda made: minigrid_loop(made[0]), their_minigrid),
    ):
        try:
            equal = check()
        except ImportError as error:
            print(f"{peer} is skipped: {error}")
            continue
        print(f"{peer}: rows {'equal' if equal else 'DIFFER'}")
        good &= equal
        contenders.append(Contender(peer, BATCH if peer == "EnvPool" else 1, loop(make())))
    for _ in range(rounds):
        for contender in contenders:
            contender.times.append(contender.once())
    base = np.array(contenders[0].times)
    print(f"\n| {NAME}, B = {BATCH}, one thread | steps/s of one core | table path is faster by | goal |")
    print("|---|---|---|---|")
    for contender in contenders:
        times = np.array(contender.times)
        low, ratio, high = np.quantile(times / base, [0.1, 0.5, 0.9])
        goal = GOALS.get(contender.name)
        met = "" if goal is None else f"{goal[0]} {'met' if ratio >= goal[0] else 'MISSED'}" + (
            f", {goal[1]} {'met' if ratio >= goal[1] else 'missed'}" if goal[1] > goal[0] else "")  # fmt: skip
        print(f"| {contender.name} | {1 / np.median(times):,.0f} | {ratio:.1f} [{low:.1f}, {high:.1f}] | {met} |", flush=True)
    return good


def table(names: list[str], device: str, seconds: float) -> None:
    """Steps per second of every environment with its own defaults, by batch size (wall clock)."""
    print(f"\n| million steps/s, {device} | " + " | ".join(f"B = {B}" for B in BATCHES) + " |")
    print("|---|" + "---|" * len(BATCHES))
    for name in names:
        speeds = []
        for B in BATCHES:
            run, best = torch_loop(envs.make(name, B, device)), float("inf")
            run(3)
            end = time.perf_counter() + seconds
            while time.perf_counter() < end:
                start = time.perf_counter() if device != "cpu" else time.process_time()
                run(8)
                best = min(best, (time.perf_counter() if device != "cpu" else time.process_time()) - start)
            speeds.append(8 * B / best / 1e6)
        print(f"| {name} | " + " | ".join(f"{speed:.2f}" for speed in speeds) + " |", flush=True)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="of the table")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.3, help="for each entry of the table")
    parser.add_argument("--no-table", action="store_true")
    parser.add_argument("--only", nargs="*", default=list(envs.ENVS), choices=list(envs.ENVS), metavar="NAME",
                        help="environments of the table")  # fmt: skip
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, 1 thread, load {os.getloadavg()[0]:.2f}")
    good = duel(options.rounds)
    if not options.no_table:
        table(options.only, options.device, options.seconds)
    if not good:
        print("error: rows differ from a peer's", file=sys.stderr)
    return int(not good)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
