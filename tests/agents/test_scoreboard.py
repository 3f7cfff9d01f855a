"""The display of a comparison and its estimate of what is left."""

import io
import json
import math
from pathlib import Path

import pytest

from agents import cost
from agents.pool import Job
from agents.scoreboard import Scoreboard, Tally
from tests.test_runlog import on_terminal


def jobs(tmp_path: Path, cells: str = "lstm gru", tasks: str = "maze-5 maze-50", seeds: int = 3) -> list[Job]:
    made = []
    for seed in range(seeds):
        for task in tasks.split():
            for cell in cells.split():
                name = f"{task}-{cell}-s{seed}"
                made.append(Job(name, cell, task, tmp_path / name, tmp_path / f"{name}.log", [], [], 1000))
    return made


def at(job: Job, step: int, success: float = 0.5) -> None:
    job.folder.mkdir(exist_ok=True)
    row = {"step": step, "eval/success": success, "time/steps_per_second": 1234.0}
    (job.folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")


def estimates(all_jobs: list[Job], seconds: float = 100.0) -> dict[str, float]:
    return {job.name: seconds for job in all_jobs}


def test_lines(tmp_path):
    all_jobs, stream = jobs(tmp_path), io.StringIO()
    with Scoreboard(all_jobs, estimates(all_jobs), 2, stream) as board:
        one, two, *_ = all_jobs
        for job in (one, two):
            job.state = "running"
            board.show(job)
        at(one, 1000)  # the last row of the metrics has no evaluation
        (one.folder / "evaluation.json").write_text('{"greedy": {"success_rate": 1.0}}')
        one.state, one.seconds = "done", 50.0
        board.show(one)
        two.state, two.kills = "waiting", 1
        board.show(two)
        two.state, two.why = "failed", "no such gate"
        board.show(two)
        board.show(None)
    lines = stream.getvalue().splitlines()
    assert lines[0].startswith("done    maze-5-lstm-s0: 1,000 steps, success 1.00, 0:50; 1/12 runs done")
    assert lines[1].startswith("killed  maze-5-gru-s0") and lines[2] == "FAILED  maze-5-gru-s0: no such gate"
    assert lines[-1].startswith("1/12 runs done, 1 failed") and len(lines) == 4 and "\x1b" not in stream.getvalue()


def test_time_left(tmp_path):
    """What remains of the estimates, scaled by what the finished runs took of theirs, over the workers."""
    all_jobs = jobs(tmp_path)
    board = Scoreboard(all_jobs, estimates(all_jobs), 2, io.StringIO())
    assert board.left() == pytest.approx(12 * 100 / 2)
    all_jobs[0].state, all_jobs[0].seconds = "done", 25.0  # a quarter of what was expected
    all_jobs[1].state = "running"
    at(all_jobs[1], 500)
    assert board.left() == pytest.approx((10 + 0.5) * 100 * 0.25 / 2)
    other = next(job for job in all_jobs if job.task != all_jobs[0].task)
    other.state, other.seconds = "done", 100.0  # as expected: what is known of a task goes for that task
    own = sum(job.task == other.task for job in all_jobs) - 1
    assert board.left() == pytest.approx((own + (10 - 1 - own + 0.5) * 0.25) * 100 / 2)
    for job in all_jobs[1:]:
        job.state = "done"  # in an earlier call: no time of theirs is known
    assert board.left() is None
    all_jobs[-1].state = "waiting"
    assert board.left() == pytest.approx(100.0)  # of the other task, and one run is not shared out


@pytest.mark.parametrize("columns", [20, 60, 200])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_on_a_terminal(columns, encoding, tmp_path):
    all_jobs = jobs(tmp_path, "lstm gru ur-lstm", "maze-5 maze-50 maze-500", 4)
    for job, state in zip(all_jobs, ("done", "running", "failed", "waiting", "stopped")):
        job.state = state
    at(all_jobs[1], 250, 0.75)

    def body(stream):
        with Scoreboard(all_jobs, estimates(all_jobs), 2, stream) as board:
            for _ in range(2):
                board._drawn = -math.inf
                board.show(None)

    text = on_terminal(columns, encoding, body)
    assert "\x1b[?25l" in text and text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")  # cursor hidden, then shown
    assert "1/36 runs done" in text and "ur-lstm" in text
    if columns >= 60:
        assert "success 0.75" in text and "1 failed" in text
    for sign in "■▸✗·" if encoding == "utf-8" else "#>x.":
        assert sign in text


def test_a_tally_counts_and_tells_the_time_left(monkeypatch, tmp_path):
    clock, stream = Clock(), io.StringIO()
    clock.monotonic = clock.perf_counter
    monkeypatch.setattr("agents.scoreboard.time", clock)
    with Tally("looking into agents", 5, stream) as tally:
        for _ in range(5):
            clock.now += 20.0
            tally.advance()
    assert stream.getvalue().splitlines() == [
        "looking into agents: 2 of 5, 0:40, left 1:00", "looking into agents: 4 of 5, 1:20, left 0:20",
        "looking into agents: 5 of 5, 1:40"]  # fmt: skip


@pytest.mark.parametrize("columns", [20, 80])
def test_a_tally_on_a_terminal(columns):
    def body(stream):
        with Tally("looking into agents", 225, stream) as tally:
            for _ in range(12):
                tally._drawn = -math.inf
                tally.advance()

    text = on_terminal(columns, "utf-8", body)
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l") and text.count("\n") <= 2
    assert columns < 80 or "12 of 225" in text


# --- the estimate before anything runs --------------------------------------------------------------------------------------


def test_estimates_follow_in_proportion_and_are_kept(tmp_path):
    """Measured are each cell on the first task and each task with the first cell, once."""
    seconds, asked = {"lstm": 1.0, "gru": 2.0, "nru": 8.0, "a": 10.0, "b": 30.0}, []

    def measure(pair):
        asked.append(pair)
        if pair[0] == "broken":
            raise RuntimeError("this gate is broken")
        return seconds[pair[0]] * seconds[pair[1]]

    pairs = {(cell, task): (cell, task) for task in "ab" for cell in ("lstm", "gru", "nru", "broken")}
    found = cost.estimate(tmp_path / "speed.json", pairs, measure)
    assert found["gru", "b"] == 60 and found["nru", "a"] == 80 and found["lstm", "b"] == 30
    assert found["broken", "b"] == found["gru", "b"]  # the median of the others
    assert sorted(asked) == [("broken", "a"), ("gru", "a"), ("lstm", "a"), ("lstm", "b"), ("nru", "a")]
    asked.clear()
    assert cost.estimate(tmp_path / "speed.json", pairs, measure) == found and not asked


class Clock:
    """A trainer and its watch that take known times, with a clock that only they move."""

    def __init__(self):
        self.now, self.step, self.steps, self.first = 0.0, 0, 10_000, True

    def perf_counter(self):
        return self.now

    def iterate(self):
        self.now += 60.0 if self.first else 0.5  # the first fills caches, and is not counted
        self.first, self.step = False, self.step + 100

    def watch(self):
        self.now += 2.0


def test_a_run_is_its_updates_and_evaluations(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(cost, "time", clock)
    seconds = cost.of_run(clock, clock.watch, 20, 4.0)
    assert seconds == pytest.approx(cost.START + 100 * 0.5 + 100 / 20 * 2.0 + 2 * 4.0 * 2.0)
