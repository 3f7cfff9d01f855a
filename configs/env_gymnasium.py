"""Settings of any other Gymnasium environment."""

from dataclasses import dataclass

from configs.schema import EnvConfig, leaf


@dataclass(frozen=True)
class GymnasiumConfig(EnvConfig):
    """An environment that is registered with Gymnasium, by its id."""

    name: str = leaf("gymnasium", "chosen by env=NAME")
    # A module of one name only: it is imported, and no folder of a run that somebody else made can hold such a module.
    id: str = leaf("CartPole-v1", "the environment; MODULE:ID imports the top-level module first",
                   pattern=r"([A-Za-z_]\w*:)?[\w.\-/]+", form="an id such as CartPole-v1, or MODULE:ID")
    kwargs: str | None = leaf(None, "arguments of the environment: size=8,slippery=false")
    max_episode_steps: int | None = leaf(None, "truncate episodes after so many steps; null: the environment's own limit",
                                         min=1)
    observation: str = leaf("auto", "how it is shown: symbols for MiniGrid's, pixels for a picture, else a vector",
                            choices=("auto", "vector", "pixels", "symbols"))
    direction: bool = leaf(True, "MiniGrid's symbols: the agent sees which way it faces")
    success_return: float | None = leaf(None, "where the environment does not say what success is: a return of so much; "
                                              "null: its reward threshold, else above 0")
    vectorization: str = leaf("sync", "one after the other, worker processes, its own vector form, EnvPool's",
                              choices=("sync", "async", "vector", "envpool"))
    workers: int | None = leaf(None, "async: processes; null: one for each CPU core", min=1, max=1024)
    timeout: float = leaf(60.0, "async: seconds that a worker may take for a step", min=0.1, max=86400)


ENVS = {"gymnasium": GymnasiumConfig}
