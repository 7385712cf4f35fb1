"""Conversations whose turns do not alternate, put right where the configuration asks for it (`data.repair`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from sft_core.config.data import Repair
from sft_core.conversation import Turn

EVERY: tuple[tuple[Repair, ...], ...] = (*((one,) for one in get_args(Repair)), get_args(Repair))
"""Each way alone, then all together."""


def repaired(turns: Sequence[Turn], ways: Sequence[Repair]) -> tuple[Turn, ...]:
    """The turns with what `ways` asks for; the same ones where nothing is to be done."""
    if "trim" in ways:
        turns = _trimmed(turns)
    return _merged(turns) if "merge" in ways else tuple(turns)


def _trimmed(turns: Sequence[Turn]) -> Sequence[Turn]:
    """Without answers in front of the first question and without what stands behind the last answer."""
    first = next((at for at, turn in enumerate(turns) if turn.role == "user"), len(turns))
    last = max((at for at, turn in enumerate(turns) if turn.role == "assistant"), default=-1)
    if first > last:
        return turns
    return [*(turn for turn in turns[:first] if turn.role == "system"), *turns[first:last + 1]]


def _merged(turns: Sequence[Turn]) -> tuple[Turn, ...]:
    """Neighbours of one role as one turn, a blank line between. Results of tools stay apart, as do calls that wait for
    them and answers of which only one is trained."""
    merged: list[Turn] = []
    for turn in turns:
        last = merged[-1] if merged else None
        if last and (last.role, last.masked) == (turn.role, turn.masked) and turn.role != "tool" \
                and not last.tool_calls:
            content = "\n\n".join(one.content for one in (last, turn) if one.content.strip())
            merged[-1] = turn._replace(content=content)
        else:
            merged.append(turn)
    return tuple(merged)
