"""YAML as people write it: keys are text, none is there twice, and every key knows its line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import yaml

from sft_core.errors import ConfigError

Key = tuple[str | int, ...]
MOST_VALUES = 100_000
"""Keys and values of a text with its aliases written out: a few lines of aliases of aliases come to billions."""
EXPONENTIAL = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")


class TextKeys(yaml.SafeLoader):
    """Reads keys as the text that they are: `on`, `off`, `yes` and `no` are true and false in YAML 1.1, 1 a number."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """A mapping whose keys are text."""
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":  # which takes another mapping in
                key.tag = "tag:yaml.org,2002:str"
        return node


class Parsed(NamedTuple):
    """What a YAML text holds, and the 1-based line of every key, by its path."""

    data: Any
    lines: dict[Key, int]


def parse(text: str, name: str) -> Parsed:
    """Read a YAML text; `name` is what messages call it.

    Raises:
        ConfigError: it is no YAML, holds a key twice (with the line), or is too large with its aliases written out.
    """
    try:
        node = yaml.compose(text, Loader=TextKeys)
        if node is not None and _size(node, {}) > MOST_VALUES:
            raise ConfigError(f"{name} comes to more than {MOST_VALUES:,} values with its aliases (*name) written out; "
                              "use fewer aliases of what holds aliases itself")
        data = yaml.load(text, Loader=TextKeys)
        return Parsed(data, dict(_lines(node, (), name)))
    except yaml.YAMLError as error:
        raise ConfigError(f"{_at(error, name)}: no valid YAML: {_said(error)}") from None
    except (ValueError, OverflowError) as error:  # of a date that there is not, for one
        raise ConfigError(f"{name} is not valid YAML: {error}; quote what is meant as text") from None
    except RecursionError:
        raise ConfigError(f"{name} is nested too deeply, or an alias in it holds itself") from None


def number(value: object) -> object:
    """YAML 1.1 reads `1e-3` as text; people who type a learning rate mean the number. Other text is what it says: `007`
    can only be text because somebody quoted it."""
    return float(value) if isinstance(value, str) and EXPONENTIAL.fullmatch(value) else value


def value_of(text: str, name: str, as_text: bool) -> object:
    """The value that somebody typed for one field. Quoted it is text; see `number` else.

    Args:
        name: what messages call the text.
        as_text: the field takes text alone, so that `007`, `1e10` and `off` are what was typed.

    Raises:
        ConfigError: it is no YAML, or holds a key twice.
    """
    value = parse(text, name).data
    node = yaml.compose(text, Loader=TextKeys)
    if not isinstance(node, yaml.ScalarNode) or node.style is not None or value is None:
        return value
    return node.value if as_text else number(value)


def _size(node: yaml.Node, known: dict[yaml.Node, int]) -> int:
    """Nodes in and below one, those behind an alias as often as it stands there; each is looked at once."""
    if node not in known:
        parts = node.value if isinstance(node, yaml.CollectionNode) else ()
        known[node] = 1 + sum(_size(one, known) for part in parts
                              for one in (part if isinstance(part, tuple) else (part,)))
    return known[node]


def _at(error: yaml.YAMLError, name: str) -> str:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    return name if mark is None else f"{name}:{mark.line + 1}"


def _said(error: yaml.YAMLError) -> str:
    """In one line; the parser speaks of its own state first, and shows the text."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return " ".join(str(error).split())
    said = ", ".join(filter(None, (error.context, error.problem)))
    return said + ("; indent with spaces, not with tabs" if "'\\t'" in said else "")


def _lines(node: yaml.Node | None, at: Key, name: str) -> Iterator[tuple[Key, int]]:
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                raise ConfigError(f"{name}:{key.start_mark.line + 1}: {key.value} is given twice")
            seen.add(key.value)
            yield (*at, key.value), key.start_mark.line + 1
            yield from _lines(value, (*at, key.value), name)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield (*at, index), value.start_mark.line + 1
            yield from _lines(value, (*at, index), name)
