"""The splits of a folder by the names of its files, as the hub tells them where no card does.

Sharded names come first (`data/NAME-00000-of-00001.parquet`), then words in the names of folders, then in those of
files. https://huggingface.co/docs/hub/datasets-file-names-and-splits
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

WORDS: Mapping[str, frozenset[str]] = {
    "train": frozenset({"train", "training"}), "validation": frozenset({"validation", "valid", "val", "dev"}),
    "test": frozenset({"test", "testing", "eval", "evaluation"})}
"""Split → the words that name it."""
_SHARD = re.compile(r"data/(\w+(?:\.\w+)*)-\d{5}-of-\d{5}[^/]*\.[^/]*")
_HELD_OUT = re.compile(r"h[eo]ld[-_ ]?out", re.IGNORECASE)
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_ENDING = re.compile(r"(?:sets?|data|s)$")
_BETWEEN = re.compile(r"[-._ 0-9]+")


def by_split(folder: Path, files: Sequence[Path]) -> dict[str, list[Path]]:
    """The files of every split, in their order; where words name no file `train` all unnamed ones are that split."""
    rules: tuple[Callable[[Path], list[str]], ...] = (_by_shard, _by_folder, _by_file)
    for rule in rules:
        splits: dict[str, list[Path]] = {}
        for file in files:
            for name in rule(file.relative_to(folder)):
                splits.setdefault(name, []).append(file)
        if splits:
            named = {file for one in splits.values() for file in one}
            unnamed = [file for file in files if file not in named]
            whole = "train" in splits or not unnamed or rule is _by_shard
            return _sorted(splits if whole else {"train": unnamed, **splits})
    return {"train": list(files)}


def named_otherwise(split: str, files: Sequence[Path]) -> list[Path]:
    """The files of a split whose own names say that they are of another, to a person if not to the hub."""
    means = _meant(split)
    return [file for file in files if means and (said := _meant(file.name)) and not means & said]


def _meant(name: str) -> set[str]:
    """The splits that a person reads in a name, as in `testset`, `myTest` or `held_out`."""
    words = _BETWEEN.split(_HELD_OUT.sub("test", _CAMEL.sub(" ", name)).casefold())
    return set(_named(" ".join(_ENDING.sub("", word) for word in words)))


def _sorted(splits: Mapping[str, list[Path]]) -> dict[str, list[Path]]:
    """What is meant for training first."""
    return dict(sorted(splits.items(), key=lambda split: (not split[0].startswith("train"), split[0])))


def _by_shard(file: Path) -> list[str]:
    found = _SHARD.fullmatch(file.as_posix())
    return [found[1]] if found else []


def _by_folder(file: Path) -> list[str]:
    return _named(*file.parts[:-1])


def _by_file(file: Path) -> list[str]:
    return _named(file.name)


def _named(*names: str) -> list[str]:
    words = {word for name in names for word in _BETWEEN.split(name.casefold())}
    return [split for split, known in WORDS.items() if words & known]
