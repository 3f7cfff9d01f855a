"""config -> env, core, agent, learner: the only file that knows a config and a constructor."""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

# libgomp's default is to spin for ever at barriers, which stops a busy machine; and waiting passively costs a wake-up
# per parallel region. A bounded spin is neither. Must be set before torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

import torch

from agents import checkpoint
from agents.agent import Agent, extra_inputs
from agents.auxiliary import Auxiliary, AuxiliarySettings
from agents.diagnose import FEW_ENVS, FEW_PROBES, PROBES, diagnose, recording_size, scalars
from agents.encoders import make_encoder
from agents.evaluate import evaluate, play
from agents.graphs import CudaRecorder
from agents.learner import Learner, Settings, make_optimizer
from agents.observations import make_target
from agents.session import check_like
from agents.trainer import Schedule, Trainer, seeds_of
from configs.errors import ConfigError
from configs.load import diff_configs, from_resolved
from configs.schema import HIDDEN_SIZE, Config, DecoderConfig
from envs import make as make_env_by_name
from envs.env import Spec, Stream
from memory_cells import VARIANTS, make_core, unroll
from memory_cells.kernels.graph import NotTraceable
from memory_cells.variants import OPTIONS, matching_hidden_size

KNOWN_CELLS = tuple(VARIANTS)


def run_config(run_dir: Path, tokens: list[str], changeable: tuple[str, ...]) -> Config:
    """The config of a run with `tokens` over it, of which only keys that start with one of `changeable` may differ."""
    old, new = from_resolved(run_dir, (), KNOWN_CELLS), from_resolved(run_dir, tokens, KNOWN_CELLS)
    refused = [key for key in diff_configs(old, new) if not key.startswith(changeable)]
    if refused:
        raise ConfigError(
            f"{', '.join(refused)} cannot change here; what can: {', '.join(c.rstrip('.') for c in changeable)}"
        )
    return new


def set_up_torch(config: Config) -> torch.device:
    """Device, threads and determinism. Raises ConfigError where the device is not to be had."""
    name = config.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(
            f"device={config.device}: this torch ({torch.__version__}) sees no CUDA device; use device=cpu"
        )
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # every buffer of ours is written before it is read
    return torch.device(name)


def make_env(config: Config, num_envs: int, device: torch.device, seed: int, render: bool = False) -> Stream:
    """The environment of `config.env`. Raises ConfigError.

    render: its `render` will be called, which a Gymnasium environment must know beforehand.
    """
    kwargs = dataclasses.asdict(config.env)
    name, common = kwargs.pop("name"), {"num_envs": num_envs, "device": device, "seed": seed}
    try:
        if name == "gymnasium":
            from envs.gymnasium_stream import make_gymnasium  # needs Gymnasium, which the others do without

            return make_gymnasium(**kwargs, **common, render=render)
        return make_env_by_name(name, **common, **kwargs)
    except ValueError as error:
        raise ConfigError(f"env: {error}") from error


def make_agent(config: Config, env: Stream, max_rows: int | None = None) -> Agent:
    """A freshly initialised agent, drawn from the config's seed whatever was drawn before, on the env's device.

    max_rows: of the longest episode that it is made for, which a cell's horizon is taken from; None: the env's.
    """
    c, a = config.cell, config.agent
    horizon = c.horizon if c.horizon is not None else max_rows or env.spec.max_rows
    options = {name: value for name, value in dataclasses.asdict(c).items() if name in OPTIONS}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        try:
            width = HIDDEN_SIZE if c.hidden_size is None else c.hidden_size
            if c.match_parameters is not None:
                width = matching_hidden_size(c.name, a.embedding_size, c.match_parameters, horizon=horizon, **options)
            core = make_core(c.name, a.embedding_size, width, horizon=horizon, **options)
        except ValueError as error:
            hint = "" if horizon is not None or "horizon" not in str(error) else "; give cell.horizon"
            raise ConfigError(f"cell: {error}{hint}") from error
        extra = extra_inputs(env.num_actions, a.see_last_action, a.see_last_reward)
        encoder = make_encoder(env.obs_kind, env.obs_shape, env.obs_values, extra, a.embedding_size)
        agent = Agent(encoder, env.num_actions, core, head_size=a.head_size, see_last_action=a.see_last_action,
                      see_last_reward=a.see_last_reward, path=c.path)  # fmt: skip
        if c.path != "auto":
            _unrolls(agent, c.path, c.name)
    return agent.to(env.device)


def _unrolls(agent: Agent, path: str, cell: str) -> None:
    """Raises ConfigError where `path` is none of the cell's."""
    x, first = torch.zeros(2, 1, agent.core.input_size), torch.zeros(2, 1, dtype=torch.bool)
    try:
        with torch.no_grad():
            unroll(agent.core, x, first, agent.core.initial_state(1), path=path)
    except (NotTraceable, ValueError) as error:
        raise ConfigError(f"cell.path={path} is none of cell={cell}'s ({error}); expected cell.path=auto") from error


def make_auxiliary(config: Config, agent: Agent, env: Stream) -> Auxiliary | None:
    """The decoder of `config.aux`, drawn from the config's seed, or None."""
    aux = config.aux
    if not isinstance(aux, DecoderConfig):
        return None
    known = {f.name: getattr(aux, f.name) for f in dataclasses.fields(AuxiliarySettings) if f.name != "kind"}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeds_of(config.seed)["decoder"])
        target = make_target(env.obs_kind, env.obs_shape, env.obs_values)
        return Auxiliary(agent, target, AuxiliarySettings(kind=aux.name, **known)).to(env.device)


def make_trainer(config: Config, device: torch.device) -> Trainer:
    """Environment, agent, learner and their generators, all seeded from `config.seed`."""
    a, t = config.agent, config.train
    torch.manual_seed(config.seed)  # the default generator too: it starts differently in every process, and is saved
    env = make_env(config, t.num_envs, device, seed=seeds_of(config.seed)["env"])
    agent = make_agent(config, env)
    if a.budget_cost and not agent.core.time_gates(agent.initial_state(1)):
        gated = ", ".join(name for name, row in VARIANTS.items() if "threshold" in row.options)
        raise ConfigError(f"agent.budget_cost={a.budget_cost} needs a cell with a time gate ({gated}); "
                          f"cell={config.cell.name} has none")  # fmt: skip
    if t.cuda_graphs and (device.type != "cuda" or config.env.name == "gymnasium"):
        what = f"device={device}" if device.type != "cuda" else "env=gymnasium, which runs on the host"
        raise ConfigError(f"train.cuda_graphs=true cannot record on {what}; expected train.cuda_graphs=false")
    auxiliary = make_auxiliary(config, agent, env)
    modules = torch.nn.ModuleList([agent] if auxiliary is None else [agent, auxiliary])
    try:
        optimizer = make_optimizer(
            modules, a.optimizer, a.learning_rate, a.adam_beta1, a.adam_beta2, a.optimizer_eps, a.weight_decay
        )
    except ValueError as error:
        raise ConfigError(f"agent: {error}") from error
    actor = copy.deepcopy(agent) if a.actor_lag else agent
    settings = Settings(**{f.name: getattr(a, f.name) for f in dataclasses.fields(Settings)})
    learner = Learner(agent, actor, optimizer, settings, a.actor_lag, auxiliary)
    if auxiliary:
        _fits_an_episode(config.aux, _unroll_length(config, env.spec), env.spec.max_rows)
    try:
        return Trainer(
            env, learner, steps=t.steps, unroll_length=t.unroll_length, full_episode=a.full_episode,
            learning_rate=Schedule(a.learning_rate, a.learning_rate_end_fraction),
            entropy_cost=Schedule(a.entropy_cost, a.entropy_cost_end_fraction),
            normalise_reward=a.normalise_reward, seed=config.seed,
            stagger_episodes=t.stagger_episodes, recorder=CudaRecorder(device) if t.cuda_graphs else None,
        )  # fmt: skip
    except ValueError as error:
        raise ConfigError(str(error)) from error


def check_run(config: Config) -> None:
    """Raises ConfigError for whatever keeps a run from starting: makes all of it, with as few environments as its minibatches
    allow."""
    few = dataclasses.replace(config.train, num_envs=config.agent.minibatches, stagger_episodes=False)
    env = make_trainer(dataclasses.replace(config, train=few), set_up_torch(config)).env
    if hasattr(env, "close"):  # one with workers
        env.close()


def _fits_an_episode(aux: DecoderConfig, length: int, max_rows: int | None) -> None:
    """Raises ConfigError where no segment, or nothing before the rollout, lies in one episode with the state that is asked."""
    within = max_rows or length + aux.memory
    most = min(length, within - 1) if aux.name == "predict" else min(length + aux.memory, within)
    for key, value, limit in (("segment", aux.segment, most), ("memory", aux.memory, within)):
        if value > limit:
            raise ConfigError(f"aux.{key}={value} does not fit into an episode here; expected at most {limit}")


def evaluate_agent(config: Config, agent: Agent, device: torch.device, stop: object = False) -> dict[str, Any]:
    """The evaluation of `config.evaluate`: the same inside training and in evaluate_agent.py, bit for bit.

    Raises agents.evaluate.Stopped once `stop` is true.
    """
    e = config.evaluate
    env = make_env(config, min(e.num_envs, e.episodes), device, seed=e.seed)
    return evaluate(agent, env, e.episodes, e.seed, stop)


def diagnose_agent(config: Config, agent: Agent, device: torch.device, brief: bool = False) -> dict[str, Any]:
    """The diagnosis of `agents.diagnose` with the run's learner, on as many environments as an evaluation has.

    `brief`: on 64 environments at most, with few probes, and of a long episode no more than twice the memory length of the
    task, where that is known.
    """
    return _diagnosis(config, device, brief)(agent)


def examiner(config: Config, agent: Agent, device: torch.device) -> Callable[[], dict[str, float]]:
    """The brief diagnosis of `agent` as it stands, as the scalars that training logs. Its environments are made when it is
    first asked for."""
    diagnosis = cache(lambda: _diagnosis(config, device, brief=True))
    return lambda: scalars(diagnosis()(agent))


def _diagnosis(config: Config, device: torch.device, brief: bool) -> Callable[[Agent], dict[str, Any]]:
    a, e = config.agent, config.evaluate
    spec = make_env(config, 1, device, seed=0).spec
    unroll_length = _unroll_length(config, spec)
    rows = min(spec.max_rows or 0, 2 * (spec.memory_length or 0)) if brief else spec.max_rows
    most, probes = (min(e.num_envs, FEW_ENVS), FEW_PROBES) if brief else (e.num_envs, PROBES)
    length, num_envs = recording_size(rows, unroll_length, most)
    return partial(diagnose, env=make_env(config, num_envs, device, e.seed), length=length, unroll_length=unroll_length,
                   gamma=a.gamma, trace_lambda=a.trace_lambda, seed=e.seed, probes=probes,
                   scaled_rewards=a.normalise_reward)  # fmt: skip


def _unroll_length(config: Config, spec: Spec) -> int:
    """Steps between updates: the whole episode, or as set."""
    return spec.max_rows - 1 if config.agent.full_episode and spec.max_rows else config.train.unroll_length


def watcher(config: Config, agent: Agent, device: torch.device) -> Callable[[object], float]:
    """The greedy success rate of `agent` as it stands, over `train.evaluate_episodes` episodes, the same each time, and
    others than those of the final evaluation: what a run stops at must not be what it is judged by.

    Its argument, once true, stops it (agents.evaluate.Stopped). Its environments are made when it is first asked for.
    """
    episodes, seed = config.train.evaluate_episodes, (config.evaluate.seed + 1000) % 2**32
    made = cache(lambda: make_env(config, min(config.evaluate.num_envs, episodes), device, seed))

    def watch(stop: object = False) -> float:
        made().seed(seed)
        return play(agent, made(), episodes, None, stop).success.double().mean().item()

    return watch


def results(report: dict[str, Any]) -> dict[str, float]:
    """What a run ended with, as scalars of TensorBoard; what the environment has no figure for is left out."""
    found = {f"final/{how}_{name}": report[how][key] for how in ("greedy", "sampled")
             for name, key in (("success", "success_rate"), ("return", "mean_return"), ("score", "score"))}  # fmt: skip
    return {name: value for name, value in found.items() if value is not None}


def report_line(report: dict[str, Any]) -> str:
    """One line of an evaluation for people. What an environment has no figure for is left out."""
    parts = []
    for how in ("greedy", "sampled"):
        r = report[how]
        low, high = r["success_interval"]
        part = f"{how} success {r['success_rate']:.1%} [{low:.1%}, {high:.1%}], return {r['mean_return']:.3f}"
        if r.get("score") is not None:
            part += f", score {r['score']:.2f}"
        if "unit_updates" in r:
            part += (f", {r['unit_updates']:.1%} of unit updates made "
                     f"({r['multiply_adds']:,} of {r['multiply_adds_total']:,} multiply-adds)")  # fmt: skip
        parts.append(part)
    if "row_seconds" in report:
        s = report["row_seconds"]
        parts.append(f"a row takes {1e6 * s['plain']:.0f} us, with open units alone {1e6 * s['open_units']:.0f} us")
    best, chance = report["reference"]["r_star"], report["reference"]["chance"]
    known = [] if best is None else [f"optimum {best:g}"]
    known += [] if chance is None else [f"chance success {chance:.0%}"]
    known += [] if report["greedy"].get("score") is None else ["score 0 without the ability under test, 1 at the optimum"]
    many = f"{report['episodes']} episode{'s' if report['episodes'] > 1 else ''}"
    return f"{many}: {'; '.join(parts)}" + (f" ({', '.join(known)})" if known else "")


def _made_for(trained: Config, device: torch.device) -> Stream | None:
    """The environment of a run; None where it is not to be had here and only its observations would be compared."""
    try:
        return make_env(trained, 1, device, seed=0)
    except ConfigError:
        if "horizon" in VARIANTS[trained.cell.name].options:
            raise
        return None


def _seen(env: Stream) -> str:
    """What an agent of `env` is made for."""
    values = f" of {'/'.join(map(str, env.obs_values))} codes" if env.obs_values else ""
    return f"{env.obs_kind} {' x '.join(map(str, env.obs_shape))}{values}"


def load_agent(run_dir: Path, config: Config, env: Stream, which: str = "latest") -> tuple[Agent, dict[str, int]]:
    """The agent of a run's checkpoint and where it stood. Raises CheckpointError; ConfigError where `env` is not for it."""
    tensors, meta, folder = checkpoint.load(run_dir, which)
    trained = from_resolved(run_dir, (), KNOWN_CELLS)
    own = env if trained.env == config.env else _made_for(trained, env.device)
    for what, was, now in (("sees", _seen(own), _seen(env)), ("may do", own.num_actions, env.num_actions)) if own else ():
        if was != now:
            changed = ", ".join(key for key in diff_configs(trained, config) if key.startswith("env."))
            raise ConfigError(f"{changed}: what the agent {what} is {now} with that, and was {was} in training; expected "
                              f"settings of its environment that keep it")  # fmt: skip
    max_rows = own and own.spec.max_rows  # which the cell's horizon was taken from
    agent = make_agent(config, env, max_rows)
    try:
        state = checkpoint.unflatten(tensors, meta["trainer"])
        own = agent.state_dict()
        check_like(state["agent"], dict(own), "agent")
        # a threshold is for evaluation only, so the config's counts and not the one that was saved
        agent.load_state_dict(state["agent"] | {k: v for k, v in own.items() if k.endswith(".threshold")})
        where = {name: state[name] for name in ("step", "update")}
        check_like(where, {"step": 0, "update": 0}, "trainer")
        return agent, where
    except (KeyError, TypeError, RuntimeError, ValueError) as error:
        raise checkpoint.CheckpointError(f"{folder} does not fit this run's config: {error}") from error
