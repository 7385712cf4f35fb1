"""What makes a study the same study: the searched fields, the objectives, and all else that values depend on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Value = float | int | str | bool | None


@dataclass(frozen=True)
class Dimension:
    """One searched field: an interval from low to high, or choices; drawn beside certain values of others only."""

    low: float | None = None
    high: float | None = None
    log: bool = False
    choices: tuple[Value, ...] | None = None
    whole: bool = False
    """The field takes whole numbers only."""
    when: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)
    """Other searched fields → the values beside which this one is drawn."""

    def drawn(self, beside: Mapping[str, object]) -> bool:
        """Whether it is drawn beside these values of the fields before it."""
        return all(name in beside and beside[name] in values for name, values in self.when.items())

    def holds(self, value: object) -> bool:
        """Whether a value is one of the choices, or lies in the interval."""
        if self.choices is not None:
            return value in self.choices
        return (isinstance(value, int | float) and self.low is not None and self.high is not None
                and self.low <= value <= self.high)


@dataclass(frozen=True)
class Plan:
    """What makes a study the same study, and how it is sampled."""

    name: str
    space: Mapping[str, Dimension]
    """Dotted config field → range; each behind those that it is drawn beside."""
    objectives: Mapping[str, Literal["maximize", "minimize"]]
    """Objective → direction, e.g. `{"alignment": "maximize", "tax": "minimize"}`."""
    context: str
    """Fingerprint of everything else that a trial's values depend on (model, data, suites, seed)."""
    sampler: Literal["tpe", "nsga2", "random", "gp", "grid", "qmc"]
    seed: int
    points: tuple[Mapping[str, Value], ...] = ()
    """Points that are tried before all others, in this order: the configuration as it is, and those written by hand."""
    constraints: tuple[str, ...] = ()
    """Limits that every trial is told against."""
    only_queued: bool = False
    """Nothing is sampled: trials are the points that `Study.queue` was given."""

    def identity(self) -> dict[str, object]:
        """What may not change while the study goes on: all but the sampler, its seed and where it begins."""
        space = {name: asdict(dimension) for name, dimension in self.space.items()}
        limits = {"constraints": list(self.constraints)} if self.constraints else {}
        plain = {"space": space, "objectives": list(self.objectives.items()), "context": self.context, **limits}
        return dict(json.loads(json.dumps(plain)))


def space_of(identity: Mapping[str, Any]) -> dict[str, Dimension]:
    """The space of a plan that only its identity is left of."""
    return {name: Dimension(**said) for name, said in identity["space"].items()}
