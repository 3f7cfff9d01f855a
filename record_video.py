"""Film the latest checkpoint of a run: two episodes side by side, with policy, value, memory and gates.

    python record_video.py RUN [--episodes N] [--max-steps N] [--out FILE] [--fps F] [--sampled] [key=value ...]

Left and right have different cues where the environment has cues. Writes FILE as MP4 and, beside it, the same as GIF;
without --out RUN/video.mp4 and RUN/video.gif, which then plays in TensorBoard too, under IMAGES. --episodes is the number
for each side (default 1), --max-steps breaks longer ones off (default 2000). --sampled draws actions from the policy instead
of taking the likeliest. key=value changes the environment or the film's seed (env.corridor_length=100, evaluate.seed=7,
device=cpu).
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import build  # sets the environment that torch is imported in, so it comes first

# isort: split
import torch

from agents.film import shoot
from agents.runlog import TensorBoardMirror, find_run
from agents.scenes import scenes
from agents.video import write
from configs.arguments import Parser
from configs.errors import ConfigError
from configs.schema import EnvConfig
from exits import exit_status

#: what a film may change
CHANGEABLE = ("env.", "evaluate.seed", "device", "train.threads")


def parse(argv: list[str]) -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("run", type=Path, nargs="?", metavar="RUN", help="a run's folder, or one of its checkpoint folders")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="a setting that this film changes")
    parser.add_argument("--episodes", type=int, default=1, metavar="N", help="on each side, one after the other (default 1)")
    parser.add_argument("--max-steps", type=int, default=2000, metavar="N", help="break an episode off there (default 2000)")
    parser.add_argument("--out", type=Path, metavar="FILE", help=".mp4 or .gif; both are written (default: RUN/video.mp4)")
    parser.add_argument("--fps", type=float, metavar="F", help="frames a second, 0.1 to 240 (default: 8 to 30, by its length)")
    parser.add_argument("--sampled", action="store_true", help="draw actions from the policy, not the likeliest")
    options = parser.parse_intermixed_args(argv)
    if options.run is None:
        raise ConfigError("give a RUN to film: a run's folder, or one of its checkpoint folders")
    if options.episodes < 1:
        raise ConfigError(f"--episodes must be at least 1, got {options.episodes}")
    if options.max_steps < 1:
        raise ConfigError(f"--max-steps must be at least 1, got {options.max_steps}")
    if options.fps is not None and not (math.isfinite(options.fps) and 0.1 <= options.fps <= 240):
        raise ConfigError(f"--fps must lie between 0.1 and 240, got {options.fps:g}")
    if options.out is not None and options.out.suffix.lower() not in (".mp4", ".gif"):
        raise ConfigError(f"--out must end in .mp4 or .gif (both are written), got {str(options.out)!r}")
    return options


def about(env: EnvConfig) -> str:
    """What stands beside the cell's name: the environment and its length."""
    name = getattr(env, "id", env.name.replace("_", " "))
    length = env.length_key and getattr(env, env.length_key)
    return name if length is None else f"{name} · {env.length_key.removesuffix('_length').replace('_', ' ')} {length}"


def film(options: argparse.Namespace) -> str:
    """Shoots and writes; returns the line to print."""
    run_dir, which = find_run(options.run)
    out = options.out or run_dir / "video.mp4"
    config = build.run_config(run_dir, options.settings, CHANGEABLE)
    device, seed = build.set_up_torch(config), config.evaluate.seed
    env = build.make_env(config, 2 * options.episodes, device, seed, render=True)
    if env.cue(env.state) is not None:  # more of them, so that two cue values are among them
        env = build.make_env(config, max(32, 16 * options.episodes), device, seed, render=True)
    agent, where = build.load_agent(run_dir, config, env, which)
    generator = torch.Generator(device).manual_seed(seed + 1) if options.sampled else None
    pairs = shoot(agent, env, options.episodes, generator, options.max_steps)
    note = f"trained {where['step']:,} steps · {'sampled' if options.sampled else 'greedy'}"
    mp4, gif = out.with_suffix(".mp4"), out.with_suffix(".gif")
    frames = write(scenes(pairs, env.action_names, (config.cell.name, about(config.env)), note), mp4, gif, options.fps)
    if options.out is None:
        board = TensorBoardMirror(run_dir / "tensorboard")
        board.write_film(where["step"], gif)
        board.close()
    episodes = [episode for pair in pairs for episode in pair]
    told = f"{sum(e.success is True for e in episodes)} of {len(episodes)} episodes successful"
    if cut := sum(e.success is None for e in episodes):
        told += f", {cut} cut after --max-steps {options.max_steps}"
    return f"{mp4} and {gif.name}: {frames} frames, {told}"


def main(argv: list[str]) -> int:
    def run() -> int:
        print(film(parse(argv)))
        return 0

    return exit_status(run)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
