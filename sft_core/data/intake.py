"""Training sources → conversations and rejected rows, file by file; what each file was found to hold is said.

Only conversations are held, never the rows they were made from.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, groupby, islice
from pathlib import Path
from typing import NamedTuple

from sft_core.config.data import Repair, SourceSection
from sft_core.conversation import Conversation, Rejected, Row, Why
from sft_core.data.columns import IN_MESSAGE, Columns
from sft_core.data.formats import LOOKED_AT, format_of, to_conversation
from sft_core.data.sources import name_of, read_rows
from sft_core.data.trees import is_message, threads
from sft_core.errors import DataError
from sft_core.stopping import check

log = logging.getLogger("sft")


def tallied(rejected: Iterable[Rejected]) -> str:
    """Why rows are not used and how many, most first; empty where all are."""
    return ", ".join(f"{why} {number}" for why, number in Counter(str(one.why) for one in rejected).most_common())


class Intake(NamedTuple):
    """What the training sources held."""

    conversations: list[Conversation]
    rejected: list[Rejected]
    rows: Counter[str]  # by source
    formats: dict[str, tuple[str, ...]]  # by source


def take_in(sources: Sequence[SourceSection], scratch: Path, mirror: Path | None, repair: Sequence[Repair] = ()
            ) -> Intake:
    """Read all sources in order; `repair` as in `data.repair`.

    Raises:
        DataError: a source cannot be read, holds no rows, or no conversations.
    """
    taken = Intake([], [], Counter(), {})
    for source in sources:
        name, before = name_of(source), len(taken.rejected)
        rows = read_rows(source, scratch=scratch, mirror=mirror)
        found = [_understand(in_file, source, taken, repair)
                 for _, in_file in groupby(rows, key=lambda row: row.origin.file)]
        if not taken.rows[name]:
            raise DataError(f"{source.path} holds no rows; take it out of data.sources, or correct its path or split")
        taken.formats[name] = tuple(dict.fromkeys(found))
        said = tallied(taken.rejected[before:])
        log.info("%s: %d rows read as %s%s", name, taken.rows[name], ", ".join(taken.formats[name]),
                 f"; {len(taken.rejected) - before} of them are not used: {said}" if said else "")
        _warn_of_nulls(name, taken)
    return taken


def _understand(rows: Iterator[Row | Rejected], source: SourceSection, taken: Intake, repair: Sequence[Repair]) -> str:
    """Turn the rows of one file into conversations; says which format it was."""
    if source.format == "text":
        raise DataError(f"{source.path} has format text and is no conversation; it belongs into train.replay.sources")
    good = _readable(rows, source, taken)
    head = list(islice(good, LOOKED_AT))
    if not head:  # a limit can end a file inside its broken lines
        return source.format
    if source.format == "auto" and is_message(head[0]):
        good = _threads(chain(head, good), source, taken)
        head = list(islice(good, LOOKED_AT))
    if not head:
        raise DataError(f"the trees of {source.path} hold no answer; give all of their messages in one file")
    form = format_of(head, source) if source.format == "auto" else source.format
    before = len(taken.conversations)
    instructed = form == "alpaca" and any(_has_instruction(row, source) for row in head)
    for row in chain(head, good):
        found = to_conversation(row, form, source, repair)
        if instructed and not isinstance(found, Rejected) and not _has_instruction(row, source):
            found = Rejected(Why.MISSING_COLUMN, "no column instruction, which other rows of the file have", row.origin)
        if isinstance(found, Rejected):
            taken.rejected.append(found)
        else:
            taken.conversations.append(found)
    _tell_unused(head[0].origin.file, taken.conversations[before:])
    return form


def _has_instruction(row: Row, source: SourceSection) -> bool:
    """An input alone is a question only in files without instructions; elsewhere the row has lost its own."""
    return Columns(row.data, source).has("instruction")


def _threads(rows: Iterator[Row], source: SourceSection, taken: Intake) -> Iterator[Row]:
    """The threads of the trees of a file; the messages of one count as one row."""
    for found in threads(rows):
        if isinstance(found, Rejected):
            taken.rejected.append(found)
            continue
        thread, messages = found
        taken.rows[name_of(source)] -= messages - 1
        yield thread


def _tell_unused(file: str, conversations: Sequence[Conversation]) -> None:
    """Say once per file which columns and keys of messages hold text that goes nowhere, and in what share of rows."""
    unused = Counter(name for conversation in conversations for name in conversation.unused)
    if unused:
        said = ", ".join(f"{name} ({number / len(conversations):.0%} of rows)" for name, number in unused.most_common())
        inside = [name.startswith(IN_MESSAGE) for name in unused]
        ways = ["map them (columns)"] * (not all(inside)) + ["rename thoughts to reasoning_content"] * any(inside)
        log.warning("%s: these columns hold text that is not used: %s; %s, or leave them aside on purpose "
                    "(ignore_columns: [%s])", file, said, ", ".join(ways), ", ".join(unused))


def _readable(rows: Iterator[Row | Rejected], source: SourceSection, taken: Intake) -> Iterator[Row]:
    for row in rows:
        check()
        taken.rows[name_of(source)] += 1
        if isinstance(row, Rejected):
            taken.rejected.append(row)
        else:
            yield row


def _warn_of_nulls(name: str, taken: Intake) -> None:
    if nulls := sum(c.nulls for c in taken.conversations if c.origin.source == name):
        log.warning("%s: %d null keys of tool arguments or schemas are left out: in an Arrow struct a null looks like "
                    "a key that is not there; to keep nulls, store arguments and tools as JSON text", name, nulls)
