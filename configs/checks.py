"""Combinations of settings that mean nothing: each raises a ConfigError that names the keys and a way out."""

from configs.errors import ConfigError
from configs.schema import AgentConfig, Config, DecoderConfig

#: a setting of the agent, and the setting without which it does nothing
NEEDS = (("ppo_clip", "policy_loss", "ppo"), ("rho_bar", "returns", "vtrace"), ("c_bar", "returns", "vtrace"),
         ("adam_beta1", "optimizer", "adam"), ("start_state", "full_episode", False),
         ("advantage_floor", "normalise_advantage", "scale"))  # fmt: skip


def check_combinations(config: Config) -> None:
    """Raise ConfigError for a combination that no run can honour. What needs a cell or an env is checked in build."""
    agent, train, cell = config.agent, config.train, config.cell
    length = train.unroll_length
    _check_unused(agent)
    if train.stop_at_success is not None and not train.evaluate_every:
        raise ConfigError(f"train.stop_at_success={train.stop_at_success} needs train.evaluate_every above 0")
    if cell.hidden_size is not None and cell.match_parameters is not None:
        raise ConfigError(f"cell.match_parameters={cell.match_parameters} picks the width, and so does "
                          f"cell.hidden_size={cell.hidden_size}; expected one of them to be null")
    if isinstance(config.aux, DecoderConfig):
        _check_auxiliary(config.aux, agent, length)
        if train.cuda_graphs:
            raise ConfigError(f"train.cuda_graphs=true cannot record aux={config.aux.name}, which draws its positions on "
                              f"the host; expected train.cuda_graphs=false or aux=none")
    if train.num_envs % agent.minibatches:
        divisors = [d for d in range(1, min(train.num_envs, 4096) + 1) if train.num_envs % d == 0]
        near = min(divisors, key=lambda d: abs(d - agent.minibatches))
        raise ConfigError(f"agent.minibatches={agent.minibatches} does not divide train.num_envs={train.num_envs}; "
                          f"nearest that does: {near}")
    if agent.full_episode:
        for key, value, off in (("bptt_length", agent.bptt_length, None), ("burn_in", agent.burn_in, 0)):
            if value != off:
                raise ConfigError(f"agent.{key}={value} contradicts agent.full_episode=true, which learns "
                                  f"through whole episodes; expected agent.{key}={'null' if off is None else off}")
    if agent.bptt_length is not None and agent.bptt_length > length:
        raise ConfigError(f"agent.bptt_length={agent.bptt_length} exceeds train.unroll_length={length}; "
                          f"expected at most {length}, or null for the whole rollout")
    if agent.burn_in and agent.burn_in >= length:
        raise ConfigError(f"agent.burn_in={agent.burn_in} leaves nothing of train.unroll_length={length} "
                          f"to learn from; expected at most {length - 1}")
    if agent.c_bar > agent.rho_bar:
        raise ConfigError(f"agent.c_bar={agent.c_bar} exceeds agent.rho_bar={agent.rho_bar}; V-trace needs "
                          f"c_bar <= rho_bar")
    if not agent.correct_off_policy and agent.policy_loss == "ppo":
        raise ConfigError("agent.correct_off_policy=false contradicts agent.policy_loss=ppo, whose clipped ratio is "
                          "the correction; expected agent.policy_loss=pg")
    off_policy = next((f"agent.{k}={v}" for k, v, on in (("actor_lag", agent.actor_lag, 0), ("reuse", agent.reuse, 1),
                                                         ("start_state", agent.start_state, "stored"),
                                                         ("minibatches", agent.minibatches, 1)) if v != on), None)
    if agent.returns == "gae" and agent.policy_loss == "pg" and agent.correct_off_policy and off_policy:
        raise ConfigError(f"agent.returns=gae does not correct for off-policy data ({off_policy}); expected "
                          f"agent.returns=vtrace, agent.policy_loss=ppo, or agent.correct_off_policy=false")


def check_new(config: Config) -> None:
    """Raise ConfigError for what would do nothing in a run that is yet to be made; one that was made can still be read."""
    agent, train = config.agent, config.train
    for key in ("rho_bar", "c_bar"):
        if getattr(agent, key) > 1 and not agent.correct_off_policy:
            raise ConfigError(f"agent.{key}={getattr(agent, key)} does nothing with agent.correct_off_policy=false, where all "
                              f"ratios are 1; expected at most 1")
    most = -(-2 * train.steps // (train.num_envs * train.unroll_length))  # updates; every second row may be no step
    pretrained = config.aux.pretrain_updates if isinstance(config.aux, DecoderConfig) else 0
    for key, value in (("agent.actor_lag", agent.actor_lag), ("aux.pretrain_updates", pretrained)):
        if value >= most > 1 and not agent.full_episode:
            raise ConfigError(f"{key}={value} lasts for the whole run: train.steps={train.steps} are at most {most} updates; "
                              f"expected far fewer")


def _check_unused(agent: AgentConfig) -> None:
    for key, other, needed in NEEDS:
        value = getattr(agent, key)
        if value != getattr(AgentConfig, key) and getattr(agent, other) != needed:
            raise ConfigError(f"agent.{key}={value} does nothing without agent.{other}={str(needed).lower()}; expected "
                              f"agent.{key}={getattr(AgentConfig, key)}, the default, or that")


def _check_auxiliary(aux: DecoderConfig, agent: AgentConfig, length: int) -> None:
    if aux.memory and aux.name == "predict":
        raise ConfigError(f"aux.memory={aux.memory} is for aux=reconstruct: what comes is not in the past; expected 0")
    for key, value in (("full_episode", True), ("start_state", "zero")):
        if aux.memory and getattr(agent, key) == value:
            raise ConfigError(f"aux.memory={aux.memory} asks for what was before the rollout, of which a state knows nothing "
                              f"with agent.{key}={str(value).lower()}; expected 0")
    room = length if aux.name == "predict" else length + aux.memory
    if aux.segment > room and not agent.full_episode:  # then build.py knows
        raise ConfigError(f"aux.segment={aux.segment} does not fit into train.unroll_length={length}"
                          + (f" and aux.memory={aux.memory}" if aux.memory else "") + f"; expected at most {room}")
