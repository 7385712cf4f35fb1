"""Answers that ran into the limit of tokens: what they would have said beyond it, a score does not know."""

from __future__ import annotations

from collections.abc import Sequence

from eval_suites.results import ItemResult
from eval_suites.verdict.known import Names

NOTABLE = 0.1
"""Share of the answers of either side."""


def cut_answers(both: Sequence[tuple[ItemResult, ItemResult]], names: Names) -> str:
    """How many answers of either side were cut, where that is a notable share of either's; else empty.

    Refusals among them are counted: they are recognised by how an answer begins, also where it has no end.
    """
    sides = [[item for item in side if "overrun" in item.metrics] for side in zip(*both, strict=True)]
    cuts = [[item for item in side if item.metrics["overrun"] > 0] for side in sides]
    if not any(len(cut) >= NOTABLE * len(side) > 0 for cut, side in zip(cuts, sides, strict=True)):
        return ""
    refused = [[sum(item.metrics.get("refused", 0.0) > 0 for item in some) for some in (cut, side)]
               for cut, side in zip(cuts, sides, strict=True)]
    told = (names.the_base, names.the_tuned)
    shown = " and ".join(f"{len(cut)} of {len(side)} answers of {name}"
                         for cut, side, name in zip(cuts, sides, told, strict=True) if side)
    beginning = "" if not any(cut for cut, _ in refused) else (
        "; as refusals, which are recognised by how they begin, count " + " and ".join(
            f"{cut} of them among the {whole} of {name}"
            for (cut, whole), name in zip(refused, told, strict=True) if cut))
    return (f"the limit of tokens cut {shown}: read them before this is believed, and raise eval.max_new_tokens where "
            f"they were on their way{beginning}")
