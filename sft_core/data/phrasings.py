"""Rows of plain NLP data → rows of messages (FLAN, Wei et al. 2021): a phrasing for each row, chosen by its content,
and before it some answered rows of the same file.

The answered rows stand in turns of their own that are not trained. The split looks at the first question that is, so
the side of a row is known before others are shown in it, and only rows of the training half are shown. Near duplicates
that the split keeps together are not known yet: one row of such a cluster may be shown that then is held out with it.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import string
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, groupby, islice
from typing import Any, NamedTuple

from sft_core.config.phrasing import PhrasingSection, SourcePhrasingSection, written
from sft_core.conversation import Rejected, Row, Why
from sft_core.data.formats import LOOKED_AT
from sft_core.data.holdout import place_of_text
from sft_core.errors import DataError
from sft_core.stopping import check

POOL = 64
"""Rows of a file that may be shown in others: those with the lowest numbers by content, wherever they stand."""


class Worded(NamedTuple):
    """What phrasings need of a row."""

    number: int  # by content: chooses the phrasing, and which rows are shown
    values: tuple[str, ...]  # of section.named

    def phrasing(self, section: SourcePhrasingSection) -> PhrasingSection:
        """The one that its content chooses."""
        return section.phrasings[self.number % len(section.phrasings)]

    def filled(self, text: str, section: SourcePhrasingSection) -> str:
        """A text with its values in the place of columns."""
        values = dict(zip(section.named, self.values, strict=True))
        return "".join(before + (values[name] if name is not None else "")
                       for before, name, _, _ in string.Formatter().parse(text))


class Missing(NamedTuple):
    """Why a row cannot be phrased."""

    why: Why
    detail: str


class Halves(NamedTuple):
    """What decides on the side of a row: `data.validation_share`, and the seed of the split."""

    validation_share: float
    seed: int


def phrased_rows(read: Callable[[], Iterator[Row | Rejected]], section: SourcePhrasingSection, source: str,
                 halves: Halves) -> Iterator[Row | Rejected]:
    """All rows of a source as chats, in their order; where `shots` asks for other rows, read twice.

    Args:
        read: its rows, file by file.
        source: its name, for errors.
        halves: which rows are not shown; nothing else hangs on it, and without `shots` nothing does.

    Raises:
        DataError: a phrasing names a column that the first rows of a file do not have.
    """
    shown: dict[str, tuple[Worded, ...]] = {}
    if section.shots:
        rows = (row for row in read() if isinstance(row, Row))
        shown = {file: pool(in_file, section, halves) for file, in_file in groupby(rows, key=_file)}
    for file, in_file in groupby(read(), key=_file):
        head = list(islice(in_file, LOOKED_AT))
        check_columns(section, source, [row for row in head if isinstance(row, Row)])
        for row in chain(head, in_file):
            check()
            yield to_messages(row, section, shown.get(file, ())) if isinstance(row, Row) else row


def check_columns(section: SourcePhrasingSection, source: str, rows: Sequence[Row]) -> None:
    """Look at the first rows of a file; of none nothing is known.

    Raises:
        DataError: a phrasing names a column that none of them has.
    """
    there = dict.fromkeys(name for row in rows for name in row.data)
    if rows and (gone := [name for name in section.named if name not in there]):
        raise DataError(f"a phrasing of {source} names the column {gone[0]}, and its rows have {', '.join(there)}; "
                        "correct data.sources.phrasings")


def worded(row: Row, section: SourcePhrasingSection) -> Worded | Missing:
    """One row. Pure: the same whatever other rows there are."""
    values: list[str] = []
    for name in section.named:
        found = _text(row.data.get(name), section.labels.get(name))
        if found is None:
            return _missing(row, name, section)
        values.append(found)
    content = json.dumps(values, ensure_ascii=False).encode("utf-8", "surrogatepass")
    number = int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big")
    return Worded(number, tuple(values))


def pool(rows: Iterable[Row], section: SourcePhrasingSection, halves: Halves) -> tuple[Worded, ...]:
    """Rows of one file that may be shown in others: of the training half alone. Reads all rows, and keeps few."""

    def shown() -> Iterable[Worded]:
        for row in rows:
            check()
            one = worded(row, section)
            if isinstance(one, Worded) and not _held_out(one, section, halves):
                yield one

    return tuple(dict.fromkeys(heapq.nsmallest(POOL, shown())))


def to_messages(row: Row, section: SourcePhrasingSection, shown: Sequence[Worded] = ()) -> Row | Rejected:
    """A row as a chat: some of those shown, which are context, then its own question and answer, all in its phrasing.

    Args:
        shown: as `pool` gives them; needed where `shots` asks for them. Those of this row's own content are left out;
            of a file with too few rows there are fewer.
    """
    own = worded(row, section)
    if isinstance(own, Missing):
        return Rejected(own.why, own.detail, row.origin)
    others = heapq.nsmallest(section.shots, (one for one in shown if one.number != own.number),
                             key=lambda one: _between(own, one))
    phrasing = own.phrasing(section)
    messages: list[dict[str, Any]] = []
    for one in (*others, own):
        messages += [{"role": "user", "content": one.filled(phrasing.prompt, section)},
                     {"role": "assistant", "content": one.filled(phrasing.answer, section)}
                     | ({} if one is own else {"weight": 0})]
    return Row(row.origin, {"messages": messages})


def _missing(row: Row, name: str, section: SourcePhrasingSection) -> Missing:
    value = row.data.get(name)
    if value is None:
        return Missing(Why.MISSING_COLUMN, f"no {name}, which a phrasing names")
    if name in section.labels and not isinstance(value, list | tuple | dict):
        return Missing(Why.UNKNOWN_LABEL, f"{name} is {str(value)[:40]}, which labels does not name; it names "
                                          f"{', '.join(section.labels[name])}")
    return Missing(Why.WRONG_TYPE, f"{name} is a {type(value).__name__}; a phrasing takes text, numbers and lists of "
                                    "them")


def _text(value: object, labels: Mapping[str, str] | None) -> str | None:
    """None where it cannot be said in words."""
    if isinstance(value, list | tuple):
        parts = [_text(one, labels) for one in value]
        return ", ".join(one for one in parts if one is not None) if parts and None not in parts else None
    said = written(value)
    if not isinstance(said, str):
        return None
    return said if labels is None else labels.get(said)


def _file(row: Row | Rejected) -> str:
    return row.origin.file


def _held_out(one: Worded, section: SourcePhrasingSection, halves: Halves) -> bool:
    question = one.filled(one.phrasing(section).prompt, section)
    return place_of_text(question, halves.seed).at < halves.validation_share


def _between(own: Worded, other: Worded) -> bytes:
    """A number of the pair: which rows are shown does not hang on the others that could be."""
    return hashlib.blake2b(f"{own.number}/{other.number}".encode(), digest_size=8).digest()
