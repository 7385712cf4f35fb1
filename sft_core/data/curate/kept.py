"""Where the steps of a curation are kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from sft_core.stage import read_json, write_json


class Kept(NamedTuple):
    """A finished step."""

    folder: Path
    result: Mapping[str, Any]


class Keep(Protocol):
    """Finds a step, or makes it."""

    def __call__(self, name: str, stamp: str, make: Callable[[Path], Mapping[str, object]]) -> Kept:
        """`make` writes into the folder that it is given; what a killed try left there it finds again."""


def in_folder(root: Path) -> Keep:
    """Keeps every step in a folder of its own below `root`, for as long as that is there."""

    def keep(name: str, stamp: str, make: Callable[[Path], Mapping[str, object]]) -> Kept:
        out, mark = root / name / stamp, root / name / f"{stamp}.json"
        if not mark.exists():
            out.mkdir(parents=True, exist_ok=True)
            write_json(mark, dict(make(out)))
        return Kept(out, read_json(mark))

    return keep
