"""Evaluate the latest checkpoint of a run: exactly N episodes, greedy and sampled, with intervals.

    python evaluate_agent.py RUN [--episodes N] [--lengths 50,100,200] [--diagnose] [--json] [key=value ...]

RUN may be one of the run's checkpoint folders too (RUN/checkpoints/NAME).
--lengths evaluates once per length (of a T-maze: its corridor); --json prints one JSON object on standard output and
nothing else; key=value changes the environment or the evaluation (env.corridor_length=100, evaluate.seed=7, device=cpu),
and of a cell with a time gate the openness below which a unit is not computed (cell.threshold=0.05). For such a cell the
report has the multiply-adds executed and in all, the share of unit updates made, and measured seconds for one row.

--diagnose says too what the gates do, how far gradients go, how long the cue can be read from the state and which actions
get the credit, and writes figures and all numbers to RUN/diagnose/ (docs/diagnostics.md).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import build  # sets the environment that torch is imported in, so it comes first
from agents.diagnose import plain, summary, write_report
from agents.evaluate import row_seconds
from agents.runlog import find_run
from configs.arguments import Parser
from configs.errors import ConfigError
from exits import exit_status

#: what an evaluation may change: of the cell, what training does not see and no parameter depends on
CHANGEABLE = ("env.", "evaluate.", "device", "train.threads", "cell.path", "cell.threshold")
#: rows that are timed
TIMED = 256


def lengths(text: str) -> list[int]:
    """'50,100' -> [50, 100]."""
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected integers such as 50,100,200, got {text!r}") from None
    if len(set(found)) < len(found):
        raise argparse.ArgumentTypeError(f"a length is given twice: {text}")
    return found


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = Parser(__doc__)
    parser.add_argument("run", type=Path, nargs="?", metavar="RUN", help="a run's folder, or one of its checkpoint folders")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="a setting that this evaluation changes")
    parser.add_argument("--episodes", metavar="N", help="how many, from 1 (default: the run's evaluate.episodes, 1000)")
    parser.add_argument("--lengths", type=lengths, metavar="N,N,...", help="one evaluation for each length of the task")
    parser.add_argument("--diagnose", action="store_true", help="gates, gradient by lag, memory probe, credit, and figures")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output and nothing else")
    options = parser.parse_intermixed_args(argv)
    if options.run is None:
        raise ConfigError("give a RUN to evaluate: a run's folder, or one of its checkpoint folders")
    if options.diagnose and options.lengths is not None:
        raise ConfigError("--diagnose is of one length; give it as a setting (env.corridor_length=100), not with --lengths")
    extra = [] if options.episodes is None else [f"evaluate.episodes={options.episodes}"]
    return options, [*options.settings, *extra]


def evaluate(run_dir: Path, which: str, tokens: list[str], diagnose: bool = False) -> dict:
    """The report of one checkpoint and setting; with the diagnosis under "diagnose", written to the run's folder."""
    config = build.run_config(run_dir, tokens, CHANGEABLE)
    device = build.set_up_torch(config)
    env = build.make_env(config, 1, device, seed=0)
    agent, where = build.load_agent(run_dir, config, env, which)
    report = build.evaluate_agent(config, agent, device) | where
    if seconds := row_seconds(agent, min(round(report["greedy"]["mean_length"]), TIMED)):
        report["row_seconds"] = seconds
    if diagnose:
        report["diagnose"] = build.diagnose_agent(config, agent, device)
        write_report(run_dir / "diagnose", report["diagnose"])
    return report


def show(report: dict, as_json: bool, run_dir: Path) -> None:
    """Prints one report."""
    if as_json:
        print(json.dumps(plain(report), allow_nan=False))
        return
    print(build.report_line(report))
    if "diagnose" in report:
        print(*summary(report["diagnose"]), f"figures: {run_dir / 'diagnose'}", sep="\n")


def run(argv: list[str]) -> int:
    options, tokens = parse(argv)
    run_dir, which = find_run(options.run)
    if options.lengths is None:
        show(evaluate(run_dir, which, tokens, options.diagnose), options.json, run_dir)
        return 0
    env = build.run_config(run_dir, tokens, CHANGEABLE).env
    if env.length_key is None:
        raise ConfigError(f"--lengths: env={env.name} has no length to vary")
    settings = {n: [*tokens, f"env.{env.length_key}={n}"] for n in options.lengths}
    for given in settings.values():  # a wrong one is told of before any is evaluated
        build.make_env(build.run_config(run_dir, given, CHANGEABLE), 1, "cpu", seed=0)
    reports = {}
    for length, given in settings.items():
        reports[length] = evaluate(run_dir, which, given)
        if not options.json:
            told = build.report_line(reports[length])
            print(f"{env.length_key.removesuffix('_length').replace('_', ' ')} {length}: {told}", flush=True)
    if options.json:
        print(json.dumps(plain({"lengths": reports}), allow_nan=False))
    return 0


def main(argv: list[str]) -> int:
    return exit_status(lambda: run(argv))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
