"""The trials of a sweep that no other one beats."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from infra.study_contract import TrialRow


def best(rows: Iterable[TrialRow], objectives: Mapping[str, str]) -> list[TrialRow]:
    """Complete trials that keep to all constraints and that no other such one beats: as good in every objective and
    better in one.

    Args:
        rows: trials.
        objectives: objective → `maximize` or `minimize`.

    Returns:
        In order of the first objective, the lowest value first.
    """
    def costs(row: TrialRow) -> tuple[float, ...]:
        return tuple(-(row.values or {})[name] if way == "maximize" else (row.values or {})[name]
                     for name, way in objectives.items())

    front: list[TrialRow] = []
    for row in sorted((row for row in rows if row.values and not row.broken), key=costs):
        if not any(_beats(costs(other), costs(row)) for other in front):  # a later one beats no earlier one
            front.append(row)
    return sorted(front, key=lambda row: (row.values or {})[next(iter(objectives))])


def _beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(mine <= its for mine, its in zip(one, other, strict=True))
