"""One setting at a time: find its field in the schema, check its type and range, say what was expected."""

import difflib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from configs.errors import ConfigError, show
from configs.strict_yaml import COMMAND_LINE, Leaf


@dataclass(frozen=True)
class Setting:
    """A leaf of the schema: `type` is int, float, bool or str."""

    key: str
    type: type
    optional: bool
    default: Any
    meta: dict

    def expected(self) -> str:
        """What may be written, in words: 'an integer >= 1', 'one of after, before, or null'."""
        low, high = self.meta.get("min"), self.meta.get("max")
        if self.meta.get("choices"):
            text = "one of " + ", ".join(self.meta["choices"])
        elif self.meta.get("pattern"):
            text = self.meta["form"]
        elif self.type in (int, float):
            text = "an integer" if self.type is int else "a number"
            if low is not None and high is not None:
                text += f" from {low} to {high}"
            elif low is not None:
                text += f" >= {low}"
            elif high is not None:
                text += f" <= {high}"
        else:
            text = "true or false" if self.type is bool else "text"
        return text + (", or null" if self.optional else "")


def _split_type(hint: Any) -> tuple[type, bool]:
    if get_origin(hint) in (Union, UnionType):
        inner = [t for t in get_args(hint) if t is not type(None)]
        return inner[0], True
    return hint, False


def settings_of(schema: Any, prefix: str = "") -> Iterator[Setting]:
    """All leaves of a dataclass instance, in order of declaration, with dotted keys."""
    hints = get_type_hints(type(schema))
    for f in fields(schema):
        value, key = getattr(schema, f.name), prefix + f.name
        if is_dataclass(value):
            yield from settings_of(value, key + ".")
        else:
            kind, optional = _split_type(hints[f.name])
            yield Setting(key, kind, optional, f.default, dict(f.metadata))


ALIASES = {"lr": "agent.learning_rate", "entropy_coef": "agent.entropy_cost", "ent_coef": "agent.entropy_cost",
           "total_timesteps": "train.steps", "n_envs": "train.num_envs", "max_steps": "train.steps"}


def closest(word: str, choices: Sequence[str]) -> str | None:
    """The choice that was probably meant: a close spelling, the same or a close last part, or another trade's name."""
    word = word[:100].lower()
    tails = {c.rsplit(".", 1)[-1]: c for c in reversed(choices)}
    tail = word.rsplit(".", 1)[-1]
    if tail not in tails and ALIASES.get(tail) in choices:
        return ALIASES[tail]
    whole = difflib.get_close_matches(word, choices, n=1, cutoff=0.6)
    near_tail = difflib.get_close_matches(tail, list(tails), n=1, cutoff=0.75)
    return tails[tail] if tail in tails else whole[0] if whole else tails[near_tail[0]] if near_tail else None


def nearest(word: str, choices: Sequence[str]) -> str:
    """'; did you mean X?', or where nothing is near the choices themselves if they are few."""
    near = closest(word, choices)
    if near is not None:
        return f"; did you mean {near}?"
    return f"; choose from {', '.join(choices)}" if 0 < len(choices) <= 40 else ""


def coerce(setting: Setting, leaf: Leaf) -> Any:
    """The leaf's value as the field's type, or ConfigError. Integral floats (3e6) are integers; a bool is no number;
    text settings take a command-line value as it stands."""
    value, kind = leaf.value, setting.type

    def refuse(why: str) -> ConfigError:
        stop = "" if why.endswith("?") else ";"
        return ConfigError(f"{leaf.origin}: {setting.key}={show(leaf.text)} {why}{stop} expected {setting.expected()}")

    if value is None:
        if setting.optional and (leaf.text or not leaf.origin.startswith(COMMAND_LINE)):  # key=$UNSET is a slip
            return None
        raise refuse("is empty" if leaf.text == "" else "is null")
    if kind is str and not isinstance(value, str):
        if setting.meta.get("choices") or not leaf.origin.startswith(COMMAND_LINE):
            raise refuse("is not text (quote it if it is meant)")
        value = leaf.text
    if kind is bool and not isinstance(value, bool):
        raise refuse("is not true or false")
    if kind in (int, float):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise refuse("is not a number")
        if not math.isfinite(value):
            raise refuse("is not finite")
        if kind is int and value != int(value):
            raise refuse("is not an integer")
        try:
            value = kind(value)
        except OverflowError:
            raise refuse("is too large") from None
        low, high = setting.meta.get("min"), setting.meta.get("max")
        if (low is not None and value < low) or (high is not None and value > high):
            raise refuse("is out of range")
        if kind is int and abs(value) >= 2**63:
            raise refuse("is too large")
    choices, pattern = setting.meta.get("choices"), setting.meta.get("pattern")
    if choices and value not in choices:
        near = closest(str(value), choices)
        raise refuse("is unknown" + (f"; did you mean {near}?" if near else ""))
    if pattern and not pattern.fullmatch(value):
        raise refuse("is not valid")
    if kind is str and not value:
        raise refuse("is empty")
    return value

