"""Columns of a list of runs: what every run has, and any number or setting, to show, to sort and to choose by."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sft_core.config.file import flatten, load
from sft_core.errors import ConfigError, DamagedFile
from sft_core.stage import read_json
from tasks.listing import Listed

Value = str | float | int | None
GATES = ("pass", "undecided", "fail")
"""From the best to the worst."""
_COMPARED = {"=": operator.eq, "!=": operator.ne, "<=": operator.le, ">=": operator.ge, "<": operator.lt,
             ">": operator.gt}
_CONDITION = re.compile(r"\s*([^<>=!]+?)\s*(!=|<=|>=|=|<|>)\s*(.*?)\s*")


class Condition(NamedTuple):
    """What `--where` asks of a column."""

    column: str
    sign: str
    value: str

    def holds(self, value: Value) -> bool:
        """Numbers are compared as numbers; what a run has not got fulfils nothing."""
        if value is None:
            return False
        wanted = _number(self.value)
        if isinstance(value, int | float) and wanted is not None:
            return bool(_COMPARED[self.sign](value, wanted))
        return bool(_COMPARED[self.sign](str(value), self.value))


def condition(text: str) -> Condition:
    """`gate=pass`, `tax<=1` and the like.

    Raises:
        ConfigError: it is none.
    """
    if (found := _CONDITION.fullmatch(text)) is None:
        raise ConfigError(f"--where {text!r} is no condition; it is a column, one of {' '.join(_COMPARED)}, and a "
                          "value: gate=pass, tax<=1, train.method=lora")
    return Condition(*found.groups())


class Columns:
    """The values of runs by column, read when they are asked for."""

    def __init__(self, runs: Sequence[Listed]) -> None:
        self._runs = runs
        self._known: dict[str, dict[str, Value]] = {}

    def of(self, run: Listed) -> Mapping[str, Value]:
        """All columns of a run."""
        if run.name not in self._known:
            self._known[run.name] = {**_basic(run), **_measured(run), **_settings(run)}
        return self._known[run.name]

    def check(self, names: Iterable[str]) -> None:
        """Raises ConfigError for a column that no run has."""
        there = {name for run in self._runs for name in self.of(run)}
        if there and (wrong := sorted(set(names) - there)):
            shown = sorted(name for name in there if "." not in name)
            settings = sorted(name for name in there if "." in name)
            raise ConfigError(f"there is no column {', '.join(wrong)}; there are {', '.join(shown)}, and the settings "
                              f"of runs by field: {', '.join(settings[:8])}, …")

    def sorted(self, runs: Sequence[Listed], column: str, *, reverse: bool) -> list[Listed]:
        """The best first: the gate by its outcome, wins from the largest, everything else from the smallest. Runs
        without a value stand at the end either way."""
        have = [run for run in runs if self.of(run).get(column) is not None]
        down = column == "win" or column.startswith("win/") or column == "last change"
        have.sort(key=lambda run: _rank(column, self.of(run)[column]), reverse=down != reverse)
        return [*have, *(run for run in runs if self.of(run).get(column) is None)]


def _rank(column: str, value: Value) -> tuple[float, str]:
    """Numbers before texts, the gate as it went."""
    if column == "gate":
        return GATES.index(str(value)), ""
    return (value, "") if isinstance(value, int | float) else (float("inf"), str(value))


def _basic(run: Listed) -> dict[str, Value]:
    """As the list has them, but numbers as numbers."""
    texts: dict[str, Value] = {name: str(value) if value else None for name, value in run.row().items()}
    return {**texts, "steps": run.step, "training": run.trained_s, "saving": run.saved_s}


def _measured(run: Listed) -> dict[str, Value]:
    """Points by suite, the largest tax and the mean win, and what training came to."""
    folder, found = run.config.parent, dict[str, Value]()
    suites: Mapping[str, Any] = _read(folder / "summary.json", "suites").get("suites", {})
    for kind in ("tax", "win"):
        points = {f"{kind}/{name}": one[kind] for name, one in suites.items() if one.get(kind) is not None}
        found |= points
        if points:
            found[kind] = max(points.values()) if kind == "tax" else sum(points.values()) / len(points)
    training = _read(folder / "training.json", "final", "validation")
    if training:
        found |= {"loss": training["final"]["loss"], "trained tokens": training["trained_tokens"],
                  "tokens/s": training["tokens_per_s"]}
        if training["validation"]:
            found["validation"] = training["validation"][-1][1]
    return found


def _settings(run: Listed) -> dict[str, Value]:
    try:
        fields = flatten(load(run.config).config)
    except ConfigError:  # of an older version, or gone
        return {}
    return {name: value if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
            for name, value in fields.items() if value is not None}


def _read(file: Any, *wanted: str) -> Mapping[str, Any]:
    try:
        return dict(read_json(file, *wanted))
    except (FileNotFoundError, DamagedFile):
        return {}


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
