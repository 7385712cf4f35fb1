"""A training source → conversations and rejected rows, one at a time; what each of its files was found to hold is said.

Held are the first rows of a file, by which its format is told, and never more.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, groupby, islice
from pathlib import Path

from sft_core.config.data import Repair, SourceSection, TrainingSourceSection
from sft_core.conversation import Conversation, Rejected, Row, Why
from sft_core.data.columns import IN_MESSAGE, Columns
from sft_core.data.formats import LOOKED_AT, format_of, to_conversation
from sft_core.data.phrasings import Halves, phrased_rows
from sft_core.data.sources import name_of, read_rows
from sft_core.data.trees import is_message, threads
from sft_core.errors import DataError
from sft_core.stopping import check

log = logging.getLogger("sft")
NO_VALIDATION = Halves(0.0, 0)
MESSAGE_KEYS = ("role", "content")
"""Of what `columns` maps, keys of messages."""
OPTIONAL = ("input", "system", "history", "tools", "chat_template_kwargs", "label")
"""Columns that few rows may have, and none of the first thousand."""


def tallied(rejected: Counter[str]) -> str:
    """Why rows are not used and how many, most first; empty where all are."""
    return ", ".join(f"{why} {number}" for why, number in rejected.most_common())


@dataclass
class Taken:
    """What was read of a source so far."""

    rows: int = 0
    formats: list[str] = field(default_factory=list)  # of its files, each once
    rejected: Counter[str] = field(default_factory=Counter)  # by reason
    conversations: int = 0
    nulls: int = 0
    unused: Counter[str] = field(default_factory=Counter)  # conversations of this file by columns that hold text
    of_file: int = 0  # conversations of this file
    unseen: set[str] = field(default_factory=set)  # columns that are mapped, and that no row had so far

    def note(self, found: Conversation | Rejected) -> None:
        """Count what a row became."""
        if isinstance(found, Rejected):
            self.rejected[str(found.why)] += 1
            return
        self.conversations += 1
        self.nulls += found.nulls
        self.of_file += 1
        self.unused.update(found.unused)


def take_in(source: SourceSection, taken: Taken, *, scratch: Path, mirror: Path | None, repair: Sequence[Repair] = (),
            halves: Halves = NO_VALIDATION) -> Iterator[Conversation | Rejected]:
    """What the rows of a source are, in order, one at a time; `taken` counts along.

    Args:
        scratch: folder for what `tiny:…` stands for.
        mirror: that which stands for the hub, or None.
        repair: as in `data.repair`.
        halves: where `shots` of the source asks for other rows, those of validation are not shown.

    Raises:
        DataError: the source cannot be read, holds no rows, or no conversations.
    """
    name = name_of(source)
    taken.unseen = {column for standard, column in source.columns.items() if standard not in MESSAGE_KEYS}
    rows = partial(read_rows, source, scratch=scratch, mirror=mirror)
    if isinstance(source, TrainingSourceSection) and source.phrasings:
        rows = partial(phrased_rows, rows, source, name, halves)
    for _, in_file in groupby(rows(), key=lambda row: row.origin.file):
        for found in _understand(in_file, source, taken, repair):
            taken.note(found)
            yield found
    if not taken.rows:
        raise DataError(f"{source.path} holds no rows; take it out of data.sources, or correct its path or split")
    _tell_unseen(source, name, taken)
    log.info("%s: %d rows read as %s%s", name, taken.rows, ", ".join(taken.formats),
             f"; {taken.rejected.total()} of them are not used: {tallied(taken.rejected)}" if taken.rejected else "")
    if taken.nulls:
        log.warning("%s: %d null keys of tool arguments or schemas are left out: in an Arrow struct a null looks like "
                    "a key that is not there; to keep nulls, store arguments and tools as JSON text", name, taken.nulls)


def _tell_unseen(source: SourceSection, name: str, taken: Taken) -> None:
    """Columns that are mapped, and rows that were read without them; rows that cannot be are told one by one."""
    for standard, column in source.columns.items():
        if column in taken.unseen and taken.conversations:
            said = f"{name}: columns maps {standard} to {column}, which none of its {taken.rows} rows has"
            if standard not in OPTIONAL:
                raise DataError(f"{said}; correct the name, or take it out of columns")
            log.warning("%s", said)


def _understand(rows: Iterator[Row | Rejected], source: SourceSection, taken: Taken, repair: Sequence[Repair]
                ) -> Iterator[Conversation | Rejected]:
    """What the rows of one file are."""
    if source.format == "text":
        raise DataError(f"{source.path} has format text and is no conversation; it belongs into train.replay.sources")
    taken.of_file, taken.unused = 0, Counter()
    aside: list[Rejected] = []
    good = _readable(rows, taken, aside)
    head = list(islice(good, LOOKED_AT))
    if head and source.format == "auto" and is_message(head[0]):
        good = _threads(chain(head, good), taken, aside)
        head = list(islice(good, LOOKED_AT))
        if not head:
            raise DataError(f"the trees of {source.path} hold no answer; give all of their messages in one file")
    yield from _emptied(aside)
    if not head:  # a limit can end a file inside its broken lines
        _note_format(taken, source.format)
        return
    form = format_of(head, source) if source.format == "auto" else source.format
    _note_format(taken, form)
    instructed = form == "alpaca" and any(_has_instruction(row, source) for row in head)
    for row in chain(head, good):
        found = to_conversation(row, form, source, repair)
        if instructed and not isinstance(found, Rejected) and not _has_instruction(row, source):
            found = Rejected(Why.MISSING_COLUMN, "no column instruction, which other rows of the file have", row.origin)
        yield found
        yield from _emptied(aside)
    yield from _emptied(aside)
    _tell_unused(head[0].origin.file, taken)


def _note_format(taken: Taken, form: str) -> None:
    if form not in taken.formats:
        taken.formats.append(form)


def _has_instruction(row: Row, source: SourceSection) -> bool:
    """An input alone is a question only in files without instructions; elsewhere the row has lost its own."""
    return Columns(row.data, source).has("instruction")


def _threads(rows: Iterator[Row], taken: Taken, aside: list[Rejected]) -> Iterator[Row]:
    """The threads of the trees of a file; the messages of one count as one row."""
    for found in threads(rows):
        if isinstance(found, Rejected):
            aside.append(found)
            continue
        thread, messages = found
        taken.rows -= messages - 1
        yield thread


def _tell_unused(file: str, taken: Taken) -> None:
    """Say once per file which columns and keys of messages hold text that goes nowhere, and in what share of rows."""
    if taken.unused:
        said = ", ".join(f"{name} ({number / taken.of_file:.0%} of rows)"
                         for name, number in taken.unused.most_common())
        inside = [name.startswith(IN_MESSAGE) for name in taken.unused]
        ways = ["map them (columns)"] * (not all(inside)) + ["rename thoughts to reasoning_content"] * any(inside)
        log.warning("%s: these columns hold text that is not used: %s; %s, or leave them aside on purpose "
                    "(ignore_columns: [%s])", file, said, ", ".join(ways), ", ".join(taken.unused))


def _readable(rows: Iterator[Row | Rejected], taken: Taken, aside: list[Rejected]) -> Iterator[Row]:
    """Rows that could be read; others are put aside."""
    for row in rows:
        check()
        taken.rows += 1
        if isinstance(row, Rejected):
            aside.append(row)
        else:
            if taken.unseen:
                taken.unseen.difference_update(row.data)
            yield row


def _emptied(aside: list[Rejected]) -> Iterator[Rejected]:
    """What was put aside, once."""
    yield from aside
    aside.clear()
