"""Paths of a configuration: relative to the current directory when it is run, and whole in what a run keeps of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from sft_core.config.evaluate import SUFFIXES
from sft_core.config.reading import Key, TextKeys

EACH = "*"
PATHS: tuple[Key, ...] = (
    ("model", "path"), ("data", "sources", EACH, "path"), ("data", "mirror"), ("data", "mirror", EACH),
    ("train", "replay", "sources", EACH, "path"), ("train", "probe", "suites", EACH), ("template", "path"),
    ("eval", "suites", EACH), ("eval", "include_path"), ("eval", "data_path"), ("eval", "refusal_scorer"),
    ("eval", "judge", "gold"), ("data", "scores", "model"), ("data", "select", "embed"))
"""Fields that may name a file or folder of this machine."""


def looked_in(path: str) -> str:
    """For a message on a path that is not there: the directory that it is relative to; nothing of a whole one."""
    relative = not Path(path).expanduser().is_absolute()
    return f" (looked in {Path.cwd()}, the current directory)" if relative else ""


def relative_paths(data: Any) -> Mapping[Key, str]:
    """Of what a configuration file holds: every relative path that leads to something here → the same path, whole."""
    found = ((key, value) for path in PATHS for key, value in _values(data, path, ()))
    return {key: str(there.parent.resolve() / there.name) for key, value in found
            if isinstance(value, str) and not _is_name(key, value)
            and not (there := Path(value)).is_absolute() and there.exists()}


def _is_name(key: Key, value: str) -> bool:
    """Whether a value is a name of ours, whatever folder is called so too."""
    if "suites" in key:
        return not value.endswith(SUFFIXES)
    return value in ("", "tiny", "rules", "judge")


def replaced(text: str, values: Mapping[Key, str]) -> str:
    """A YAML text with other values at these places; all else in it stays, comments too, unless a place is written as
    an alias: then it is written anew."""
    spans = {span: values[key] for key, span in _spans(yaml.compose(text, Loader=TextKeys), ()) if key in values}
    made = text
    for (start, end), value in sorted(spans.items(), reverse=True):
        made = made[:start] + json.dumps(value, ensure_ascii=False) + made[end:]
    wanted = yaml.load(text, Loader=TextKeys)
    for key, value in values.items():
        place = wanted
        for part in key[:-1]:
            place = place[part]
        place[key[-1]] = value
    try:
        if yaml.load(made, Loader=TextKeys) == wanted:
            return made
    except yaml.YAMLError:  # an anchor was in what was replaced
        pass
    return yaml.safe_dump(wanted, sort_keys=False, allow_unicode=True)


def _values(place: Any, path: Key, key: Key) -> Iterator[tuple[Key, Any]]:
    if not path:
        yield key, place
        return
    inside: dict[Any, Any] = dict(enumerate(place)) if isinstance(place, list) else place \
        if isinstance(place, dict) else {}
    for name in inside if path[0] == EACH else inside.keys() & {path[0]}:
        yield from _values(inside[name], path[1:], (*key, name))


def _spans(node: yaml.Node | None, at: Key) -> Iterator[tuple[Key, tuple[int, int]]]:
    """Where in the text every value stands."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from _spans(value, (*at, key.value))
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _spans(value, (*at, index))
    elif isinstance(node, yaml.ScalarNode):
        yield at, (node.start_mark.index, node.end_mark.index)
