"""The shape of Markdown: tables, headings, citation markers. Nothing but what was asked for may stand around it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from eval_suites.scorers.base import Expect, Score
from eval_suites.scorers.shape import split_sentences

CELL_BORDER = re.compile(r"(?<!\\)\|")
RULE = re.compile(r":?-+:?")
HEADING = re.compile(r"(#{1,6})\s+(.*?)\s*#*")
CITATION = re.compile(r"\[(\d{1,4})\](?!\()")
FENCE = ("```", "~~~")


def score_table(expect: Expect, answer: str) -> Score:
    """One table with exactly the columns `columns` (any case) and `rows` rows; `cells` must be among its cells.

    `partial`: the share of these that hold: it is a table, its columns, its number of rows, each of the cells.
    """
    rows, problem = _table(answer)
    wanted = [_text(name) for name in expect["columns"]]
    columns = bool(rows) and [_text(name) for name in rows[0]] == wanted
    count = bool(rows) and len(rows) - 1 == expect["rows"]
    inside = {_text(cell) for row in rows[1:] for cell in row}
    cells = [_text(cell) in inside for cell in expect.get("cells", ())]
    checks = [not problem, columns, count, *cells]
    why = problem or ("" if columns else f"columns are {', '.join(rows[0])}") or \
        ("" if count else f"{len(rows) - 1} rows") or ("" if all(cells) else "a cell is missing")
    metrics = {"form": float(not problem and columns and count), "partial": sum(checks) / len(checks)}
    if cells:
        metrics["value"] = float(all(cells))
    return Score(float(all(checks)), metrics, why)


def _table(answer: str) -> tuple[list[list[str]], str]:
    """Header and rows of an answer that is one table, and what keeps it from being one."""
    lines = [line.strip() for line in answer.strip().splitlines() if line.strip()]
    outside = [line for line in lines if "|" not in line]
    rows = [[cell.strip() for cell in CELL_BORDER.split(line.removeprefix("|").removesuffix("|"))]
            for line in lines if "|" in line]
    if len(rows) < 2 or not all(RULE.fullmatch(cell) for cell in rows[1]):
        return [], "no table: a header row, a row of dashes, rows"
    header, rule, *body = rows
    if outside:
        return [header, *body], "text around the table"
    if any(len(row) != len(header) for row in (rule, *body)):
        return [header, *body], "rows of different length"
    return [header, *body], ""


def _text(cell: str) -> str:
    return cell.strip(" *_`").casefold()


def score_headings(expect: Expect, answer: str) -> Score:
    """Exactly the headings `headings` ([level, text], any case) in this order, each with text under it, none before.

    `partial`: the share of the headings that are there at their level.
    """
    found: list[tuple[int, str]] = []
    filled: list[bool] = []
    before = code = False
    for line in (one.strip() for one in answer.splitlines()):
        code ^= line.startswith(FENCE)
        if not code and (heading := HEADING.fullmatch(line)):
            found.append((len(heading.group(1)), _text(heading.group(2))))
            filled.append(False)
        elif line and filled:
            filled[-1] = True
        elif line:
            before = True
    wanted = [(int(level), _text(text)) for level, text in expect["headings"]]
    nested = [level for level, _ in wanted[1:]] + [0]
    empty = [text for (level, text), below, full in zip(wanted, nested, filled, strict=False)
             if not full and below <= level]
    problem = "other headings" if found != wanted else "text before the headings" if before else \
        f"nothing under {empty[0]!r}" if empty else ""
    partial = sum(one in found for one in wanted) / len(wanted)
    return Score(float(not problem), {"form": float(found == wanted), "partial": partial}, problem)


def score_citations(expect: Expect, answer: str) -> Score:
    """Words with markers like [2]: all of `required`, none outside `allowed`; with `each_sentence` one in each.

    A marker behind the full stop belongs to the sentence that it follows. `partial`: required and cited numbers
    (those that are both, over those that are either), times the share of sentences with a marker where each needs one.
    """
    cited = {int(number) for number in CITATION.findall(answer)}
    required, allowed = set(expect["required"]), set(expect["allowed"])
    bare = _without_marker(answer) if expect.get("each_sentence") else []
    problem = f"without {_markers(required - cited)}" if required - cited else \
        f"cites {_markers(cited - allowed)}" if cited - allowed else \
        f"{len(bare)} sentences without a marker" if bare else "no marker" if not cited else \
        "" if any(map(str.isalnum, CITATION.sub("", answer))) else "nothing but markers"
    counted = required | (cited - allowed)
    overlap = len(required & cited) / len(counted) if counted else float(bool(cited))
    sentences = len(split_sentences(CITATION.sub("", answer))) if bare else 1
    share = 1.0 - len(bare) / max(sentences, len(bare)) if bare else 1.0
    form = float(bool(cited) and cited <= allowed)
    return Score(float(not problem), {"form": form, "partial": overlap * share}, problem)


def _markers(numbers: set[int]) -> str:
    return " ".join(f"[{number}]" for number in sorted(numbers))


def _without_marker(answer: str) -> Sequence[str]:
    """Sentences without a marker, those behind the full stop counted to the sentence before."""
    moved = re.sub(r"([.!?])((?:\s*\[\d{1,4}\])+)", r"\2\1", answer)
    return [one for one in split_sentences(moved) if not CITATION.search(one)]
