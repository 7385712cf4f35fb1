"""The ledger for a person: what became of every row of a source, and how much of it is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Rows = Sequence[Mapping[str, Any]]
"""As the stage prepare keeps them, one per source and use."""


def ledger_table(rows: Rows) -> list[dict[str, object]]:
    """Counts, a row for each source."""
    return [
        {"source": row["source"], "use": row["use"], "format": row["format"], "read": row["read"], "kept": row["kept"],
         "validation": row["validation"], "examples": row["examples"], "truncated": row["truncated"],
         "split": row["split"], "answers cut": row["answers_cut"], "escaped": row["escaped"], "tokens": row["tokens"],
         "trained": row["trained_tokens"], "share": _percent(row["trained_share"]), "stops": row["stops_trained"]}
        for row in rows]


def ledger_remarks(rows: Rows) -> list[str]:
    """What the counts do not say: rows that are not used and why, and what was mended in others."""
    said = []
    for row in rows:
        name = row["source"]
        if row["rejected"]:
            said.append(f"{name}: not used: {row['rejected']}")
        if row["held_out"]:
            said.append(f"{name}: {row['held_out']} conversations do not train and are items of held_out.jsonl "
                        "(data.held_out_tasks)")
        if row["thoughts"]:
            said.append(f"{name}: {row['thoughts']} conversations lost the thoughts of their answers "
                        "(template.thinking: drop)")
        if row["repaired"]:
            said.append(f"{name}: {row['repaired']} conversations had their turns trimmed or merged (data.repair)")
        if row["nulls"]:
            said.append(f"{name}: {row['nulls']} null keys of tool arguments or schemas left out (Arrow cannot "
                        "tell them from missing ones)")
    return said


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"
