"""One page of all environments: what each asks for, how long it must be remembered, what can be earned (docs/envs.md).

    python benchmarks/env_table.py [--write docs/envs.md]

Everything is asked of the code: the presets in configs/env, the spec sheets (`Spec`), the first sentence of each docstring.
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

import build
import envs
from configs.groups import LEVELS
from configs.load import load_config
from envs.env import Env

PAGE = Path(__file__).resolve().parents[1] / "docs" / "envs.md"
FAMILIES = {  # title -> how the names of its modules begin; the first that fits
    "T-mazes": "tmaze", "MiniGrid": "minigrid_memory", "MiniGrid, the control group": "minigrid_",
    "After Hung et al. and Ni et al. (TVT)": "tvt", "Diagnostics": "",
}  # fmt: skip
HEAD = ("`env=`", "observation", "actions", "m", "c", "oracle", "R*", "R0 memory", "R0 credit", "random", "chance",
        "rows")  # fmt: skip
INTRO = """\
# All environments

`python train_agent.py env=NAME-LEVEL` (or one of the presets, `python train_agent.py NAME`); every setting of an environment
is a key, `env.corridor_length=100`, and `python train_agent.py --help` lists them. The same environments are Gymnasium's:
`import envs`, then `gymnasium.make(ID)` or `gymnasium.make_vec(ID, num_envs=64)`. Anything else that Gymnasium can make
trains by `env=gymnasium env.id=...`. This page is made by

    python benchmarks/env_table.py --write docs/envs.md

- **m**: rows from the last sight of what is needed to the row of the decision; **c**: how many steps a return must span to
  tell the best action from worse ones, along the optimal policy for which that is least. The two dials.
- **oracle**: the best mean return (undiscounted) with the hidden state known; **R\\***: the best with memory; **R0 memory**:
  the best without memory, in brackets for a policy that sees its last action and reward too (`agent.see_last_action`,
  `agent.see_last_reward`) where that differs, "?" where it is not known; **R0 credit**: the best of a learner that assigns no
  credit over more than one step; **random**: uniformly random actions. The score of evaluations and comparisons is
  (return - R0) / (R\\* - R0) with the larger R0, or with random where there is none.
- **chance**: the best success rate without the ability under test. **rows**: of the longest episode, its reset row included.
- **-**: does not apply, or is not known; without R\\* and R0 there is no score, and success is what is reported.
"""


def family(env: type[Env]) -> str:
    module = env.__module__.removeprefix("envs.")
    return next(title for title, start in FAMILIES.items() if module.startswith(start))


def sentence(env: type[Env]) -> str:
    """The first of the class's docstring; it ends with a point before a capital or a file's name."""
    first = inspect.cleandoc(env.__doc__).split("\n\n")[0].replace("\n", " ")
    return re.split(r"(?<=\.) (?=[A-Z`])", first)[0]


def figure(value: float | None) -> str:
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def row(name: str, level: str) -> tuple[str, ...]:
    """The figures of one level."""
    env = build.make_env(load_config([f"env={name}-{level}"], build.KNOWN_CELLS), 1, torch.device("cpu"), seed=0)
    spec = env.spec
    memory = figure(spec.r0_memory)
    if spec.r0_memory is not None and figure(spec.r0_memory_last) != memory:
        memory += f" ({figure(spec.r0_memory_last) if spec.r0_memory_last is not None else '?'})"
    return (
        f"`{name}-{level}`", f"{env.obs_kind} {' x '.join(map(str, env.obs_shape))}", str(env.num_actions),
        figure(spec.memory_length), figure(spec.credit_length), figure(spec.r_oracle), figure(spec.r_star), memory,
        figure(spec.r0_credit), figure(spec.r_random), figure(spec.chance), figure(spec.max_rows),
    )  # fmt: skip


def table(names: list[str]) -> list[str]:
    rows = [HEAD, ("---",) * len(HEAD), *(row(name, level) for name in names for level in LEVELS)]
    return ["| " + " | ".join(cells) + " |" for cells in rows]


def page() -> str:
    lines = INTRO.splitlines()
    for title in FAMILIES:
        names = [name for name, entry in envs.ENVS.items() if family(entry.env) == title]
        lines += ["", f"## {title}", ""]
        for name in names:
            ids = ", ".join(f"`gatemaze/{id}-v0`" for id in envs.ENVS[name].ids)
            lines.append(f"- **`{name}`** {sentence(envs.ENVS[name].env)} {ids}")
        lines += ["", *table(names)]
    return "\n".join(lines) + "\n"


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, help="where the page goes; left out: to the screen")
    options = parser.parse_args(argv)
    if options.write:
        options.write.write_text(page(), encoding="utf-8")
    else:
        print(page(), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
