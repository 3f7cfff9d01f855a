"""Reads YAML as data and nothing else: a nested mapping of scalars becomes a flat list of leaves with line numbers.

Refused, each with a ConfigError: tags, anchors and aliases (so no `!!python/object`, no merge keys, no expansion
bombs), sequences, repeated keys, several documents, interpolations (`${`), `???`, control characters, files over 1 MB.
Scalars follow YAML 1.2's core schema more than PyYAML's 1.1: `1e-3` is a number; `12:30` and dates are text.
"""

import re
from pathlib import Path
from typing import ClassVar, NamedTuple

import yaml
from yaml.nodes import MappingNode, ScalarNode

from configs.errors import ConfigError, one_line, show

MAX_BYTES = 1_000_000
MAX_DEPTH = 16
COMMAND_LINE = "on the command line"
_PREFIX = "tag:yaml.org,2002:"


class Leaf(NamedTuple):
    """One `key = value`: dotted key, the scalar's value, its text as written, and where it stands."""

    key: str
    value: bool | int | float | str | None
    text: str
    origin: str


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: ClassVar[dict] = {}  # not SafeLoader's: no sexagesimals, no timestamps, no merge keys
    depth = 0

    def compose_node(self, parent, index):
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise yaml.MarkedYAMLError(problem="anchors and aliases are not allowed", problem_mark=event.start_mark)
        if getattr(event, "tag", None) is not None:
            raise yaml.MarkedYAMLError(problem=f"the tag {show(event.tag)} is not allowed (plain values only)",
                                       problem_mark=event.start_mark)
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise yaml.MarkedYAMLError(problem="nested too deeply", problem_mark=event.start_mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE|yes|Yes|no|No|on|On|off|Off", list("tTfFyYnNoO")),
    ("int", r"[-+]?[0-9][0-9_]*", list("-+0123456789")),
    ("float", r"[-+]?([0-9][0-9_]*(\.[0-9_]*)?|\.[0-9_]+)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
     list("-+0123456789.")),
):
    _Loader.add_implicit_resolver(_PREFIX + _tag, re.compile(rf"(?:{_pattern})\Z"), _first)


def _scalar(node: ScalarNode) -> bool | int | float | str | None:
    text, tag = node.value, node.tag.removeprefix(_PREFIX)
    if tag == "null":
        return None
    if tag == "bool":
        return text.lower() in ("true", "yes", "on")
    if tag == "int":
        return int(text.replace("_", ""))
    if tag == "float":
        return float(text.replace("_", "").replace(".inf", "inf").replace(".Inf", "inf").replace(".INF", "inf")
                     .lower().replace(".nan", "nan"))
    return text


def check_text(text: str, what: str) -> None:
    """Refuse interpolations, the missing-value mark and control characters in a key or a value."""
    if "${" in text:
        raise ConfigError(f"{what}: interpolations are not allowed, write the value out: {show(text)}")
    if text.strip() == "???":
        raise ConfigError(f"{what}: '???' is no value")
    if not all(c.isprintable() for c in text):
        raise ConfigError(f"{what}: control characters are not allowed: {show(text)}")


def _compose(text: str, where: str) -> yaml.Node | None:
    loader = None
    try:
        loader = _Loader(text)
        return loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        line = f" line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{where}{line}: {error.problem}") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError(f"{where}: not valid YAML: {one_line(error, 200)}") from None
    finally:
        if loader is not None:
            loader.dispose()


def parse_value(key: str, text: str) -> Leaf:
    """The leaf of a command-line token; text that YAML would not read as one scalar is kept as text."""
    check_text(text, f"{COMMAND_LINE}: {show(key)}")
    value: bool | int | float | str | None = text
    try:
        node = _compose(text, COMMAND_LINE)
        if node is None:
            value = None
        elif isinstance(node, ScalarNode) and (node.style in ("'", '"') or node.value == text.strip()):
            value = _scalar(node)
            text = node.value
    except (ConfigError, ValueError):
        pass
    return Leaf(key, value, text, COMMAND_LINE)


def _walk(node: yaml.Node, prefix: str, where: str, into: dict[str, Leaf], sections: dict[str, str]) -> None:
    origin = f"{where} line {node.start_mark.line + 1}"
    if isinstance(node, MappingNode):
        seen: set[str] = set()
        for key_node, child in node.value:
            line = f"{where} line {key_node.start_mark.line + 1}"
            if not isinstance(key_node, ScalarNode) or not key_node.value:
                raise ConfigError(f"{line}: a key must be a plain name")
            name = key_node.value
            check_text(name, line)
            if name in seen or name.count(".") > MAX_DEPTH:
                raise ConfigError(f"{line}: {show(name)} is given twice in one section" if name in seen
                                  else f"{line}: {show(name)} is nested too deeply")
            seen.add(name)
            _walk(child, f"{prefix}.{name}" if prefix else name, where, into, sections)
    elif isinstance(node, ScalarNode):
        check_text(node.value, f"{origin}: {show(prefix)}")
        parts = prefix.split(".")
        parents = [".".join(parts[:i]) for i in range(1, len(parts))]
        for clash in [prefix, *parents]:
            if clash in into or (clash == prefix and clash in sections):
                first = into[clash].origin if clash in into else sections[clash]
                if clash in into and clash != prefix:
                    raise ConfigError(f"{origin}: {show(prefix)} cannot be set, for {show(clash)} is a single value ({first})")
                raise ConfigError(f"{origin}: {show(prefix)} is given twice (first {first})")
        sections.update(dict.fromkeys(parents, origin))
        try:
            into[prefix] = Leaf(prefix, _scalar(node), node.value, origin)
        except ValueError:
            raise ConfigError(f"{origin}: {show(prefix)} is no usable number: {show(node.value)}") from None
    else:
        raise ConfigError(f"{origin}: {show(prefix)} is a list; every setting is a single value")


def read_leaves(path: Path) -> list[Leaf]:
    """The leaves of a YAML file in order, with dotted keys; nested and dotted keys mean the same.

    Raises ConfigError where the file is missing, unreadable, too large, or holds anything but nested plain values.
    """
    where = f"in {path}"
    try:
        if not path.is_file():
            raise ConfigError(f"{path} is a folder, no config file" if path.is_dir() else f"no such config file: {path}")
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(f"{where}: larger than {MAX_BYTES} bytes, no config of ours")
        text = path.read_bytes().decode("utf-8")
    except ConfigError:
        raise
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except ValueError:  # a UnicodeDecodeError, or a path with a NUL in it
        raise ConfigError(f"{where}: not UTF-8 text") from None
    node = _compose(text, where)
    leaves: dict[str, Leaf] = {}
    if node is None or (isinstance(node, ScalarNode) and node.value == ""):
        return []
    if not isinstance(node, MappingNode):
        raise ConfigError(f"{where}: expected 'key: value' lines")
    _walk(node, "", where, leaves, {})
    return list(leaves.values())
