"""Facts → which rows stay. Cheap, and a function of facts and settings alone."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sft_core.config.data import DataSection, TrainingSourceSection
from sft_core.config.duplicates import Compared, DuplicatesSection
from sft_core.config.scores import Bounds, Score
from sft_core.conversation import Rejected, Why
from sft_core.data.curate import contamination, duplicates, quality, scores
from sft_core.data.curate.contamination import Contamination
from sft_core.data.curate.decontaminate import Find
from sft_core.data.curate.kept import Kept
from sft_core.data.curate.language import UNDETERMINED, Languages
from sft_core.data.curate.measure import Fit, column_in, embeddings_in, facts_of, sketches_in
from sft_core.data.curate.pii import redact
from sft_core.data.curate.pii.finder import Finder
from sft_core.data.curate.pii.redact import PiiFacts
from sft_core.data.curate.quality import Quality
from sft_core.data.curate.scores import Grader, Reals
from sft_core.data.curate.way import LEAST_ROWS, Origins, Reasons, Twin, Way
from sft_core.data.provenance.manifest import Step
from sft_core.data.selection import Candidates, Embeddings, Signatures, Space, select
from sft_core.data.shards import shards_of
from sft_core.data.sources import name_of
from sft_core.data.workers import Workers

log = logging.getLogger("sft")
STARVED = 0.2
"""A source of which the selection leaves less than this part of the share that it leaves of all is told of."""


class Part(NamedTuple):
    """One source."""

    source: TrainingSourceSection
    read: Kept  # as it was read
    shards: Path  # with texts put right
    changed: Mapping[str, int]  # conversations that this changed, by kind
    put_right: int  # conversations that this changed
    facts: Mapping[str, Path]  # folders of facts about the shards by the name of the family

    @property
    def rows(self) -> int:
        """Conversations that were read."""
        return sum(pq.read_metadata(file).num_rows for file in shards_of(self.shards))


class Flawed(NamedTuple):
    """A row with a flaw, dropped or not."""

    row: int
    flaw: str
    detail: str


class Held(NamedTuple):
    """A piece of personal data or a secret."""

    row: int
    kind: str
    turn: int  # -1: of the tools or variables
    part: str
    shown: str  # the beginning, never the value


class Decided(NamedTuple):
    """Of all rows of all sources, one behind the other."""

    origins: Origins
    gone: Reasons
    steps: tuple[tuple[Step, ...], ...]  # of every source
    twins: tuple[Twin, ...]
    items: Mapping[int, Sequence[Find]]  # rows that stay and hold evaluation items
    languages: Sequence[str]  # of the answers of each row
    flaws: tuple[Flawed, ...]
    scores: Mapping[str, Reals]  # of each row by name, nan where it has none
    held: tuple[Held, ...]
    judged: Mapping[str, int] | None  # rows that a judge was asked about, and what came of it
    selection: Mapping[str, Any] | None  # what was selected, beside a random draw
    clusters: NDArray[np.int64] | None  # [rows], see duplicates.clusters; None where no row is like another


def decide(parts: Sequence[Part], data: DataSection, workers: Workers, grader: Grader | None = None) -> Decided:
    """Which rows go, and why. The steps in their order: quality, personal data, evaluation items, exact and near
    duplicates, what cannot be trained where rows are selected, scores of a model, grades of a judge, selection; what
    one step takes out, the next does not see, nor is the judge asked about it.

    Raises:
        EvalError: too many rows have no grade of the judge.
    """
    origins = Origins(file for part in parts for file in shards_of(part.shards))
    way = Way(origins, {name_of(part.source): part.rows for part in parts})
    flaws, quality_of, words = _quality(way, parts, data)
    held = _personal(way, parts, data)
    items = _contaminated(way, parts, data)
    for compared in data.duplicates.compared:
        _duplicates(way, parts, (data.duplicates, compared), workers)
    _fitting(way, parts, data)
    known = {"quality": np.array(quality_of or [math.nan] * len(origins)), **_of_model(way, parts, data)}
    judged = _judged(way, parts, data, (grader, held), known) if grader else None
    selection = _select(way, parts, data, (known, words)) if data.select else None
    return Decided(
        origins, way.gone, tuple(zip(*way.steps, strict=True)) or ((),) * len(parts), tuple(way.twins),
        {row: found for row, found in items.items() if row not in way.gone},
        [sys.intern(one.answer) for one in _facts(parts, "quality", Languages)] or [UNDETERMINED] * len(origins), flaws,
        known, held, judged, selection, _clusters(way, parts, data, workers))


def _contaminated(way: Way, parts: Sequence[Part], data: DataSection) -> dict[int, list[Find]]:
    """Evaluation items that rows hold, by row; takes out those that `data.decontaminate` says are to be dropped. Rows
    of held-out tasks do not train, and are items themselves."""
    items, reasons, section = {}, {}, data.decontaminate
    trains = [not data.holds_out(part.source) for part in parts]
    for row, found in enumerate(_facts(parts, "items", Contamination)):
        if not trains[way.source[row]]:
            continue
        if finds := contamination.counted(found, section):
            items[row] = finds
        if fault := contamination.fault(found, section):
            reasons[row] = fault
    if section.looks:
        way.step("evaluation items", section, reasons)
    return items


def _quality(way: Way, parts: Sequence[Part], data: DataSection
             ) -> tuple[tuple[Flawed, ...], list[float], list[int]]:
    """Flaws, scores and words of the answers of all rows; takes out those with a flaw that `data.quality.drop` names.
    """
    flaws, scored, words, reasons = [], [], [], {}
    for row, one in enumerate(_facts(parts, "quality", Quality)):
        flaws += [Flawed(row, found.flaw, found.detail) for found in quality.flaws(one, data.quality)]
        scored.append(quality.score(one, data.quality))
        words.append(one.answer_words)
        if data.quality.drop and (fault := quality.fault(one, data.quality)):
            reasons[row] = (Why(fault.flaw), fault.detail)
    if data.quality.drop:
        way.step("quality", data.quality, reasons)
    return tuple(flaws), scored, words


def _personal(way: Way, parts: Sequence[Part], data: DataSection) -> tuple[Held, ...]:
    """Personal data of all rows; takes out those that hold any where `data.pii.action` is drop."""
    held, reasons = [], {}
    for row, found in enumerate(_facts(parts, "personal", PiiFacts)):
        held += [Held(row, *each) for each in zip(found.kinds, found.turns, found.parts, found.shown, strict=True)]
        if fault := redact.fault(found, data.pii):
            reasons[row] = fault
    if data.pii.action in ("drop", "redact"):
        way.step("personal data", data.pii, reasons, {one.row for one in held} if data.pii.action == "redact" else ())
    return tuple(held)


def _fitting(way: Way, parts: Sequence[Part], data: DataSection) -> None:
    """Where rows are selected, take out those that cannot be trained: they would be chosen and then go. Under
    `too_long: fail` long ones are just not chosen."""
    reasons = {}
    for row, found in enumerate(_facts(parts, "fits", Fit)):
        if found.fault and not data.holds_out(parts[way.source[row]].source):
            why, detail = Why(found.fault), found.fault_detail
            if why is Why.TOO_LONG and data.too_long == "fail":
                why, detail = Why.NOT_SELECTED, f"it is too long to be chosen: {detail}"
            reasons[row] = (why, detail)
    if "fits" in parts[0].facts:
        way.step("length and template", {"max_tokens": data.max_tokens, "too_long": data.too_long}, reasons)


def _of_model(way: Way, parts: Sequence[Part], data: DataSection) -> dict[str, Reals]:
    """What a model measured of all rows; takes out those that `data.scores.keep` does not want."""
    if not (names := data.scores.measure):
        return {}
    nats, tokens = (_column(parts, "likelihood", name) for name in ("nats", "tokens"))
    found = {"perplexity": scores.perplexity(nats, tokens)}
    if "ifd" in names:
        found["ifd"] = scores.ifd(nats, _column(parts, "alone", "alone_nats"))
    if ends := {name: each for name, each in data.scores.keep.items() if name in found}:
        way.step("scores", {name: list(each) for name, each in ends.items()}, _beyond(ends, found))
    return found


def _judged(way: Way, parts: Sequence[Part], data: DataSection, knows: tuple[Grader, Sequence[Held]],
            known: dict[str, Reals]) -> Mapping[str, int]:
    """What a judge says of the rows that are still there; takes out those that `data.scores.keep` does not want, and
    where it names the judge those without a grade. `known` gets the grades."""
    grader, held = knows
    rows = np.flatnonzero(way.alive)
    shards = [file for part in parts for file in shards_of(part.shards)]
    asked = scores.conversations_in(shards, way.origins.starts, rows)
    if data.pii.action == "redact":  # no value leaves this machine that training would not see
        finder, personal = Finder(data.pii), {one.row for one in held}
        asked = ((row, redact.redact(one, finder)[0] if row in personal else one) for row, one in asked)
    found = scores.graded(grader, asked, len(rows))
    known["judge"] = np.full(len(way.alive), math.nan)
    for row, grade in found.items():
        known["judge"][row] = math.nan if grade.value is None else grade.value
    if ends := data.scores.keep.get("judge"):
        way.step("judge", {"judge": list(ends)}, _beyond({"judge": ends}, known) | {
            row: (Why.SCORE, f"no grade of the judge: {grade.why}") for row, grade in found.items()
            if grade.value is None})
    return scores.told(found.values())


def _beyond(ends: Mapping[Score, Bounds], known: Mapping[str, Reals]) -> dict[int, tuple[Why, str]]:
    """Rows whose scores are beyond these ends."""
    return {row: (Why.SCORE, detail) for name, each in ends.items()
            for row, detail in scores.outside(name, known[name], each)}


def _column(parts: Sequence[Part], family: str, name: str) -> Reals:
    return np.concatenate([column_in(part.facts[family], name) for part in parts])


def rejected_of(decided: Decided) -> Iterator[Rejected]:
    """The rows that go, in their order."""
    for row in sorted(decided.gone):
        why, detail = decided.gone[row]
        yield Rejected(why, detail, decided.origins[row])


def _facts(parts: Sequence[Part], family: str, kind: type[Any]) -> Iterator[Any]:
    """Facts of a family about all rows; none where it was not measured."""
    for part in parts:
        if family in part.facts:
            yield from facts_of(part.facts[family], kind)


def _duplicates(way: Way, parts: Sequence[Part], wanted: tuple[DuplicatesSection, Compared], workers: Workers
                ) -> None:
    section, compared = wanted
    if not (section.exact or section.near):
        return
    found = _sketches(parts, compared)
    order = _preferred(parts, found.letters(), section)
    said = f" of {compared}"
    if section.exact:
        twins = duplicates.exact(found.keys(), order[way.alive[order]])
        way.same(f"exact duplicates{said}", section, twins, Why.EXACT_DUPLICATE)
    if section.near:
        twins = duplicates.near(found, order, way.alive, section.threshold, workers)
        way.same(f"near duplicates{said}", section, twins, Why.NEAR_DUPLICATE)


def _select(way: Way, parts: Sequence[Part], data: DataSection, known: tuple[Mapping[str, Reals], list[int]]
            ) -> Mapping[str, Any]:
    """Take out what is not selected; says what was, beside a random draw of the same size. Rows of held-out tasks do
    not train, and are not chosen among."""
    section = data.select
    assert section is not None
    chosen_among = np.array([not data.holds_out(part.source) and (
        not section.sources or name_of(part.source) in section.sources) for part in parts])
    rows = np.flatnonzero(way.alive & chosen_among[way.source])
    if not len(rows):
        return {}
    sketches = [one for part in parts for one in sketches_in(part.facts["words"])]
    space: Space | None = None
    if section.diverse and section.embed:
        vectors = [embeddings_in(part.facts["embeddings"]).of for part in parts]
        space = Embeddings(np.concatenate(vectors)[rows])
    elif section.diverse:
        space = Signatures(np.concatenate([one.signatures for one in sketches])[rows])
    by_name, words = known
    places = np.concatenate([one.keys for one in sketches]).view(np.uint64).reshape(-1, 2)[:, 0]
    names = [name_of(part.source) for part in parts]
    found = select(Candidates(places[rows], [names[at] for at in way.source[rows]], np.array(words)[rows],
                              {name: one[rows] for name, one in by_name.items()}, space), section)
    gone = np.setdiff1d(rows, rows[found.chosen])
    by = by_name.get(section.by)
    way.step("selection", section, {row: (Why.NOT_SELECTED, f"others are before it by {section.by}" + (
        "" if by is None else f" ({by[row]:.4g})")) for row in gone.tolist()})
    _tell_starved(way, section.by, chosen_among.tolist())
    return found.to_dict()


def _tell_starved(way: Way, by: str, among: Sequence[bool]) -> None:
    """Of the selection: sources of which next to nothing is left, as scores of different kinds of text are no measure
    of each other."""
    steps = [(step, name) for step, name, is_there in zip(way.steps[-1], way.names, among, strict=True) if is_there]
    overall = sum(one.rows_out for one, _ in steps) / sum(one.rows_in for one, _ in steps)
    for step, name in steps:
        if step.rows_in >= LEAST_ROWS and step.rows_out < STARVED * overall * step.rows_in:
            log.warning("%s: the selection by %s leaves %d of %d rows, and %.0f %% of all: its answers differ in kind "
                        "(in length, say) from those of other sources. To keep it whole leave it out of "
                        "data.select.sources", name, by, step.rows_out, step.rows_in, 100 * overall)


def _sketches(parts: Sequence[Part], compared: Compared) -> duplicates.Gathered:
    return duplicates.gathered([file for part in parts for file in shards_of(part.facts[f"sketch_{compared}"])])


def _clusters(way: Way, parts: Sequence[Part], data: DataSection, workers: Workers) -> NDArray[np.int64] | None:
    """Near duplicates that stay, as no part of a cluster may be held out alone."""
    if data.duplicates.near or not data.validation_share:
        return None
    return duplicates.clusters(_sketches(parts, "conversations"), way.alive, data.duplicates.threshold, workers)


def _preferred(parts: Sequence[Part], letters: NDArray[np.int64], section: DuplicatesSection) -> NDArray[np.int64]:
    """The rows from the one that stays before all others on."""
    counts = [part.rows for part in parts]
    names = [name_of(part.source) for part in parts]
    rank = [section.prefer.index(name) if name in section.prefer else len(section.prefer) for name in names]
    age = [-part.source.date.toordinal() if part.source.date else 0 for part in parts]
    kept = {"first": np.zeros_like(letters), "longest": -letters, "newest": np.repeat(age, counts)}[section.keep]
    return np.lexsort((np.arange(len(letters)), kept, np.repeat(rank, counts)))
