"""What becomes of curated rows until they are trained on: rendered, kept for suites and validation, used in training.

The words are the same wherever these numbers stand: on the page, in manifest and cards, and in MLflow.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

RENDERING, HELD_OUT, VALIDATION = "rendering", "held-out tasks", "validation"
"""Steps behind those of the curation."""
Counted = Mapping[str, Any]


class Handed(NamedTuple):
    """The end of the way of one source. Rows, and then examples: one row may give several."""

    source: str
    curated: int
    rendering: Mapping[str, int]  # left out in rendering, by reason
    held_out: int  # items of held-out tasks
    validation: int
    rows: int  # that train
    examples: int  # training examples of these rows
    used: int  # in training; fewer where a mixture or a part of an epoch leaves some out

    def steps(self) -> list[dict[str, Any]]:
        """In the form of the steps of the curation."""
        gone = ((RENDERING, self.rendering), (HELD_OUT, {"item": self.held_out} if self.held_out else {}),
                (VALIDATION, {"validation": self.validation} if self.validation else {}))
        there, found = self.curated, []
        for name, reasons in gone:
            left = there - sum(reasons.values())
            found.append({"name": name, "settings": {}, "rows_in": there, "rows_out": left, "changed": 0,
                          "reasons": dict(reasons)})
            there = left
        return found


def handed(curated: Sequence[Counted], ledger: Counted, used: Mapping[str, int]) -> list[Handed]:
    """Every source that is curated, in its order.

    Args:
        curated: of every source what `curation.json` says.
        ledger: of the prepared data.
        used: by source, examples that are used in training.
    """
    counts = {one["source"]: one for one in ledger["sources"]}
    return [_handed(one, counts[one["name"]], used.get(one["name"], 0)) for one in curated]


def _handed(curated: Counted, count: Counted, used: int) -> Handed:
    before = sum((Counter(step["reasons"]) for step in curated["steps"]), Counter())
    return Handed(curated["name"], curated["steps"][-1]["rows_out"], dict(Counter(count["rejected"]) - before),
                  count["held_out"], count["validation"], count["train"], count["train_examples"], used)


def with_ends(curated: Sequence[Counted], ends: Sequence[Handed]) -> list[dict[str, Any]]:
    """The sources with the steps behind the curation; as they are where these are not known."""
    if not ends:
        return [dict(one) for one in curated]
    return [{**one, "steps": [*one["steps"], *end.steps()]} for one, end in zip(curated, ends, strict=True)]


def in_words(ends: Sequence[Handed]) -> str:
    """One sentence of what became of all curated rows; nothing where that is not known."""
    if not ends:
        return ""
    reasons = sum((Counter(one.rendering) for one in ends), Counter())
    why = f" ({', '.join(f'{why} {count:,}' for why, count in reasons.most_common())})" if reasons else ""
    rows, examples, used = (sum(getattr(one, name) for one in ends) for name in ("rows", "examples", "used"))
    return (f"Of {sum(one.curated for one in ends):,} curated rows {reasons.total():,} are left out in rendering{why}, "
            f"{sum(one.held_out for one in ends):,} are items of held-out tasks, "
            f"{sum(one.validation for one in ends):,} are for validation, and {rows:,} give {examples:,} training "
            f"examples, of which {used:,} are used in training.")


def table(ends: Sequence[Handed]) -> list[dict[str, str]]:
    """The same by source."""
    return [{"source": one.source, "curated rows": f"{one.curated:,}",
             "left out in rendering": ", ".join(f"{why} {count:,}" for why, count in one.rendering.items()) or "0",
             "items of held-out tasks": f"{one.held_out:,}", "validation": f"{one.validation:,}",
             "rows that train": f"{one.rows:,}", "training examples": f"{one.examples:,}",
             "used in training": f"{one.used:,}"} for one in ends]
