"""What one sees while a run goes on: a live display on a terminal, plain lines elsewhere."""

import itertools
import math
import sys
import time
from collections import deque
from collections.abc import Mapping
from typing import Any, TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text

SHOWN = ("success", "greedy", "return", "entropy", "loss")
BLOCKS, ASCII_BLOCKS = " ▁▂▃▄▅▆▇█", " .:-=+*#@"
REDRAW_SECONDS = 0.1


class Screen:
    """A live picture on a terminal, plain lines elsewhere. A subclass gives `_picture` and `_line`.

    Use it as a context manager: the terminal is restored however the block is left. Nothing it does raises: where the
    stream breaks (a closed pipe), it falls silent.
    """

    def __init__(self, stream: TextIO | None, interval: float) -> None:
        self.interval = interval
        self._stream = sys.stdout if stream is None else stream
        self._drawn = -math.inf
        self._live: Live | None = None
        self._broken = False
        self._console = Console(file=self._stream, highlight=False)
        self._unicode = (getattr(self._stream, "encoding", None) or "ascii").lower().replace("-", "").startswith("utf")

    def __enter__(self) -> "Screen":
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            live = Live(console=self._console, auto_refresh=False, get_renderable=self._picture,
                        vertical_overflow="crop")
            if self._guarded(live.start, True):
                self._live = live
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            live, self._live = self._live, None
            self._broken = False  # try even so: the cursor is hidden
            self._guarded(live.stop)
        else:
            self._print(self._last_line())

    def _picture(self) -> Text:
        raise NotImplementedError

    def _line(self) -> str:
        raise NotImplementedError

    def _last_line(self) -> str:
        return self._line()

    def _draw(self, now: float) -> None:
        """The picture or the line again, if it is time."""
        if now - self._drawn < (REDRAW_SECONDS if self._live else self.interval):
            return
        self._drawn = now
        if self._live is not None:
            self._guarded(self._live.refresh)
        else:
            self._print(self._line())

    def _guarded(self, function, *arguments: Any) -> bool:
        if self._broken:
            return False
        try:
            function(*arguments)
        except (OSError, ValueError):  # a broken pipe, a closed or a narrower-than-text stream
            self._broken = True
        return not self._broken

    def _print(self, text: str) -> None:
        """A line, above the picture if there is one."""
        text = text if self._unicode else text.encode("ascii", "replace").decode()
        if self._live is not None:
            self._guarded(lambda: self._console.print(Text(text)))
        elif text:  # not through rich, which would fold the line at 80 columns
            self._guarded(lambda: print(text, file=self._stream, flush=True))


class Progress(Screen):
    """Shows steps, steps per second, the metrics of SHOWN, and the time left.

    total_steps: environment steps of the whole run; may_end_early: it may need fewer. initial_step: where a resumed run
    begins. interval: seconds between plain lines. Metrics are found by the last part of their key ("train/success" is
    success), but an evaluation's success is "greedy"; later keys win.
    """

    def __init__(self, total_steps: int, stream: TextIO | None = None, *, initial_step: int = 0, interval: float = 5.0,
                 may_end_early: bool = False) -> None:
        super().__init__(stream, interval)
        self.total, self.step, self.may_end_early = max(int(total_steps), 1), initial_step, may_end_early
        self._said = ""
        self._metrics: dict[str, float] = {}
        self._success: list[float] = []
        self._marks: deque[tuple[float, int]] = deque([(time.monotonic(), initial_step)])

    def update(self, step: int, metrics: Mapping[str, Any] | None = None) -> None:
        """Report that `step` environment steps are done, with metrics where there are new ones."""
        self.step = step
        for key, value in (metrics or {}).items():
            name = "greedy" if key == "eval/success" else key.rsplit("/", 1)[-1]
            if name in SHOWN and isinstance(value, (int, float)):
                self._metrics[name] = float(value)
                if name == "success" and math.isfinite(value):
                    self._success.append(float(value))
        if len(self._success) > 4096:  # old points count for less: halve them
            self._success = self._success[1::2]
        now = time.monotonic()
        if step > self._marks[-1][1]:
            self._marks.append((now, step))
        while len(self._marks) > 2 and now - self._marks[0][0] > 30:
            self._marks.popleft()
        self._draw(now)

    def _rate(self) -> float:
        (t0, s0), (t1, s1) = self._marks[0], self._marks[-1]
        return (s1 - s0) / (t1 - t0) if t1 > t0 else 0.0

    def _left(self) -> str:
        rate = self._rate()
        left = duration(max(self.total - self.step, 0) / rate) if rate > 0 else "-"
        return f"at most {left}" if self.may_end_early else left

    def _metric(self, name: str) -> str:
        return f"{name} {self._metrics[name]:.3g}" if name in self._metrics else f"{name} -"

    def _line(self) -> str:
        share = f"{min(self.step / self.total, 1):.0%}"
        parts = [f"{self.step:,}/{self.total:,} steps ({share})", f"{short(self._rate())} steps/s"]
        self._said = "  ".join([*parts, *(self._metric(m) for m in SHOWN if m in self._metrics), f"left {self._left()}"])
        return self._said

    def _last_line(self) -> str:
        said = self._said
        return self._line() if self._metrics and not said.startswith(f"{self.step:,}/") else ""

    def _picture(self) -> Text:
        width = max(self._console.width - 1, 10)
        full, empty = ("━", "─") if self._unicode else ("#", "-")
        share = min(self.step / self.total, 1.0)
        counts = f" {share:4.0%}  {short(self.step)}/{short(self.total)} steps"
        bar = max(min(width - len(counts), 40), 0)
        lines = [full * round(bar * share) + empty * (bar - round(bar * share)) + counts,
                 f"{short(self._rate())} steps/s  left {self._left()}"]
        row = ""
        for piece in map(self._metric, SHOWN):  # as many on a line as fit
            if row and len(row) + 2 + len(piece) > width:
                lines.append(row)
                row = ""
            row += ("  " if row else "") + piece
        lines.append(row)
        if len(self._success) > 1:
            lines.append("success " + sparkline(self._success, min(width - 8, 40), self._unicode))
        return Text("\n".join(line[:width] for line in lines), no_wrap=True, overflow="crop")


def sparkline(values: list[float], width: int, unicode: bool = True) -> str:
    """Values in [0, 1] as at most `width` characters; where there are more values, means of equal stretches."""
    blocks = BLOCKS if unicode else ASCII_BLOCKS
    count = max(min(width, len(values)), 1)
    edges = [i * len(values) // count for i in range(count + 1)]
    means = [sum(values[a:b]) / max(b - a, 1) for a, b in itertools.pairwise(edges)]
    return "".join(blocks[round(min(max(m, 0.0), 1.0) * (len(blocks) - 1))] for m in means)


def short(number: float) -> str:
    """1234567 -> '1.23M', with three digits."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}"


def duration(seconds: float) -> str:
    """Seconds as 'h:mm:ss' or 'm:ss'."""
    if not math.isfinite(seconds):
        return "-"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
