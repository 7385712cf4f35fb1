"""The data ledger as a flow: rows that were read, left out by reason, made examples, made tokens, trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

OF_THEM = (("cut to fit", "truncated"), ("parts of longer rows", "split"), ("for validation", "validation"))


class Step(NamedTuple):
    """One step of the way: so much of what, and `share` of the largest number of its unit."""

    says: str
    amount: int
    unit: str
    share: float
    left_out: bool = False


class Way(NamedTuple):
    """The way of one source."""

    source: str
    use: str
    steps: list[Step]


def ways(ledger: Mapping[str, Any]) -> list[Way]:
    """The sources of training and of replay, in their order."""
    return [Way(one["source"], use, _steps(one)) for use, key in (("train", "sources"), ("replay", "replay"))
            for one in ledger[key]]


def _steps(one: Mapping[str, Any]) -> list[Step]:
    rows, tokens = max(one["read"], one["examples"], 1), max(one["tokens"], 1)
    steps = [Step("read", one["read"], "rows", one["read"] / rows)]
    reasons = sorted(one["rejected"].items(), key=lambda pair: (-pair[1], pair[0]))
    steps += [Step(why.replace("_", " "), count, "rows", count / rows, left_out=True) for why, count in reasons]
    if one["held_out"]:
        steps.append(Step("of held-out tasks", one["held_out"], "rows", one["held_out"] / rows))
    steps.append(Step("became examples", one["examples"], "examples", one["examples"] / rows))
    steps += [Step(f"of them {what}", one[key], "examples", one[key] / rows) for what, key in OF_THEM if one[key]]
    return [*steps, Step("tokens", one["tokens"], "tokens", one["tokens"] / tokens),
            Step("tokens that are trained", one["trained_tokens"], "tokens", one["trained_tokens"] / tokens)]
