"""Runs on disk: one JSON file each, written atomically, never run twice, shared by the claims that need the same.

OUT/runs/TASK-VARIANT-DIGEST-seedN.json    settings, curve, CPU seconds; DIGEST is of the settings, so changed ones
                                           are another file
OUT/runs/... .failed                       why the last attempt broke off or was not made; gone once the run is done
OUT/partial/...                            checkpoints of a run under way

python -m benchmarks.claims.runs OUT SEED SPEC_JSON     one run, as a worker process does it
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from agents.checkpoint import write_atomic
from benchmarks.claims.arms import Claim, Missing
from benchmarks.claims.training import Run, Spec, train

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Job:
    """One run; `claim` is the first that needs it, and pays for it."""

    claim: str
    spec: Spec
    seed: int


def name(spec: Spec, seed: int) -> str:
    text = json.dumps(asdict(spec), sort_keys=True)
    return f"{spec.task}-{spec.variant}-{hashlib.sha256(text.encode()).hexdigest()[:10]}-seed{seed}"


def result_path(out: Path, spec: Spec, seed: int) -> Path:
    return out / "runs" / f"{name(spec, seed)}.json"


def read(out: Path, spec: Spec, seed: int) -> dict | None:
    """The result, or None where there is none."""
    path = result_path(out, spec, seed)
    return json.loads(path.read_text()) if path.exists() else None


def failure(out: Path, spec: Spec, seed: int) -> str | None:
    """Why the last attempt failed or was not made, one line; None where it did not."""
    path = result_path(out, spec, seed).with_suffix(".failed")
    return path.read_text().strip().splitlines()[-1] if path.exists() else None


def note_failure(out: Path, spec: Spec, seed: int, reason: str) -> None:
    """Keeps what `failure` will say until the run is done."""
    path = result_path(out, spec, seed).with_suffix(".failed")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, reason.encode())


def execute(out: Path, spec: Spec, seed: int, after_step: Callable[[Run], None] | None = None,
            checkpoint_every: int = 1000) -> dict:  # fmt: skip
    """Runs it, or goes on with it, unless the result is there; returns the result. An error is noted and raised."""
    known, path, partial = read(out, spec, seed), result_path(out, spec, seed), out / "partial" / name(spec, seed)
    if known is not None:
        return known
    path.parent.mkdir(parents=True, exist_ok=True)
    partial.mkdir(parents=True, exist_ok=True)
    try:
        result = {"spec": asdict(spec), "seed": seed} | train(spec, seed, partial, checkpoint_every, after_step)
    except Exception:
        note_failure(out, spec, seed, traceback.format_exc())
        raise
    write_atomic(path, (json.dumps(result, indent=1, allow_nan=False) + "\n").encode())
    path.with_suffix(".failed").unlink(missing_ok=True)
    shutil.rmtree(partial, ignore_errors=True)
    return result


def plan(claims: Iterable[Claim], seeds: Sequence[int], quick: bool) -> tuple[list[Job], list[str]]:
    """The runs that the claims need, each once, seed by seed; and a line for every arm whose variant is missing."""
    jobs, missing, seen = [], [], set()
    for claim in claims:
        for (condition, arm), spec in claim.specs(quick).items():
            if isinstance(spec, Missing):
                missing.append(f"{claim.id}: arm {arm!r} at {condition!r} cannot run: {spec}")
        specs = [s for s in claim.specs(quick).values() if not isinstance(s, Missing)]
        for seed in seeds:
            for spec in specs:
                if name(spec, seed) not in seen:
                    seen.add(name(spec, seed))
                    jobs.append(Job(claim.id, spec, seed))
    return jobs, missing


def run_all(out: Path, claims: Sequence[Claim], jobs: Sequence[Job], workers: int,
            say: Callable[[str], None] = print) -> list[str]:  # fmt: skip
    """Runs what is not there yet, `workers` processes of one thread at a time (0: in this process).

    Before each run the core-hours that its claim has used are compared with its cap. Returns a line for every run that
    failed or was not started.
    """
    caps, own = {claim.id: claim.cap for claim in claims}, {claim.id: [] for claim in claims}
    for job in jobs:
        own[job.claim].append(job)

    def one(job: Job) -> str | None:
        label = f"{job.claim}: {name(job.spec, job.seed)}"
        if read(out, job.spec, job.seed) is not None:
            return None
        done = [read(out, other.spec, other.seed) for other in own[job.claim]]
        used = sum(r["cpu_seconds"] for r in done if r) / 3600
        if used >= caps[job.claim]:
            reason = f"not started: its claim has used {used:.2f} of {caps[job.claim]} core-hours"
            note_failure(out, job.spec, job.seed, reason)
            return f"{label} {reason}"
        say(f"start {label}")
        try:
            if workers == 0:
                execute(out, job.spec, job.seed)
            else:
                _in_process(out, job)
        except Exception as error:
            return f"{label} FAILED: {failure(out, job.spec, job.seed) or error}"
        last = read(out, job.spec, job.seed)
        row = last["curve"][-1]
        accuracy = f", accuracy {row['accuracy']:.1%}" if "accuracy" in row else ""
        say(f"done  {label}: {last['steps']} steps, loss {row['loss']:.3f} of memoryless{accuracy}, "
            f"{last['cpu_seconds'] / 60:.1f} core-minutes")  # fmt: skip
        return None

    with ThreadPoolExecutor(max(1, workers)) as pool:
        return [line for line in pool.map(one, jobs) if line]


def _in_process(out: Path, job: Job) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CLAIMS_PARENT": str(os.getpid())}
    command = [sys.executable, "-m", "benchmarks.claims.runs", str(out.resolve()), str(job.seed)]
    done = subprocess.run(
        [*command, json.dumps(asdict(job.spec))], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1])


def worker(argv: Sequence[str]) -> None:
    """One run; ends by itself when the process that asked for it is gone, so that a killed script leaves no worker behind."""
    parent = int(os.environ.get("CLAIMS_PARENT", os.getppid()))

    def after_step(run: Run) -> None:
        if os.getppid() != parent:
            sys.exit("the script that started this run is gone")

    fields = json.loads(argv[2])
    if fields.get("curriculum") is not None:
        fields["curriculum"] = tuple(fields["curriculum"])
    execute(Path(argv[0]), Spec(**fields), int(argv[1]), after_step)


if __name__ == "__main__":
    worker(sys.argv[1:])
