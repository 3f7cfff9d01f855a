"""How scripts end where it is nobody's slip: no memory, nobody who reads what they print, a full disk."""

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest
from test_cli import ROOT, TINY

import build
import train_agent


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert train_agent.main([*TINY, f"run_dir={folder}"]) == 0
    return folder


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 640 bytes")])
def test_out_of_memory(error, tmp_path, monkeypatch, capsys):
    """Before the run has begun a mistake, afterwards not; another RuntimeError is a bug, and shows."""

    def broken(*_):
        raise error

    monkeypatch.setattr(build, "evaluate_agent", broken)
    assert train_agent.main([*TINY, f"run_dir={tmp_path / 'a run'}"]) == 1
    told = capsys.readouterr().err
    assert "out of memory" in told and told.endswith(f"go on with: --resume '{tmp_path / 'a run'}'\n")
    monkeypatch.setattr(build, "make_trainer", broken)
    assert train_agent.main([*TINY, f"run_dir={tmp_path / 'none'}"]) == 2
    told = capsys.readouterr().err
    assert "out of memory" in told and told.endswith("expected smaller sizes\n") and not (tmp_path / "none").exists()
    error.args = ("something else",)
    with pytest.raises(RuntimeError) if isinstance(error, RuntimeError) else contextlib.nullcontext():
        train_agent.main([*TINY, f"run_dir={tmp_path / 'none'}"])


def shell(command: str) -> tuple[int, str]:
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True)
    return done.returncode, done.stderr


def test_a_closed_output_is_no_failure(run):
    assert shell(f"{sys.executable} {ROOT / 'evaluate_agent.py'} {run} >&-") == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full device here")
@pytest.mark.parametrize("where, why", [
    ("> /dev/full", "standard output or a file: No space left on device"), ("| true", "standard output: Broken pipe"),
])  # fmt: skip
def test_output_that_cannot_be_written(run, where, why):
    command = f"{sys.executable} {ROOT / 'evaluate_agent.py'} {run} --json {where}"
    assert shell(command) == (1, f"error: cannot write to {why}\n")
