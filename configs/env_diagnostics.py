"""Settings of the diagnostic tasks: bsuite's chains, POPGym's cards, copying, state tracking, catch, cart-pole."""

from dataclasses import dataclass

from configs.schema import EnvConfig, leaf

CUE = "the twin that needs no memory: the cue is shown in every observation"


@dataclass(frozen=True)
class MemoryChainConfig(EnvConfig):
    """bsuite's memory chain: bits are shown once, one of them is asked for."""

    length_key = "memory_length"

    name: str = leaf("memory_chain", "chosen by env=NAME")
    memory_length: int = leaf(10, "the question comes this many rows, less one, after the bits", min=1, max=1_000_000)
    num_bits: int = leaf(1, "bits that are shown", min=1, max=10_000)
    bsuite_quirk: bool = leaf(False, "step for step as bsuite: the first row comes twice, the query is a bare number")
    cue_visible: bool = leaf(False, CUE)


@dataclass(frozen=True)
class UmbrellaChainConfig(EnvConfig):
    """bsuite's umbrella chain: the first action decides the last reward, all others are coins."""

    length_key = "chain_length"

    name: str = leaf("umbrella_chain", "chosen by env=NAME")
    chain_length: int = leaf(10, "steps to the reward that counts", min=1, max=1_000_000)
    distractors: int = leaf(0, "random bits in every observation", min=0, max=10_000)
    hidden: bool = leaf(False, "need and umbrella are shown on the first row only")
    cue_visible: bool = leaf(False, CUE)


@dataclass(frozen=True)
class DiscountingChainConfig(EnvConfig):
    """bsuite's discounting chain: five arms that pay after 1, 3, 10, 30 and 100 steps."""

    name: str = leaf("discounting_chain", "chosen by env=NAME")
    mapping_seed: int | None = leaf(2, "this modulo 5 is the arm that pays more; null: drawn, and hidden", min=0,
                                    max=2**31)
    cue_visible: bool = leaf(False, CUE)


@dataclass(frozen=True)
class RepeatFirstConfig(EnvConfig):
    """POPGym: name the suit of the first card on every row."""

    name: str = leaf("repeat_first", "chosen by env=NAME")
    decks: int = leaf(1, "decks shuffled together", min=1, max=1000)
    deck_size: int = leaf(52, "cards of one deck, a multiple of the number of values", min=2, max=5200)
    replacement: bool = leaf(False, "draw every card from the full pack, so that none tells of another")
    cue_visible: bool = leaf(False, CUE)


@dataclass(frozen=True)
class RepeatPreviousConfig(RepeatFirstConfig):
    """POPGym: name the suit that was dealt k - 1 cards ago."""

    length_key = "k"

    name: str = leaf("repeat_previous", "chosen by env=NAME")
    k: int = leaf(4, "1 is the card on show, 2 the one before it, ...", min=1, max=1_000_000)


@dataclass(frozen=True)
class AutoencodeConfig(RepeatFirstConfig):
    """POPGym: watch the cards, then name their suits from the last to the first."""

    name: str = leaf("autoencode", "chosen by env=NAME")


@dataclass(frozen=True)
class CountRecallConfig(RepeatFirstConfig):
    """POPGym: say how many cards of the queried value have been dealt."""

    name: str = leaf("count_recall", "chosen by env=NAME")
    kind: str = leaf("colors", "what counts as equal", choices=("colors", "suits", "ranks"))


@dataclass(frozen=True)
class CopyDelayConfig(EnvConfig):
    """Symbols are shown, then nothing, then all are asked for."""

    length_key = "delay"

    name: str = leaf("copy_delay", "chosen by env=NAME")
    length: int = leaf(8, "symbols that are shown", min=1, max=100_000)
    symbols: int = leaf(4, "size of the alphabet", min=2, max=256)
    delay: int = leaf(16, "blank rows between the last symbol and the first question", min=0, max=1_000_000)
    reversed: bool = leaf(False, "ask for the last symbol first")
    cue_visible: bool = leaf(False, CUE)


@dataclass(frozen=True)
class StateTrackingConfig(EnvConfig):
    """Regular languages: read symbols, name the automaton's state at the end."""

    length_key = "length"

    name: str = leaf("state_tracking", "chosen by env=NAME")
    task: str = leaf("parity", "which automaton", choices=("parity", "even_pairs", "mod5", "s5", "temporal_xor"))
    max_length: int = leaf(25, "rows of the longest episode that is drawn; the shortest has 2 or 3", min=2,
                           max=1_000_000)
    length: int | None = leaf(None, "rows of every episode, in place of lengths that are drawn", min=2, max=1_000_000)
    cue_visible: bool = leaf(False, CUE)


@dataclass(frozen=True)
class DelayedCatchConfig(EnvConfig):
    """Catch falling fruits; their number is paid at the end."""

    length_key = "runs"

    name: str = leaf("delayed_catch", "chosen by env=NAME")
    runs: int = leaf(5, "fruits in an episode", min=1, max=100_000)
    cue_visible: bool = leaf(False, CUE)


@dataclass(frozen=True)
class CartPolePomdpConfig(EnvConfig):
    """Gymnasium's CartPole-v1 with the velocities hidden."""

    name: str = leaf("cartpole_pomdp", "chosen by env=NAME")
    step_limit: int = leaf(500, "an episode is truncated after this many steps", min=1, max=1_000_000)
    scaled: bool = leaf(False, "position and angle as shares of their limits, in place of Gymnasium's units")
    cue_visible: bool = leaf(False, CUE)


ENVS = {
    "memory_chain": MemoryChainConfig,
    "umbrella_chain": UmbrellaChainConfig,
    "discounting_chain": DiscountingChainConfig,
    "repeat_previous": RepeatPreviousConfig,
    "repeat_first": RepeatFirstConfig,
    "autoencode": AutoencodeConfig,
    "count_recall": CountRecallConfig,
    "copy_delay": CopyDelayConfig,
    "state_tracking": StateTrackingConfig,
    "delayed_catch": DelayedCatchConfig,
    "cartpole_pomdp": CartPolePomdpConfig,
}
