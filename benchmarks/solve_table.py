"""Cells x seeds x environments, everything else equal: steps to solve, final success, and the memoryless control.

    python benchmarks/solve_table.py OUT [cells=a,b] [envs=a,b] [seeds=1,2,3] [jobs=2] [key=value ...]

An entry of envs is an experiment (a name under configs/) or an environment, with or without its level (tmaze_noisy-hard).

Every run is `train_agent.py` with one thread in its own folder under OUT/runs; a finished run is not run again, so the
command goes on where it was stopped. A run that is there with other settings is refused. Writes OUT/table.csv and
OUT/table.md. "Solved" is the first greedy evaluation in training (256 episodes) with a success rate of 0.95; success, return
and score (0 without the ability under test, 1 at the optimum) are over 1,000 greedy episodes after training, the same for all
runs, so that seeds are no more episodes.
"""

from __future__ import annotations

import csv
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import build
from configs.errors import ConfigError
from configs.load import diff_configs, from_resolved, load_config

ROOT = Path(__file__).resolve().parents[1]
CELLS = "memoryless,lstm,chrono-lstm,ur-lstm,gru"
ENVS = "tmaze_passive,tmaze_bakker"


def tokens_of(job: tuple[str, str, str], folder: Path, extra: list[str]) -> list[str]:
    """The command line of a run. Raises ConfigError where it is not understood, or the run that is there was another."""
    env, cell, seed = job
    task = env if (ROOT / "configs" / f"{env}.yaml").exists() else f"env={env}"
    tokens = [task, f"cell={cell}", f"seed={seed}", f"run_dir={folder}", "train.threads=1", *extra]
    config = load_config(tokens, build.KNOWN_CELLS)
    if (folder / "config.yaml").is_file():
        changed = [key for key in diff_configs(from_resolved(folder, (), build.KNOWN_CELLS), config) if key != "run_dir"]
        if changed:
            raise ConfigError(f"{folder} was made with another {changed[0]}; give another OUT, or remove that folder")
    return tokens


def run(job: tuple[str, str, str], out: Path, extra: list[str]) -> dict:
    env, cell, seed = job
    folder = out / "runs" / f"{env}-{cell}-{seed}"
    if not (folder / "evaluation.json").exists():
        command = [sys.executable, str(ROOT / "train_agent.py")]
        begun = (folder / "config.yaml").exists()
        command += ["--resume", str(folder)] if begun else tokens_of(job, folder, extra)
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        if done.returncode:
            said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
            return {"env": env, "cell": cell, "seed": seed, "failed": said[-1]}
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    solved = next((r["step"] for r in rows if r.get("eval/success", 0) >= 0.95), None)
    report = json.loads((folder / "evaluation.json").read_text())
    print(f"{env} {cell} seed {seed}: solved at {solved}, greedy {report['greedy']['success_rate']:.1%}", flush=True)
    return {
        "env": env, "cell": cell, "seed": seed, "solved_at": solved, "steps": report["step"],
        "greedy": report["greedy"]["success_rate"], "sampled": report["sampled"]["success_rate"],
        "episodes": report["episodes"], "return": report["greedy"]["mean_return"], "score": report["greedy"].get("score"),
    }  # fmt: skip


def markdown(rows: list[dict]) -> str:
    """A line for every environment and cell; a failed run is named in its seed's place."""
    lines = ["| environment | cell | solved | steps to solve, by seed (k) | greedy success, by seed | score, by seed |",
             "|---|---|---|---|---|---|"]  # fmt: skip
    for (env, cell), group in itertools.groupby(rows, key=lambda r: (r["env"], r["cell"])):
        group = list(group)

        def by_seed(key: str, form: Callable[[float], str]) -> str:
            shown = ("failed" if "failed" in r else "-" if r[key] is None else form(r[key]) for r in group)  # noqa: B023
            return ", ".join(shown)

        solved = f"{sum(r.get('solved_at') is not None for r in group)}/{len(group)}"
        steps = by_seed("solved_at", lambda x: f"{x / 1000:.0f}")
        success, scores = by_seed("greedy", "{:.3f}".format), by_seed("score", "{:.2f}".format)
        lines.append(f"| {env} | {cell} | {solved} | {steps} | {success} | {scores} |")
    return "\n".join(lines) + "\n"


def main(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(__doc__.strip())
        return 0 if argv else 2
    out, own, extra = Path(argv[0]), {"cells": CELLS, "envs": ENVS, "seeds": "1,2,3,4,5", "jobs": "2"}, []
    for token in argv[1:]:
        key = token.partition("=")[0]
        if key in own:
            own[key] = token.partition("=")[2]
        else:
            extra.append(token)
    jobs = list(itertools.product(own["envs"].split(","), own["cells"].split(","), own["seeds"].split(",")))
    try:
        for env, cell, seed in jobs:
            tokens_of((env, cell, seed), out / "runs" / f"{env}-{cell}-{seed}", extra)
        if not own["jobs"].isdecimal() or own["jobs"] == "0":
            raise ConfigError(f"jobs={own['jobs']} is no number of runs side by side")
        out.mkdir(parents=True, exist_ok=True)
    except (ConfigError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    with ThreadPoolExecutor(int(own["jobs"])) as pool:
        rows = list(pool.map(lambda job: run(job, out, extra), jobs))
    for row in rows:
        if "failed" in row:
            print(f"FAILED {row['env']} {row['cell']} seed {row['seed']}: {row['failed']}", file=sys.stderr)
    good = [r for r in rows if "failed" not in r]
    if good:
        with (out / "table.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(good[0]))
            writer.writeheader()
            writer.writerows(good)
    (out / "table.md").write_text(markdown(rows))
    print(markdown(rows))
    return 1 if len(good) < len(rows) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
