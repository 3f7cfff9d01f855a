"""The run folder, the record, and the display."""

import io
import json
import math
import os
import pty
import resource
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agents import progress, runlog
from agents.progress import Progress, duration, short, sparkline
from agents.runlog import MetricsLog, RunError, TensorBoardMirror, create_run_dir, read_metrics, write_run_files


def refused(call, *arguments, match: str) -> str:
    with pytest.raises(RunError, match=match) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- the folder ------------------------------------------------------------------------------------------------------


def test_new_folders_are_unique(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = [create_run_dir(None, name="tmaze-ur-lstm-s1") for _ in range(5)]
    assert len(set(paths)) == 5 and all(p.is_dir() and p.parent == Path("runs") for p in paths)
    assert all("-tmaze-ur-lstm-s1" in p.name for p in paths)


def test_requested_folder(tmp_path, monkeypatch):
    assert create_run_dir(str(tmp_path / "a" / "b")) == tmp_path / "a" / "b"
    assert create_run_dir(tmp_path / "a" / "b").is_dir()  # empty: fine
    (tmp_path / "a" / "b" / "x").write_text("mine")
    assert "--resume" not in refused(create_run_dir, tmp_path / "a" / "b", match="not empty")  # it is no run
    (tmp_path / "a" / "b" / "config.yaml").touch()
    assert "--resume" in refused(create_run_dir, tmp_path / "a" / "b", match="not empty")
    refused(create_run_dir, tmp_path / "a" / "b" / "x", match="cannot make")
    refused(create_run_dir, "/proc/nothing/x", match="cannot make")
    refused(create_run_dir, "nul\0", match="cannot make")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").write_text("a file")
    refused(create_run_dir, None, match="cannot make the run folder runs")
    assert (tmp_path / "a" / "b" / "x").read_text() == "mine"


def test_run_files(tmp_path):
    write_run_files(tmp_path, "seed: 1\n", ["train_agent.py", "seed=1"])
    assert (tmp_path / "config.yaml").read_text() == "seed: 1\n"
    versions = json.loads((tmp_path / "versions.json").read_text())
    assert versions["torch"] == torch.__version__ and versions["argv"] == ["train_agent.py", "seed=1"]
    assert {"python", "numpy", "gymnasium", "cpu", "threads", "git"} <= set(versions)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.yaml", "versions.json"]
    refused(write_run_files, tmp_path / "none", "", [], match="cannot write")


def test_git_state(tmp_path, monkeypatch):
    assert runlog.git_state(tmp_path) is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert runlog.git_state(Path(__file__).parent.parent) is None


# --- the record ------------------------------------------------------------------------------------------------------

VALUES = st.floats() | st.integers() | st.booleans() | st.none() | st.text(max_size=5)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.dictionaries(st.text(max_size=6), VALUES, max_size=4), max_size=4))
def test_rows_read_back_exactly(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("log") / "metrics.jsonl"
    with MetricsLog(path) as log:
        for row in rows:
            log.write(row)
            assert log.offset == path.stat().st_size  # each row is in the file at once
    back = read_metrics(path)
    clean = [{k: runlog.NON_FINITE.get(v, v) if isinstance(v, str) else v for k, v in row.items()} for row in rows]
    assert repr(back) == repr(clean)
    for line in path.read_text().splitlines():
        json.loads(line, parse_constant=lambda c: pytest.fail(f"{c} is not JSON"))


def test_scalars_of_tensors_and_numpy(tmp_path):
    with MetricsLog(tmp_path / "m") as log:
        log.write({"a": torch.tensor(0.1), "b": np.float64(0.1), "c": np.int64(3), "d": np.float32(0.1), "e": math.inf})
        for bad in (torch.ones(2), [1], object(), {"x": 1}):
            refused(log.write, {"bad": bad}, match="'bad'")
        log.write({"time/s": 1.0, "x": 2})
    assert read_metrics(tmp_path / "m") == [
        {"a": torch.tensor(0.1).item(), "b": 0.1, "c": 3, "d": float(np.float32(0.1)), "e": math.inf},
        {"time/s": 1.0, "x": 2}]
    assert read_metrics(tmp_path / "m", with_time=False)[1] == {"x": 2}
    assert '"e": "Infinity"' in (tmp_path / "m").read_text()


def test_resume_cuts_back_to_the_checkpoint(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path)
    log.write({"step": 1})
    offset = log.sync()
    assert offset == log.offset == path.stat().st_size
    log.write({"step": 2})
    log.close()
    with open(path, "ab") as file:
        file.write(b'{"step": 3, "half')  # killed inside a row
    assert [r["step"] for r in read_metrics(path)] == [1, 2]
    with MetricsLog(path) as log:
        log.truncate_to(offset)
        log.write({"step": 2})
        assert [r["step"] for r in read_metrics(path)] == [1, 2]
        refused(log.truncate_to, 10**6, match="rows are missing")
        refused(log.truncate_to, -1, match="rows are missing")
        refused(log.truncate_to, offset - 3, match="no row that ends")
        log.truncate_to(0)
        assert log.offset == 0 and read_metrics(path) == []


def test_full_disk_leaves_whole_rows(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path)
    log.write({"x": "a" * 50})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        refused(log.write, {"x": "b" * 500}, match="cannot write")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    log.write({"x": "c"})
    log.close()
    assert [r["x"][0] for r in read_metrics(path)] == ["a", "c"]


def test_damaged_records(tmp_path):
    refused(read_metrics, tmp_path / "none", match="cannot read")
    refused(MetricsLog, tmp_path, match="cannot open")
    for text in (b'{"a": 1}\nx\n', b'{"a": 1}\n[1]\n', b"\xff\n", b"[" * 10**5 + b"\n"):
        (tmp_path / "m").write_bytes(text)
        refused(read_metrics, tmp_path / "m", match="damaged")


def test_tensorboard_hides_what_is_written_again(tmp_path):
    first = TensorBoardMirror(tmp_path)
    for step in (10, 20, 30):
        first.write(step, {"loss": float(step), "note": "x", "bad": math.nan, "none": None})
    first.close()
    second = TensorBoardMirror(tmp_path, purge_step=20)
    second.write(20, {"loss": 21.0})
    second.close()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(10, 10.0), (20, 21.0)]


def test_tensorboard_is_optional(tmp_path, monkeypatch):
    said = []
    (tmp_path / "file").write_text("")
    TensorBoardMirror(tmp_path / "file", warn=said.append).write(1, {"a": 1.0})
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    mirror = TensorBoardMirror(tmp_path, warn=said.append)
    mirror.write(1, {"a": 1.0})
    mirror.close()
    assert len(said) == 2 and all("TensorBoard" in text for text in said)


# --- the display -----------------------------------------------------------------------------------------------------

METRICS = {"train/success": 0.5, "train/return": -0.25, "entropy": 1.2, "loss": 0.1, "other": "x", "bad": None}


def test_plain_lines():
    stream = io.StringIO()
    with Progress(1000, stream, interval=0) as display:
        display.update(100, METRICS)
        time.sleep(0.01)
        display._print("saved")
        display.update(500, {"success": float("nan")})
        display.update(700)
    lines = stream.getvalue().splitlines()
    assert lines[0].startswith("100/1,000 steps (10%)") and "success 0.5" in lines[0] and lines[1] == "saved"
    assert "success nan" in lines[2] and "left 0:00" in lines[2] and lines[-1].startswith("700/1,000")
    assert "\r" not in stream.getvalue() and "\x1b" not in stream.getvalue()


def test_plain_lines_are_seconds_apart():
    stream = io.StringIO()
    with Progress(1000, stream, interval=60) as display:
        for step in range(500):
            display.update(step, METRICS)
    assert len(stream.getvalue().splitlines()) == 2  # the first and the last


def on_terminal(columns: int, encoding: str, body, term: str = "xterm-256color") -> str:
    """Run body(stream) with a stream on a pseudo-terminal; what the terminal was sent."""
    parent, child = pty.openpty()
    received = bytearray()

    def drain():
        try:
            while chunk := os.read(parent, 65536):
                received.extend(chunk)
        except OSError:
            pass

    reader = threading.Thread(target=drain)
    reader.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", str(columns))
        patch.setenv("LINES", "24")
        patch.setenv("TERM", term)
        for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
            patch.delenv(name, raising=False)
        with open(child, "w", encoding=encoding) as stream:
            body(stream)
    reader.join(5)
    os.close(parent)
    return received.decode(encoding)


def ten_updates(stream) -> None:
    with Progress(1000, stream) as display:
        for step in range(0, 1001, 100):
            display.update(step, {**METRICS, "success": step / 1000})
            display._drawn = -math.inf
        display._print("saved é ✓")


@pytest.mark.parametrize("columns", [40, 5, 1, 200])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_live_display_fits_and_cleans_up(columns, encoding):
    text = on_terminal(columns, encoding, ten_updates)
    assert "\x1b[?25l" in text and text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")  # cursor hidden, then shown
    if columns >= 40:
        assert "100%" in text and "entropy 1.2" in text and "saved" in text
        assert (progress.BLOCKS[-1] in text) == (encoding == "utf-8")


def test_dumb_terminal_gets_plain_lines():
    text = on_terminal(80, "utf-8", ten_updates, term="dumb")
    assert "\x1b" not in text and "steps/s" in text


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_terminal_is_restored_on_errors(error):
    def body(stream):
        with pytest.raises(error), Progress(1000, stream) as display:
            display.update(1, METRICS)
            raise error

    text = on_terminal(80, "utf-8", body)
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")


def test_a_broken_stream_does_not_stop_training():
    read, write = os.pipe()
    os.close(read)
    stream = open(write, "w")  # noqa: SIM115
    with Progress(1000, stream, interval=0) as display:
        for step in range(3):
            display.update(step, METRICS)
        display._print("x")
    with pytest.raises(BrokenPipeError):
        stream.close()
    closed = io.StringIO()
    closed.close()
    with Progress(1000, closed, interval=0) as display:
        display.update(1, METRICS)


@pytest.mark.parametrize("total, steps", [(0, [0, 5]), (10, [0, 0, 20]), (10, [])])
def test_odd_step_counts(total, steps):
    for stream in (io.StringIO(),):
        with Progress(total, stream, interval=0) as display:
            for step in steps:
                display.update(step)


def test_small_things():
    assert short(1_234_567) == "1.23M" and short(999) == "999" and short(12_345) == "12.3k"
    assert duration(59.9) == "0:59" and duration(3661) == "1:01:01" and duration(math.inf) == "-"
    assert sparkline([0, 0.5, 1], 3) == " ▄█" and sparkline([0.0] * 50 + [1.0] * 50, 10) == " " * 5 + "█" * 5
    assert sparkline([0, 1], 9, unicode=False).isascii() and len(sparkline([0.3] * 5000, 40)) == 40
