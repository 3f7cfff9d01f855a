"""A run's folder and its record.

    RUN/config.yaml      resolved settings              RUN/metrics.jsonl   the record: one JSON object a line
    RUN/versions.json    programs, machine, git, argv   RUN/tensorboard/    a mirror of it, for looking at

Numbers in `metrics.jsonl` are written so that they read back bit-equal. JSON has no NaN and no infinities: they stand
as the strings "NaN", "Infinity" and "-Infinity", and `read_metrics` turns these back. Keys under `time/` depend on the
clock and are left out where two runs are compared.
"""

import contextlib
import difflib
import fcntl
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from agents.checkpoint import write_atomic

NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
PACKAGES = ("torch", "numpy", "gymnasium", "minigrid", "safetensors", "omegaconf", "tensorboard", "scipy", "matplotlib")


class RunError(ValueError):
    """A run folder or record that cannot be made, written or continued; the message is one line."""

    def __init__(self, message: object) -> None:
        super().__init__(" ".join(str(message).split())[:600])


# --- the folder ------------------------------------------------------------------------------------------------------


def create_run_dir(requested: str | Path | None, name: str = "run") -> Path:
    """Make and return a folder for a new run: `requested`, or a new runs/<date>-<time>-<name> that nobody else has.

    Raises RunError where `requested` holds anything already, or a folder cannot be made or written to.
    """
    try:
        if requested is not None:
            path = Path(requested).expanduser()
            path.mkdir(parents=True, exist_ok=True)
            if any(path.iterdir()):
                begun = f", or continue it with --resume {path}" if (path / "config.yaml").is_file() else ""
                raise RunError(f"run_dir={path} is not empty; give another folder{begun}")
        else:
            path = _new_folder(Path("runs"), time.strftime("%Y%m%d-%H%M%S-") + name)
        if not os.access(path, os.W_OK | os.X_OK):
            raise RunError(f"the run folder {path} is not writable")
    except (OSError, ValueError) as error:
        if isinstance(error, RunError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise RunError(f"cannot make the run folder {requested or 'runs'}: {reason}") from error
    return path


def _new_folder(root: Path, name: str) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for again in range(1, 10_000):
        path = root / (name if again == 1 else f"{name}-{again}")
        try:
            path.mkdir()  # fails where another process was faster
        except FileExistsError:
            continue
        return path
    raise RunError(f"too many runs named {name} in {root}")


def write_text(path: Path, text: str) -> None:
    """Write a small file of the run atomically. Raises RunError."""
    try:
        write_atomic(Path(path), text.encode())
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error


def write_run_files(run_dir: Path, config_yaml: str, argv: Sequence[str], exact_resume: bool = True) -> None:
    """Write `config.yaml` (the resolved settings) and `versions.json`, in which stands too whether the run, if it is
    stopped, can go on exactly. Raises RunError."""
    write_text(Path(run_dir) / "config.yaml", config_yaml)
    versions = collect_versions(argv) | {"exact_resume": exact_resume}
    write_text(Path(run_dir) / "versions.json", json.dumps(versions, indent=2) + "\n")


def note_resumption(run_dir: Path, argv: Sequence[str]) -> None:
    """Adds to `versions.json`, under "resumed", what goes on with the run, or writes it where the run was killed before. A
    damaged one is left as it is: a comparison then says that it is not recorded who made the run. Raises RunError."""
    path = Path(run_dir) / "versions.json"
    now = collect_versions(argv)
    try:
        found = json.loads(path.read_text())
        versions = found | {"resumed": [*found.get("resumed", ()), now]}
    except FileNotFoundError:
        versions = now
    except (OSError, ValueError, TypeError, AttributeError):
        return
    write_text(path, json.dumps(versions, indent=2) + "\n")


def collect_versions(argv: Sequence[str]) -> dict[str, Any]:
    """What a result depends on beside the settings: programs, machine, threads, the state of the code, argv."""
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "argv": list(argv),
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{name: _package_version(name) for name in PACKAGES},
        "cpu": _cpu_model(),
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "omp": {k: v for k, v in sorted(os.environ.items()) if k.startswith(("OMP_", "MKL_NUM", "KMP_", "GOMP_"))},
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "cuda": torch.version.cuda,
        "git": git_state(Path(__file__).resolve().parent.parent),
    }


def _package_version(name: str) -> str | None:
    try:
        return torch.__version__ if name == "torch" else version(name)  # torch's own tells the build: +cpu, +cu130
    except PackageNotFoundError:
        return None


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def git_state(root: Path) -> dict[str, Any] | None:
    """{"commit": ..., "dirty": ...} of the checkout whose top is `root`; None where there is no such checkout."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10,
                              check=True, env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"}).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != root.resolve():
            return None  # installed somewhere inside another project's checkout
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None


# --- the record ------------------------------------------------------------------------------------------------------


class MetricsLog:
    """Appends rows to a JSON-lines file; each row is in the file when `write` returns.

    `offset` is the file's length in bytes. A checkpoint stores `sync()`, and a resumed run calls `truncate_to` with it,
    so that no row is there twice and none is missing. While it is open, no other process can open it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115 - lives as long as the run
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._offset = os.fstat(self._file.fileno()).st_size
        except BlockingIOError:
            raise RunError(f"{self.path} is being written by another process; wait for its end, or stop it") from None
        except OSError as error:
            raise RunError(f"cannot open {self.path}: {error.strerror or error}") from error

    @property
    def offset(self) -> int:
        """Bytes written so far."""
        return self._offset

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one row of scalars (numbers, strings, None; one-element tensors and numpy scalars are taken out).

        Raises RunError for other values and where the disk refuses; the file then ends with the row before.
        """
        line = (json.dumps({str(k): _plain(k, v) for k, v in row.items()}, allow_nan=False) + "\n").encode()
        try:
            rest = memoryview(line)
            while rest:
                rest = rest[self._file.write(rest):]
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.truncate(self._offset)
            raise RunError(f"cannot write {self.path}: {error.strerror or error}") from error
        self._offset += len(line)

    def sync(self) -> int:
        """Make the rows survive a power cut, and return `offset`; call it before a checkpoint."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise RunError(f"cannot write {self.path}: {error.strerror or error}") from error
        return self._offset

    def truncate_to(self, offset: int) -> None:
        """Cut the file back to a checkpoint's offset. Raises RunError where the file is shorter, or where no row ends
        there: then it is not the file that the checkpoint was made with."""
        size = os.fstat(self._file.fileno()).st_size
        if not 0 <= offset <= size:
            raise RunError(f"{self.path} has {size} bytes, the checkpoint was made at {offset}: rows are missing")
        try:
            with open(self.path, "rb") as file:
                file.seek(max(offset - 1, 0))
                if offset and file.read(1) != b"\n":
                    raise RunError(f"{self.path} has no row that ends at byte {offset}: not the checkpoint's file")
            self._file.truncate(offset)
            os.fsync(self._file.fileno())
        except OSError as error:
            raise RunError(f"cannot cut {self.path}: {error.strerror or error}") from error
        self._offset = offset

    def close(self) -> None:
        """Close the file; closing twice is fine."""
        self._file.close()

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def spelled(value: float) -> float | str:
    """`value`, or where JSON has no number for it, its name."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _plain(key: str, value: Any) -> Any:
    take_out = getattr(value, "item", None)
    if take_out is not None:
        try:
            value = take_out()
        except (RuntimeError, ValueError):
            raise RunError(f"the metric {key!r} is not a single value") from None
    if isinstance(value, float):
        return spelled(value)
    if value is None or isinstance(value, (bool, int, str)):
        return value
    raise RunError(f"the metric {key!r} is a {type(value).__name__}, expected a number, text or None")


def read_metrics(path: str | Path, with_time: bool = True) -> list[dict[str, Any]]:
    """The rows of a record; with_time=False leaves out the keys under `time/`, for exact comparison. A last line
    without its end, left by a killed run, is no row. Raises RunError for a missing or damaged file."""
    try:
        lines = Path(path).read_bytes().split(b"\n")[:-1]
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror or error}") from error
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            rows.append({k: NON_FINITE.get(v, v) if isinstance(v, str) else v for k, v in row.items()
                         if with_time or not k.startswith("time/")})
        except (ValueError, AttributeError, RecursionError):
            raise RunError(f"{path} line {number} is damaged") from None
    return rows


class TensorBoardMirror:
    """The record once more as TensorBoard events. It is for looking at only: where tensorboard is not installed or its
    disk fails, it says so once through `warn` and training goes on."""

    def __init__(self, log_dir: str | Path, purge_step: int | None = None, warn: Callable[[str], object] | None = None
                 ) -> None:
        self._warn, self._writer = warn or (lambda text: print(text, file=sys.stderr)), None
        try:
            from torch.utils.tensorboard import SummaryWriter  # takes seconds to import

            # purge_step: what a resumed run will write again is hidden from there on
            self._writer = SummaryWriter(str(log_dir), purge_step=purge_step)
        except (ImportError, OSError) as error:
            self._warn(f"no TensorBoard events: {error}")

    def write(self, step: int, metrics: Mapping[str, Any], histograms: Mapping[str, torch.Tensor] | None = None) -> None:
        """Add the numbers among `metrics`, and tensors of finite numbers as histograms, at `step` (environment steps)."""
        self._guard(lambda writer: self._add(writer, step, metrics, histograms or {}))

    def write_settings(self, step: int, settings: Mapping[str, Any], results: Mapping[str, Any]) -> None:
        """Add the run to the table HPARAMS: its settings, and what it ended with, which are scalars at `step` too."""

        def add(writer: Any) -> None:
            from torch.utils.tensorboard.summary import hparams  # the writer's own method would start another run

            shown = {k: v if isinstance(v, (bool, int, float, str)) else str(v) for k, v in settings.items()}
            for summary in hparams(shown, numbers):
                writer.file_writer.add_summary(summary)
            self._add(writer, step, numbers, {})

        numbers = {k: v for k, v in results.items() if isinstance(v, (int, float))}
        self._guard(add)

    def write_film(self, step: int, gif: Path) -> None:
        """Add a GIF at `step`; it plays under IMAGES. (`add_video` would need another package to encode it once more.)"""

        def add(writer: Any) -> None:
            from PIL import Image
            from torch.utils.tensorboard.summary import Summary

            with Image.open(gif) as picture:
                width, height = picture.size
            picture = Summary.Image(width=width, height=height, colorspace=3, encoded_image_string=gif.read_bytes())
            writer.file_writer.add_summary(Summary(value=[Summary.Value(tag="film", image=picture)]), step)

        self._guard(add)

    def close(self) -> None:
        """Flush and close."""
        self._guard(lambda writer: writer.close())
        self._writer = None

    def __enter__(self) -> "TensorBoardMirror":
        return self

    def __exit__(self, *_: object) -> None:
        """Closes after an error too, or the last rows that its thread has not written yet would be lost."""
        self.close()

    @staticmethod
    def _add(writer: Any, step: int, metrics: Mapping[str, Any], histograms: Mapping[str, torch.Tensor]) -> None:
        for key, value in metrics.items():
            if isinstance(_plain(key, value), (int, float)) or isinstance(value, float):
                writer.add_scalar(key, float(value), step)
        for key, values in histograms.items():
            writer.add_histogram(key, values.cpu().numpy(), step)

    def _guard(self, add: Callable[[Any], object]) -> None:
        if self._writer is None:
            return
        try:
            add(self._writer)
        except OSError as error:
            self._warn(f"no more TensorBoard events: {error}")
            self._writer = None


def find_run(path: Path) -> tuple[Path, str]:
    """The run folder and the checkpoint that `path` names: RUN is RUN's latest, RUN/checkpoints/NAME is NAME.

    Raises RunError where there is no such run; the message names the one that is spelt most like it.
    """
    run_dir, which = (path.parent.parent, path.name) if path.parent.name == "checkpoints" else (path, "latest")
    if (run_dir / "config.yaml").is_file():
        return run_dir, which
    if run_dir.exists():
        why = "it holds no config.yaml" if run_dir.is_dir() else "it is a file"
        raise RunError(f"{run_dir} is not a run folder ({why})")
    try:
        others = [p.name for p in run_dir.parent.iterdir() if (p / "config.yaml").is_file()]
    except OSError:
        others = []
    near = difflib.get_close_matches(run_dir.name, others, 1, 0)
    raise RunError(f"no such run folder: {run_dir}" + (f"; did you mean {run_dir.parent / near[0]}?" if near else ""))
