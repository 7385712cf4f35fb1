"""People as judges: blinded sheets, and their labels as results.

Which model is A is drawn per item by a hash of the sheet and the item's id, so that the sheet tells nobody and the
import needs nothing but the same two results.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import jinja2

from eval_suites.judge.gold import Agreement, agreement, shown_agreement
from eval_suites.judge.pairwise import WORTH, Pair, PairOutcome, as_results, lengths
from eval_suites.judge.replies import Choice
from eval_suites.judge.talk import Talk, talk_of
from eval_suites.results import SuiteResult
from eval_suites.statistics.pairing import both_asked
from sft_core.errors import EvalError
from sft_core.stage import fingerprint

COLUMNS = ("sheet", "id", "question", "answer_a", "answer_b", "label")
LABELS: Mapping[str, Choice] = {"a": "A", "b": "B", "tie": "tie", "c": "tie"}
TOLD = 10
"""Wrong rows of one kind, and kinds, that are named."""
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""A spreadsheet runs what begins like this; answers are not to be trusted."""


class Shown(NamedTuple):
    """One pair on a sheet."""

    item_id: str
    question: str
    a: str
    b: str
    tuned_is_a: bool
    pair: Pair


class Sheet(NamedTuple):
    """A sheet; `name` is a hash of all that it shows."""

    name: str
    rows: list[Shown]


def sheet_of(base: SuiteResult, tuned: SuiteResult, seed: int = 0) -> Sheet:
    """All pairs that both models answered, in random order.

    Raises:
        EvalError: the two were not asked the same, or there is no pair.
    """
    found: list[tuple[str, Pair]] = []
    for one, two in both_asked(base, tuned):
        before, after = talk_of(one), talk_of(two)
        if isinstance(before, Talk) and isinstance(after, Talk):
            found.append((one.item_id, (before, after)))
    if not found:
        raise EvalError(f"no item of suite {base.suite} was answered by both models; there is nothing to label")
    name = fingerprint(seed, base.suite, found)
    drawn = sorted(found, key=lambda row: _draw(name, "place", row[0]))
    return Sheet(name, [_shown(name, item_id, pair) for item_id, pair in drawn])


def as_csv(sheet: Sheet) -> str:
    """The sheet for a spreadsheet; column `label` is to be filled with A, B or tie."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in sheet.rows:
        writer.writerow([sheet.name, row.item_id, _inert(row.question), _inert(row.a), _inert(row.b), ""])
    return out.getvalue()


def as_html(sheet: Sheet) -> str:
    """The sheet as one page that works offline, keeps labels in the browser and saves them as CSV."""
    room = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True,
                              undefined=jinja2.StrictUndefined)
    return room.get_template("sheet.html.jinja").render(name=sheet.name, rows=sheet.rows)


def read_labels(text: str, sheet: Sheet, source: object) -> dict[str, Choice]:
    """One person's labels by item id. Rows without a label are left out: those pairs are unscored.

    Raises:
        EvalError: columns are missing, or rows are of another sheet, unknown, twice there or have no such label. All
            of them are named.
    """
    rows = csv.DictReader(io.StringIO(text.removeprefix("\ufeff")))
    if missing := {"sheet", "id", "label"} - set(rows.fieldnames or ()):
        raise EvalError(f"{source} lacks the columns {', '.join(sorted(missing))}; give the CSV that was exported, or "
                        "the one that the page saved")
    known, found, wrong = {row.item_id for row in sheet.rows}, dict[str, Choice](), dict[str, list[str]]()
    for number, row in enumerate(rows, 1):
        said, item_id = (row["label"] or "").strip().lower(), row["id"]
        if problem := _problem(row, sheet.name, known, found):
            wrong.setdefault(problem, []).append(str(number))
        elif said:
            found[item_id] = LABELS[said]
    if wrong:
        told = [f"row{'s' * (len(at) > 1)} {', '.join(at[:TOLD])}{', …' * (len(at) > TOLD)}: {problem}"
                for problem, at in list(wrong.items())[:TOLD]]
        raise EvalError(f"{source} has {sum(map(len, wrong.values()))} wrong rows: {'; '.join(told)}")
    if not found:
        raise EvalError(f"{source} has no label; fill the column `label` with A, B or tie")
    return found


def _problem(row: Mapping[str, str | None], sheet: str, known: set[str], found: Mapping[str, Choice]) -> str:
    item_id, said = row["id"] or "", (row["label"] or "").strip().lower()
    if row["sheet"] != sheet:
        return f"it is of sheet {row['sheet']!r}, not {sheet!r}: other models, answers or seed"
    if item_id not in known:
        return f"the id {item_id!r} is unknown"
    if item_id in found:
        return f"the id {item_id!r} is labelled twice"
    return f"the label {row['label']!r} is none of A, B, tie" if said and said not in LABELS else ""


def label_results(base: SuiteResult, tuned: SuiteResult, sheet: Sheet, raters: Sequence[Mapping[str, Choice]]
                  ) -> tuple[SuiteResult, SuiteResult]:
    """People's labels as results of `NAME:pairwise`: what a pair is worth is the mean over its raters."""
    by_pair = {fingerprint(row.pair): row for row in sheet.rows}

    def decide(pairs: Sequence[Pair]) -> list[PairOutcome]:
        return [_outcome(pair, by_pair[fingerprint(pair)], raters) for pair in pairs]

    return as_results(base, tuned, f"people {sheet.name}", decide)


class Raters(NamedTuple):
    """Two people, and how far they agree on what both labelled of a suite's sheet."""

    suite: str
    first: str
    second: str
    agreement: Agreement

    def row(self) -> dict[str, object]:
        """As a row of a table."""
        return {"suite": self.suite, "raters": f"{self.first}, {self.second}",
                "agreement": shown_agreement(self.agreement)}


def between_raters(suite: str, raters: Mapping[str, Mapping[str, Choice]]) -> list[Raters]:
    """Every two of these people (name → labels by item id); none for one."""
    return [Raters(suite, *names, agreement([(raters[names[0]][i], raters[names[1]][i])
                                             for i in sorted(set(raters[names[0]]) & set(raters[names[1]]))]))
            for names in combinations(raters, 2)]


def _outcome(pair: Pair, row: Shown, raters: Sequence[Mapping[str, Choice]]) -> PairOutcome:
    said = Counter(one[row.item_id] for one in raters if row.item_id in one)
    if not said:
        return PairOutcome(None, {}, "nobody has labelled it")
    worth_a = sum(WORTH[choice] * count for choice, count in said.items()) / said.total()
    worth = worth_a if row.tuned_is_a else 1.0 - worth_a
    return PairOutcome(worth, lengths(*pair) | {"tie": float(worth == 0.5), "raters": float(said.total())},
                   f"{dict(said)}, A is {'tuned' if row.tuned_is_a else 'base'}")


def _shown(sheet: str, item_id: str, pair: Pair) -> Shown:
    base, tuned = pair
    tuned_is_a = _draw(sheet, "side", item_id)[0] % 2 == 0
    first, second = (tuned, base) if tuned_is_a else (base, tuned)
    return Shown(item_id, _turns(base.questions), _turns(first.answers), _turns(second.answers), tuned_is_a, pair)


def _turns(texts: Sequence[str]) -> str:
    return texts[0] if len(texts) == 1 else "\n\n".join(f"[turn {n}]\n{text}" for n, text in enumerate(texts, 1))


def _draw(sheet: str, what: str, item_id: str) -> bytes:
    return hashlib.sha256(f"{sheet}:{what}:{item_id}".encode()).digest()


def _inert(text: str) -> str:
    return f"'{text}" if text.startswith(FORMULA) else text
