"""Every setting of the project: frozen dataclasses of plain data, with type, default, range and help in one place.

This file imports nothing of ours and no torch. The settings of the environments stand in `configs/env_*.py`, one file
a family: a new environment is a subclass of EnvConfig, a row in that file's ENVS and a YAML in `configs/env/`. Fields may
be int, float, bool, str, or Optional of one of these. A default must keep the meaning of older runs: a resolved config
that lacks a field is read with its default.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar


def leaf(default: Any, help: str, *, min: float | None = None, max: float | None = None,
         choices: Sequence[str] | None = None, pattern: str | None = None, form: str | None = None) -> Any:
    """A dataclass field with its validation in the metadata: inclusive min and max, choices, or a full-match regular
    expression `pattern` whose meaning for the reader of a message is `form`."""
    metadata = {"help": help, "min": min, "max": max, "choices": tuple(choices) if choices else None,
                "pattern": re.compile(pattern) if pattern else None, "form": form}
    return field(default=default, metadata=metadata)


#: what `cell.hidden_size: null` means unless `cell.match_parameters` says otherwise
HIDDEN_SIZE = 128


@dataclass(frozen=True)
class CellConfig:
    """The recurrent core. None means: what the named cell does by itself."""

    name: str = leaf("ur-lstm", "chosen by cell=NAME")
    hidden_size: int | None = leaf(None, f"width of the state and of every layer; null: {HIDDEN_SIZE}, or what "
                                         "cell.match_parameters picks", min=1, max=65536)
    match_parameters: int | None = leaf(None, "in place of a width: the one at which the core has as nearly so many "
                                              "trainable parameters as it can", min=1, max=10**10)
    layers: int | None = leaf(None, "equal layers, each reading the one below; null: 1 (indrnn, stacked-lstm 2; dilated-* 4)",
                              min=1, max=64)
    horizon: float | None = leaf(None, "T_max of the chrono initialisation, unit of the g-LSTM's time gate, env steps; others "
                                          "need none; null: the episode's length", min=2, max=1e30)
    bias: float | None = leaf(None, "forget-gate bias of cells with constant initialisation", min=-100, max=100)
    refine_bias: str | None = leaf(None, "refine gate's bias: minus the keep-bias or zero; null: zero unless that is uniform",
                                      choices=("neg", "zero"))
    reset_form: str | None = leaf(None, "GRU: reset gate after (PyTorch) or before (Cho) the recurrent matrix",
                                     choices=("after", "before"))
    chunk: int | None = leaf(None, "master gates: units that share one", min=1, max=65536)
    kaf_size: int | None = leaf(None, "KAF gates: points of the dictionary", min=2, max=10_000)
    memory_size: int | None = leaf(None, "NRU: width of the memory", min=1, max=10**6)
    heads: int | None = leaf(None, "NRU: write and erase heads", min=1, max=10_000)
    head_reduce: str | None = leaf(None, "NRU: over the heads", choices=("mean", "sum"))
    feed_x: bool | None = leaf(None, "NRU: whether the heads see the input")
    p_detach: float | None = leaf(None, "h-detach: probability of blocking", min=0, max=1)
    coin: str | None = leaf(None, "h-detach: one coin a row for the batch, or for each sample", choices=("batch", "sample"))
    detach_until: float | None = leaf(None, "h-detach: off from this fraction of train.steps on; null: never", min=0, max=1)
    zoneout_c: float | None = leaf(None, "zoneout: probability of keeping a unit's memory", min=0, max=0.999)
    zoneout_h: float | None = leaf(None, "zoneout: probability of keeping a unit's output", min=0, max=0.999)
    open_fraction: float | None = leaf(None, "Phased LSTM: open share of a period", min=1e-6, max=1)
    threshold: float | None = leaf(None, "time gate in evaluation: less open units are not computed", min=0, max=1)
    sigma_start: float | None = leaf(None, "g-lstm: factor on sigma at the start (temporal curriculum); null: 1",
                                     min=1e-6, max=1e6)
    sigma_end: float | None = leaf(None, "g-lstm: that factor at the end, linear; 30 opens every unit; null: 1",
                                   min=1e-6, max=1e6)
    sigma_until: float | None = leaf(None, "g-lstm: fraction of train.steps at which it is there; null: all of them",
                                     min=1e-6, max=1)
    path: str = leaf("auto", "how time is unrolled", choices=("auto", "fused", "eager", "scan", "loop"))


@dataclass(frozen=True)
class EnvConfig:
    """Base of every environment's settings."""

    length_key: ClassVar[str | None] = None  # the setting that `evaluate_agent.py --lengths` varies, if there is one

    name: str = leaf("", "chosen by env=NAME")


@dataclass(frozen=True)
class AgentConfig:
    """The learner: A2C, IMPALA and PPO are settings of one update (`configs/agent/`)."""

    name: str = leaf("vtrace", "chosen by agent=NAME")
    # optimiser
    learning_rate: float = leaf(1e-3, "step size at the start", min=0, max=100)
    learning_rate_end_fraction: float = leaf(1.0, "step size at train.steps, as a fraction of the first; linear",
                                             min=0, max=1)
    optimizer: str = leaf("adam", "which optimiser", choices=("adam", "rmsprop"))
    adam_beta1: float = leaf(0.9, "Adam: decay of the mean", min=0, max=0.999999)
    adam_beta2: float = leaf(0.999, "decay of the squared gradient (Adam's beta2, RMSprop's alpha)",
                             min=0, max=0.999999)
    optimizer_eps: float = leaf(1e-5, "added to the root of the squared gradient", min=1e-12, max=1)
    max_grad_norm: float = leaf(0.5, "clip the gradient's norm; 0: off", min=0, max=1e30)
    weight_decay: float = leaf(0.0, "decoupled weight decay", min=0, max=1e30)
    # returns and losses
    gamma: float = leaf(0.99, "discount", min=0, max=1)
    trace_lambda: float = leaf(0.95, "lambda of GAE and of the V-trace traces", min=0, max=1)
    returns: str = leaf("vtrace", "which target and advantage", choices=("vtrace", "gae"))
    policy_loss: str = leaf("pg", "policy gradient, or PPO's clipped surrogate", choices=("pg", "ppo"))
    ppo_clip: float = leaf(0.2, "PPO: half width of the ratio's clip", min=1e-6, max=10)
    rho_bar: float = leaf(1.0, "V-trace: clip of the importance ratio in delta", min=1e-6, max=1e30)
    c_bar: float = leaf(1.0, "V-trace: clip of the importance ratio in the trace", min=0, max=1e30)
    correct_off_policy: bool = leaf(True, "false: ratios of 1 whatever the data (uncorrected A2C)")
    value_cost: float = leaf(0.5, "weight of the value loss", min=0, max=1e30)
    entropy_cost: float = leaf(0.01, "weight of the exploration term at the start", min=0, max=1e30)
    entropy_cost_end_fraction: float = leaf(1.0, "that weight at train.steps, as a fraction of the first; linear",
                                            min=0, max=1)
    exploration: str = leaf("uniform_kl", "what the exploration term is: the entropy, or -KL(uniform || policy)",
                            choices=("entropy", "uniform_kl"))
    exploration_mean: str = leaf("rows", "the exploration term is a mean over rows, or over the distinct observations of a "
                                         "minibatch (first rows apart), so that a rare one counts as much as a frequent one",
                                 choices=("rows", "observations"))
    logit_cost: float = leaf(0.0, "weight of the squared logits", min=0, max=1e30)
    budget_cost: float = leaf(0.0, "time gates: weight of the units' mean openness (computational budget)", min=0, max=1e30)
    normalise_advantage: str = leaf("scale", "std: centre and divide by the deviation; scale: divide only",
                                    choices=("none", "std", "scale"))
    advantage_floor: float = leaf(0.05, "scale: advantages are divided by their root mean square, but by no less than this",
                                  min=1e-8, max=1e30)
    normalise_reward: bool = leaf(False, "divide rewards by the running deviation of the return")
    # data
    reuse: int = leaf(4, "passes over each rollout", min=1, max=1000)
    minibatches: int = leaf(4, "parts of the batch of environments in each pass", min=1)
    actor_lag: int = leaf(0, "act with parameters this many updates old", min=0, max=10_000)
    # recurrence
    start_state: str = leaf("stored", "state at a rollout's start when learning", choices=("stored", "zero"))
    bptt_length: int | None = leaf(None, "steps that a gradient travels back; null: the whole rollout", min=1)
    burn_in: int = leaf(0, "first steps of a rollout that only warm the state up", min=0)
    full_episode: bool = leaf(False, "learn from whole episodes, from their first step; train.unroll_length is then unused")
    # network
    embedding_size: int = leaf(64, "width of the observation encoder", min=1, max=65536)
    head_size: int | None = leaf(None, "units of a hidden layer between core and outputs; null: none", min=1, max=65536)
    see_last_action: bool = leaf(False, "the agent sees its last action")
    see_last_reward: bool = leaf(False, "the agent sees its last reward")


@dataclass(frozen=True)
class AuxConfig:
    """An auxiliary loss on the core's state; none has no settings."""

    name: str = leaf("none", "chosen by aux=NAME")


@dataclass(frozen=True)
class DecoderConfig(AuxConfig):
    """Trinh et al. (2018): reconstruct past rows, or predict coming ones, from the state at an anchor row."""

    name: str = leaf("reconstruct", "chosen by aux=NAME")
    cost: float = leaf(0.1, "weight of the loss", min=0, max=1e30)
    anchors: int = leaf(1, "anchor rows per minibatch", min=1, max=1024)
    segment: int = leaf(8, "rows that are reconstructed or predicted from an anchor", min=2, max=100_000)
    truncation: int = leaf(64, "steps that the gradient goes back from an anchor", min=1)
    memory: int = leaf(0, "rows before the rollout that can be asked for too (reconstruct)", min=0, max=1_000_000)
    pretrain_updates: int = leaf(0, "first updates in which nothing else is learned", min=0)
    decoder_size: int = leaf(64, "width of the decoder", min=1, max=65536)
    decoder_layers: int = leaf(2, "layers of the decoder", min=1, max=16)


@dataclass(frozen=True)
class TrainConfig:
    """How much, how wide, how often."""

    steps: int = leaf(1_000_000, "environment steps in all, up to a whole update more", min=1, max=10**13)
    num_envs: int = leaf(128, "environments side by side", min=1, max=1_048_576)
    unroll_length: int = leaf(64, "steps of every environment between updates", min=1, max=1_048_576)
    stagger_episodes: bool = leaf(True, "spread the environments over their episodes before training starts")
    log_every: int = leaf(10, "updates between rows of metrics.jsonl", min=1)
    checkpoint_every: int = leaf(100, "updates between checkpoints", min=1)
    keep_checkpoints: int = leaf(3, "newest checkpoints to keep", min=1, max=10_000)
    cuda_graphs: bool = leaf(False, "record rollout and update as CUDA graphs and replay them (needs a CUDA device)")
    threads: int | None = leaf(None, "CPU threads of torch; null: chosen for this machine", min=1, max=1024)
    evaluate_every: int = leaf(20, "updates between greedy evaluations; 0: only at the end", min=0)
    evaluate_episodes: int = leaf(256, "episodes of each of them", min=1, max=1_000_000)
    diagnose_every: int = leaf(20, "updates between looks at the gates (gates/ in the record, histograms); 0: never", min=0)
    examine_every: int = leaf(200, "updates between looks at gradients by lag, memory and credit (diagnose/); 0: never", min=0)
    stop_at_success: float | None = leaf(None, "stop once such an evaluation's success rate reaches this", min=0, max=1)
    film: bool = leaf(False, "film two episodes at the end, into the run's folder and TensorBoard")


@dataclass(frozen=True)
class EvaluateConfig:
    """The evaluation inside training and of `evaluate_agent.py`."""

    episodes: int = leaf(1000, "exact number of episodes", min=1, max=10**9)
    num_envs: int = leaf(256, "environments side by side", min=1, max=1_048_576)
    seed: int = leaf(12345, "seed of the evaluation's own generators", min=0, max=2**32 - 1)


@dataclass(frozen=True)
class Config:
    """Everything that makes a run."""

    seed: int = leaf(1, "seed of all generators", min=0, max=2**32 - 1)
    device: str = leaf("auto", "where to compute", pattern=r"auto|cpu|cuda(:\d{1,3})?",
                       form="auto, cpu, cuda or cuda:N")
    run_dir: str | None = leaf(None, "folder of the run; null: a new one under runs/")
    deterministic: bool = leaf(True, "bit-exact repeats on one machine (on a GPU: slower)")
    cell: CellConfig = field(default_factory=CellConfig)
    env: EnvConfig = field(default_factory=EnvConfig)
    agent: AgentConfig = field(default_factory=AgentConfig)
    aux: AuxConfig = field(default_factory=AuxConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
