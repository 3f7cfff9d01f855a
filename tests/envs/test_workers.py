"""Worker processes that die, hang or fail; and what is left of them when their parent does."""

from __future__ import annotations

import gc
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from envs.group import EnvError, Group, Recipe
from envs.workers import Workers

HERE = Path(__file__).parent


def faulty(fault: str = "none", num_envs: int = 3, workers: int = 2) -> Workers:
    """Worker 0 with environment 0, worker 1 with 1 and 2, of which 2 is the unlucky one."""
    return Workers(Recipe("gym_cases:Faulty-v0", {"fault": fault, "unlucky": 2}), num_envs, workers, timeout=30)


def step(pool: Workers, restart: bool = False):
    n = pool.num_envs
    return pool.step(np.zeros(n, np.int64), np.full(n, restart), np.arange(n) if restart else np.full(n, -1))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def gone(pids: list[int], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not any(map(alive, pids)):
            return True
        time.sleep(0.02)
    return False


def fails(pool: Workers, within: float) -> str:
    """The error's line of the next step, which must come in time and leave no process, nor a close() that hangs."""
    began = time.monotonic()
    with pytest.raises(EnvError) as caught:
        step(pool)
    assert time.monotonic() - began < within
    began = time.monotonic()
    pool.close()
    assert time.monotonic() - began < 5 and gone([p.pid for p in pool.processes], 1)
    with pytest.raises(EnvError, match="closed"):
        step(pool)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_killed_worker_is_named_within_a_second():
    pool = faulty()
    step(pool, restart=True)
    pool.processes[1].send_signal(signal.SIGKILL)
    assert fails(pool, 1 + 1) == "worker 1 (environments 1 to 2) is dead: killed by SIGKILL"  # and a second to close


def test_also_one_that_dies_while_another_works():
    pool = faulty(fault="SIGKILL")
    step(pool, restart=True), step(pool), step(pool)
    pool.processes[0].send_signal(signal.SIGSTOP)  # is waited for
    assert fails(pool, 1 + 2) == "worker 1 (environments 1 to 2) is dead: killed by SIGKILL"


def test_a_stopped_worker_is_named_at_the_timeout():
    pool = faulty()
    step(pool, restart=True)
    pool.timeout = 0.5
    pool.processes[0].send_signal(signal.SIGSTOP)
    assert fails(pool, 0.5 + 2) == "worker 0 (environment 0) did not answer within 0.5 seconds"


@pytest.mark.parametrize("fault, told", [
    ("raise", r"worker 1 \(.*\): environment 2: RuntimeError: the simulator is broken \(gym_cases.py line \d+\)"),
    ("shape", r"worker 1 .*environment 2: ValueError: .*shape.*"), ("exit", r"worker 1 .* is dead: exit status 7"),
    ("hang", r"worker 1 .* did not answer within 1 seconds"),
])  # fmt: skip
def test_what_goes_wrong_inside_an_environment(fault, told):
    pool = faulty(fault=fault)
    step(pool, restart=True), step(pool), step(pool)
    pool.timeout = 1
    assert re.fullmatch(told, fails(pool, 1 + 2))


def test_an_environment_that_workers_cannot_make(monkeypatch):
    monkeypatch.setenv("GYM_CASES_PARENT", str(os.getpid()))  # where it can be made
    with pytest.raises(EnvError, match=r"worker \d .*cannot make gym_cases:Faulty-v0: OSError: no licence"):
        faulty(fault="make")


@pytest.mark.parametrize("how", ["close", "forget", "stopped"])
def test_closing_leaves_nothing(how):
    pool = faulty()
    step(pool, restart=True)
    processes, began = pool.processes, time.monotonic()
    if how == "stopped":
        processes[0].send_signal(signal.SIGSTOP)
    if how == "forget":
        del pool
        gc.collect()
    else:
        pool.close()
    assert time.monotonic() - began < 5 and not any(alive(p.pid) for p in processes)


def test_signals_to_the_job_are_left_to_the_parent():
    pool = faulty()
    for process in pool.processes:
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
    assert step(pool, restart=True).leaves[0].shape == (3, 2)
    pool.close()


@pytest.mark.parametrize("end", ["SIGKILL", *(pytest.param(end, marks=pytest.mark.slow) for end in
                                              ("os._exit(0)", "sys.exit(0)", "1 / 0"))])  # fmt: skip
def test_no_orphans(end):
    """Whatever the workers do: idle, stopped, in a step that does not end."""
    code = f"""
import os, signal, sys, time
sys.path[:0] = [{str(HERE)!r}, {str(HERE.parents[1])!r}]
from test_workers import faulty, step
idle, stopped, hung = faulty(num_envs=2, workers=1), faulty(num_envs=2, workers=1), faulty(fault="hang", workers=1)
step(hung, restart=True), step(hung), step(hung)
hung.timeout = 0.3
os.kill(stopped.processes[0].pid, signal.SIGSTOP)
hung._send(0, b"S", b"\\0" * 17 * 3)
time.sleep(0.2)
print(*(pool.processes[0].pid for pool in (idle, stopped, hung)), flush=True)
time.sleep(60) if {end!r} == "SIGKILL" else {end if end != "SIGKILL" else "0"}
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    with parent:
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 3
        if end == "SIGKILL":
            assert all(map(alive, pids))
            parent.kill()
    assert gone(pids, 5)


def test_a_worker_starts_without_torch():
    pool = faulty(num_envs=1, workers=1)
    maps = Path(f"/proc/{pool.processes[0].pid}/maps").read_text()
    pool.close()
    assert "numpy" in maps and "torch" not in maps


def test_pictures():
    recipe = Recipe("gym_cases:Counting-v0", {}, render=True)
    spread, here = Workers(recipe, 3, 2, 20), Group(recipe, 3)
    for source in (spread, here):
        for k in range(3):
            source.step(np.full(3, 3), np.full(3, k == 0), np.arange(3))
    assert all((a == b).all() and a.shape == (17, 33, 3) for a, b in zip(spread.render([2, 0]), here.render([2, 0])))
    spread.close()
