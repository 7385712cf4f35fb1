"""YAML as people write it: keys are text, none is there twice, and every key knows its line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import yaml

from sft_core.errors import ConfigError

Key = tuple[str | int, ...]


class TextKeys(yaml.SafeLoader):
    """Reads `on`, `off`, `yes` and `no` as text where they are keys, which YAML 1.1 takes for true and false."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """A mapping whose keys are no truth values."""
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        for key, _ in node.value:
            key.tag = key.tag.replace(":bool", ":str")
        return node


class Parsed(NamedTuple):
    """What a YAML text holds, and the 1-based line of every key, by its path."""

    data: Any
    lines: dict[Key, int]


def parse(text: str, name: str) -> Parsed:
    """Read a YAML text; `name` is what messages call it.

    Raises:
        ConfigError: it is no YAML, or holds a key twice; with the line.
    """
    try:
        node = yaml.compose(text, Loader=TextKeys)
        data = yaml.load(text, Loader=TextKeys)
    except yaml.YAMLError as error:
        raise ConfigError(f"{name} is not valid YAML: {error}") from None
    return Parsed(data, dict(_lines(node, (), name)))


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
