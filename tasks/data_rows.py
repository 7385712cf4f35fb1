"""Rows of a curation for a person: what is said of each, and what stands there, with what is personal in it masked."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from eval_suites.verdict.flips import Piece, word_diff
from sft_core.config.experiment import ExperimentConfig
from sft_core.conversation import Origin
from sft_core.data.curate.look import KIND, Looked, Mask, conversations_at, origin_of
from sft_core.visible import visible
from tasks.curate import Curation
from tasks.show import held_rows
from tasks.stages import Workspace

GONE = "what stands there is not here any more; `sft data check` of the configuration reads it again"


VIEWS = tuple(KIND)


SIDES = {"duplicates": ("goes", "stays"), "changes": ("before", "after")}
"""What two texts side by side are."""


class Wish(NamedTuple):
    """Which rows of which view."""

    view: str
    first: int = 0
    most: int = 20
    source: str | None = None
    kind: str | None = None


class Told(NamedTuple):
    """One row: where, of which kind, what is said of it, and its texts; two of them side by side where there are."""

    origin: Origin
    kind: str
    said: str
    texts: tuple[str, ...]
    names: tuple[str, ...] = ("",)  # of the texts

    @property
    def place(self) -> str:
        """Where, without the folders of this machine."""
        return in_short(self.origin)

    def sides(self) -> tuple[Sequence[Piece], ...]:
        """The texts in pieces; of two what is the same in both is told from what is not."""
        if len(self.texts) == 2:
            return word_diff(*self.texts)
        return tuple((Piece(text, same=True),) for text in self.texts)


class Texts:
    """Reads what stands at rows of a curation."""

    def __init__(self, config: ExperimentConfig, curated: Curation, place: Workspace, longest: int) -> None:
        """`longest`: characters of one text."""
        self._config, self._place, self._longest = config, place, longest
        self.shards = curated.shards
        self._mask = Mask(config.data.pii)

    def told(self, view: str, rows: Sequence[Mapping[str, Any]]) -> list[Told]:
        """Rows of a view with what stands there."""
        if view == "changes":
            return [Told(origin_of(row), row["kind"], row["where"], tuple(
                self._cut(self._mask.text(row[side])) for side in SIDES[view]), SIDES[view]) for row in rows]
        wanted = {origin_of(row) for row in rows}
        if view == "duplicates":
            wanted |= {origin_of(row, "of_") for row in rows}
        texts = self._texts(wanted)
        return [self._one(view, row, texts) for row in rows]

    def _one(self, view: str, row: Mapping[str, Any], texts: Mapping[Origin, str]) -> Told:
        origins = [origin_of(row), *([origin_of(row, "of_")] if view == "duplicates" else [])]
        at = f"[{row['kind'].upper()}_" if view == "personal" else ""
        there = origins if view != "rejected" or origins[0] in texts else []  # a row that no reader took has no text
        return Told(origins[0], row["kind"], said_of(view, row), tuple(
            self._cut(texts.get(one, GONE), at) for one in there), SIDES.get(view, ("",))[: len(there)])

    def _texts(self, wanted: Collection[Origin]) -> dict[Origin, str]:
        found = {origin: self._mask.conversation(one)
                 for origin, one in conversations_at(self.shards, wanted).items()}
        left = {origin for origin in wanted if origin not in found}  # rows that never were conversations
        raw = held_rows(left, self._config, self._place)
        return found | {origin: self._mask.text(text) for origin, text in raw.items()}

    def _cut(self, text: str, around: str = "") -> str:
        """Of a long text its beginning and its end, or what is around the first of something."""
        if len(text) <= self._longest:
            return visible(text)
        many = f"… ({len(text):,} characters)"
        if around and (at := text.find(around)) >= 0:
            first = max(0, at - self._longest // 2)
            return f"{'… ' * (first > 0)}{visible(text[first : first + self._longest])}{many}"
        end = self._longest // 3
        return f"{visible(text[: self._longest - end])}{many} … {visible(text[-end:])}"


def in_short(origin: Origin) -> str:
    """Where a row stands, without the folders of this machine."""
    return str(origin._replace(file=Path(origin.file).name))


def said_of(view: str, row: Mapping[str, Any]) -> str:
    """What is said of a row in words."""
    if view == "duplicates":
        like = "the same as" if row["kind"] == "exact" else f"{row['similarity']:.2f} like"
        of = origin_of(row, "of_")
        return f"{like} {of.source}, {in_short(of)}, which stays"
    if view == "personal":
        part = "" if row["part"] == "content" else f", {row['part']}"
        where = f"turn {row['turn'] + 1}{part}" if row["turn"] >= 0 else row["part"]
        return f"{row['shown']} in {where}"
    return str(row["detail"])


class Page(NamedTuple):
    """Finds as they are asked for, how many there are of them in all, and in how many rows."""

    told: list[Told]
    total: int
    rows: int

    def __str__(self) -> str:
        """How many of how many are here."""
        return f"{len(self.told)} of {of_rows(self.total, self.rows)}"


def of_rows(finds: int, rows: int) -> str:
    """So many rows; where a row has several finds, so many of these in so many rows."""
    return f"{rows:,} row{'s' * (rows != 1)}" if finds == rows else \
        f"{finds:,} finds in {rows:,} row{'s' * (rows != 1)}"


def listed(wish: Wish, folder: Path, texts: Texts) -> Page:
    """A page of a view.

    Args:
        folder: of the curated conversations; for rejected rows also that of the prepared ones, finished or failed.

    Raises:
        ConfigError: there is no such source or kind among them.
    """
    looked = Looked(wish.view, folder, texts.shards).only(wish.source, wish.kind)
    page = looked.page(wish.first, wish.most)
    return Page(texts.told(wish.view, page.finds), page.total, page.rows)


class Kind(NamedTuple):
    """Finds of one kind: how many there are in how many rows, and some of them."""

    name: str
    finds: int
    rows: int
    some: list[Told]

    @property
    def many(self) -> str:
        """How many in words."""
        return of_rows(self.finds, self.rows)


def examples(view: str, folder: Path, texts: Texts, few: tuple[int, int], seed: int) -> Iterator[Kind]:
    """Some finds of the kinds of a view, drawn by a seed, the most frequent kind first.

    Args:
        few: how many kinds have examples, and how many each.
    """
    looked, (most, each) = Looked(view, folder, texts.shards), few
    drawn = {kind: looked.sample(kind, each if at < most else 0, seed) for at, kind in enumerate(looked.counts())}
    together = iter(texts.told(view, [row for rows in drawn.values() for row in rows]))
    for kind, count in looked.counts().items():
        yield Kind(kind, count, looked.rows(kind), list(islice(together, len(drawn[kind]))))
