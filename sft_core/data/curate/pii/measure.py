"""How much of a labelled set is found, and how much else, per kind."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, get_args

from sft_core.config.pii import PiiKind
from sft_core.data.curate.pii.finder import Finder
from sft_core.data.curate.pii.texts import leaves

_MARK = re.compile(r"\[\[(\w+)\|(.*?)\]\]", re.DOTALL)
CUT = "¦"
"""Stands within made-up secrets of a labelled file, where a scanner would take the file for a leak; is left out."""


class Labelled(NamedTuple):
    """A text and what a finder should find in it: kind, start, end."""

    text: str
    marks: frozenset[tuple[str, int, int]]


class Score(NamedTuple):
    """Counts of one kind. A hit is one whose place is exactly that of a mark."""

    hits: int = 0
    missed: int = 0
    false: int = 0

    @property
    def precision(self) -> float | None:
        """Share of what was found that is marked; None where nothing was found."""
        return self.hits / (self.hits + self.false) if self.hits + self.false else None

    @property
    def recall(self) -> float | None:
        """Share of the marks that were found; None without marks."""
        return self.hits / (self.hits + self.missed) if self.hits + self.missed else None

    @property
    def f1(self) -> float | None:
        """Harmonic mean of the two; None where there is nothing to find and nothing found."""
        most = 2 * self.hits + self.missed + self.false
        return 2 * self.hits / most if most else None


def labelled(file: Path) -> Iterator[Labelled]:
    """The rows of a JSONL file whose `text` holds marks, `[[email|jane@mail.example]]`."""
    for line in file.read_text(encoding="utf-8").splitlines():
        yield marked(json.loads(line)["text"])


def marked(text: str) -> Labelled:
    """A text whose marks are taken out, and where they were."""
    pieces, marks, length, at = [], set(), 0, 0
    for found in _MARK.finditer(text):
        plain, value = text[at : found.start()].replace(CUT, ""), found[2].replace(CUT, "")
        marks.add((found[1], length + len(plain), length + len(plain) + len(value)))
        pieces += [plain, value]
        length, at = length + len(plain) + len(value), found.end()
    return Labelled("".join([*pieces, text[at:].replace(CUT, "")]), frozenset(marks))


def found_in(text: str, finder: Finder) -> frozenset[tuple[str, int, int]]:
    """What the finder finds, in the form of marks."""
    return frozenset((span.kind, *leaf.place(span.start, span.end))
                     for leaf in leaves(text) for span in finder.find(leaf.value, leaf.before))


def measure(rows: Iterable[Labelled], finder: Finder) -> dict[PiiKind, Score]:
    """Scores of all kinds; hard negatives are the rows without marks."""
    counts: Counter[tuple[str, str]] = Counter()
    for row in rows:
        found = found_in(row.text, finder)
        for name, marks in (("hits", found & row.marks), ("missed", row.marks - found), ("false", found - row.marks)):
            counts.update((kind, name) for kind, _, _ in marks)
    return {kind: Score(**{name: counts[kind, name] for name in Score._fields}) for kind in get_args(PiiKind)}
