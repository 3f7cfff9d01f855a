"""The default training loop: environment steps a second, and where the time goes.

    python benchmarks/train_speed.py [CONFIG] [key=value ...]

Takes what train_agent.py takes. Times 30 iterations after 3 to warm up, then profiles 5 by part.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import torch

import build  # sets the environment that torch is imported in
from agents import learner, rollout, trainer
from configs.errors import ConfigError
from configs.load import load_config


def main(argv: list[str]) -> int:
    if {"-h", "--help"} & set(argv):
        print(__doc__.strip())
        return 0
    try:
        config = load_config(argv, build.KNOWN_CELLS)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    device = build.set_up_torch(config)
    run = build.make_trainer(config, device)
    synchronise = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    for _ in range(3):
        run.iterate()
    synchronise()
    before, start = run.step, time.perf_counter()
    for _ in range(30):
        run.iterate()
    synchronise()
    seconds = time.perf_counter() - start
    print(f"{config.env.name} {config.cell.name} {config.agent.name}: {(run.step - before) / seconds:,.0f} env steps/s "
          f"on {device} with {torch.get_num_threads()} threads")  # fmt: skip

    spent: Counter[str] = Counter()

    def timed(owner, name, label):
        real = getattr(owner, name)

        def wrapper(*args, **kwargs):
            synchronise()
            began = time.perf_counter()
            try:
                return real(*args, **kwargs)
            finally:
                synchronise()
                spent[label] += time.perf_counter() - began

        setattr(owner, name, wrapper)

    timed(trainer, "collect", "rollout")
    timed(run.env, "step", "rollout: environment")
    timed(rollout, "act", "rollout: sampling")
    timed(run.learner, "update", "update")
    timed(run.learner, "losses", "update: forward and losses")
    timed(learner.returns, "vtrace", "update: forward and losses: v-trace")
    timed(torch.Tensor, "backward", "update: backward")
    timed(run.learner.optimizer, "step", "update: optimiser")
    timed(run.tracker, "add", "episode statistics")
    start = time.perf_counter()
    for _ in range(5):
        run.iterate()
    total = time.perf_counter() - start
    for label, seconds in sorted(spent.items()):
        print(f"{seconds / total:6.1%}  {label}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
