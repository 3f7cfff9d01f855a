"""What one sees of a comparison: every run's state, what runs now, how far a long count is, and the time left."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TextIO

from rich.text import Text

from agents.pool import Job
from agents.progress import Screen, duration, short

SYMBOLS = {"waiting": "·", "running": "▸", "done": "■", "failed": "✗", "stopped": "▫"}
ASCII_SYMBOLS = {"waiting": ".", "running": ">", "done": "#", "failed": "x", "stopped": "-"}
COLOURS = {"waiting": "bright_black", "running": "yellow", "done": "green", "failed": "red", "stopped": "yellow"}


class Scoreboard(Screen):
    """On a terminal: totals, a line for each run under way, and a table of cells by tasks with a sign for each run. Elsewhere:
    a line when a run ends, and one now and then in between.

    estimates: seconds that each job is expected to take at most, by its name. The time left scales what remains of them by
    what the finished runs have shown, those of the same task where there are some.
    """

    def __init__(self, jobs: Sequence[Job], estimates: Mapping[str, float], workers: int, stream: TextIO | None = None, *,
                 interval: float = 60.0) -> None:  # fmt: skip
        super().__init__(stream, interval)
        self.jobs, self.estimates, self.workers = jobs, estimates, max(workers, 1)
        self.began = self._drawn = time.monotonic()
        self._groups: dict[tuple[str, str], list[Job]] = {}
        for job in jobs:
            self._groups.setdefault((job.cell, job.task), []).append(job)
        self._states = {job.name: (job.state, 0) for job in jobs}

    def show(self, changed: Job | None) -> None:
        """What agents.pool.run_all calls."""
        if changed is not None:
            state = changed.state, changed.kills
            if self._states[changed.name] != state:
                self._states[changed.name] = state
                self._announce(changed)
        self._draw(time.monotonic())

    def left(self) -> float | None:
        """Seconds that are probably left; None before anything is known."""
        ended = [job for job in self.jobs if job.state in ("done", "failed") and job.seconds]
        overall = self._scale(ended)
        scales = {task: self._scale([job for job in ended if job.task == task]) or overall or 1.0
                  for task in {job.task for job in self.jobs}}  # fmt: skip
        open_ = [job for job in self.jobs if job.state in ("waiting", "running")]
        rest = sum(scales[job.task] * self.estimates.get(job.name, 0.0) * (1 - self._share(job)) for job in open_)
        return rest / min(self.workers, max(len(open_), 1)) if rest else None

    # -----------------------------------------------------------------------------------------------------------------

    def _scale(self, ended: Sequence[Job]) -> float:
        """How many times as long as estimated these took; 0 where that is not known."""
        expected = sum(self.estimates.get(job.name, 0.0) for job in ended)
        return sum(job.seconds for job in ended) / expected if expected else 0.0

    @staticmethod
    def _share(job: Job) -> float:
        return min(job.progress.get("step", 0) / job.steps, 1.0) if job.state == "running" or job.kills else 0.0

    def _announce(self, job: Job) -> None:
        if job.state == "done" and self._live is None:
            success = "" if job.success is None else f", success {job.success:.2f}"
            steps = job.progress.get("step", 0)
            self._print(f"done    {job.name}: {steps:,} steps{success}, {duration(job.seconds)}; {self._line()}")
        elif job.state == "failed":
            self._print(f"FAILED  {job.name}: {job.why}")
        elif job.state == "waiting":
            self._print(f"killed  {job.name}: by a signal; it goes on from its checkpoint")

    def _count(self, state: str) -> int:
        return sum(job.state == state for job in self.jobs)

    def _line(self) -> str:
        failed = f", {self._count('failed')} failed" if self._count("failed") else ""
        left = self.left()
        ahead = f", left {duration(left)}" if left is not None else ""
        return f"{self._count('done')}/{len(self.jobs)} runs done{failed}, {duration(time.monotonic() - self.began)}{ahead}"

    def _picture(self) -> Text:
        width, height = max(self._console.width - 1, 20), max(self._console.height - 1, 4)
        full, empty = ("━", "─") if self._unicode else ("#", "-")
        text = Text(no_wrap=True, overflow="crop")
        share = (self._count("done") + self._count("failed")) / max(len(self.jobs), 1)
        bar = max(min(width, 60), 10)
        text.append(full * round(bar * share), "green")
        text.append(f"{empty * (bar - round(bar * share))}\n", "bright_black")
        text.append(self._line()[:width] + "\n")
        lines = 2
        for job in [job for job in self.jobs if job.state == "running"][: height - lines]:
            row = job.progress
            success = f"  success {row['eval/success']:.2f}" if "eval/success" in row else ""
            rate = row.get("time/steps_per_second")
            speed = f"  {short(rate)}/s" if isinstance(rate, (int, float)) else ""
            done = round(10 * self._share(job))
            text.append(f"{full * done}{empty * (10 - done)} {job.name}{success}{speed}"[:width] + "\n", "yellow")
            lines += 1
        for cell, signs in self._grid(width)[: max(height - lines, 0)]:
            text.append(cell)
            for state, sign in signs:
                text.append(sign, COLOURS.get(state))
            text.append("\n")
        return text

    def _grid(self, width: int) -> list[tuple[str, list[tuple[str, str]]]]:
        """Lines of (cell, [(state, sign)]), a task after another, as many as fit."""
        symbols = SYMBOLS if self._unicode else ASCII_SYMBOLS
        tasks = list(dict.fromkeys(task for _, task in self._groups))
        columns = {task: max(len(jobs) for (_, t), jobs in self._groups.items() if t == task) for task in tasks}
        cells = list(dict.fromkeys(cell for cell, _ in self._groups))
        margin, lines = min(max(map(len, cells), default=0) + 1, width // 2), []
        for cell in cells:
            signs, room = [], width - margin
            for task in tasks:
                own = [job.state for job in self._groups.get((cell, task), ())]
                if room < columns[task]:
                    break
                room -= columns[task] + 1
                signs += [(state, symbols[state]) for state in own]
                signs.append(("", " " * (columns[task] - len(own) + 1)))
            lines.append((cell[: margin - 1].ljust(margin), signs))
        return lines


class Tally(Screen):
    """How many of `total` things are done, and the time left if the rest take as long: a live line on a terminal, elsewhere
    a line now and then."""

    def __init__(self, what: str, total: int, stream: TextIO | None = None, *, interval: float = 30.0) -> None:
        super().__init__(stream, interval)
        self.what, self.total, self.count = what, total, 0
        self.began = self._drawn = time.monotonic()

    def advance(self) -> None:
        self.count += 1
        self._draw(time.monotonic())

    def _line(self) -> str:
        spent, rest = time.monotonic() - self.began, self.total - self.count
        left = f", left {duration(spent / self.count * rest)}" if self.count and rest else ""
        return f"{self.what}: {self.count} of {self.total}, {duration(spent)}{left}"

    def _picture(self) -> Text:
        return Text(self._line()[: max(self._console.width - 1, 10)], no_wrap=True, overflow="crop")
