"""The judge against people: pairs with a human judgement, and how often the judge says the same.

A row of a gold set: {"id", "questions": [...], "a": [...], "b": [...], "label": "A" | "B" | "tie"}, the answers one a
turn. `gold.jsonl` is the project's own, of pairs whose better answer is plain: a check that a judge works at all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np

from eval_suites.judge.calibrate import kappa
from eval_suites.judge.pairwise import PairOutcome, judged
from eval_suites.judge.replies import Choice
from eval_suites.judge.talk import Judge, Talk
from eval_suites.statistics.intervals import Interval
from eval_suites.suites.chat_item import parse_lines
from sft_core.errors import EvalError

OWN = Path(__file__).parent / "gold.jsonl"
DRAWS = 2_000


class Gold(NamedTuple):
    """A pair and what people say of it."""

    item_id: str
    a: Talk
    b: Talk
    label: Choice


class Agreement(NamedTuple):
    """`accuracy`: share of equal labels; `kappa`: Cohen's, with a bootstrap interval.

    `unscored` pairs are in neither."""

    accuracy: float | None
    kappa: Interval
    pairs: int
    unscored: int


def read_gold(file: Path) -> list[Gold]:
    """The rows of a gold set.

    Raises:
        EvalError: it cannot be read, a row is not valid, or there is none.
    """
    try:
        rows = parse_lines(file.read_text(encoding="utf-8"), file)
    except (OSError, UnicodeDecodeError) as error:
        raise EvalError(f"the gold set {file} cannot be read: {error}") from error
    if not rows:
        raise EvalError(f"the gold set {file} is empty")
    return [_gold(where, row) for where, row in rows]


def _gold(where: str, row: Any) -> Gold:
    texts = [row.get(key) for key in ("questions", "a", "b")] if isinstance(row, dict) else [None]
    listed = all(isinstance(one, list) and one and all(isinstance(text, str) for text in one) for one in texts)
    if not listed or row.get("label") not in get_args(Choice) or not isinstance(row.get("id"), str):
        raise EvalError(f'{where} is no gold pair; a row is {{"id": text, "questions": [texts], "a": [texts], '
                        '"b": [texts], "label": "A", "B" or "tie"}')
    return Gold(row["id"], Talk(row["questions"], row["a"], []), Talk(row["questions"], row["b"], []), row["label"])


def against_people(gold: Sequence[Gold], judge: Judge) -> Agreement:
    """The judge's verdicts, both orders, against the labels."""
    outcomes = judged([(one.b, one.a) for one in gold], judge)
    return agreement([(one.label, _label(outcome)) for one, outcome in zip(gold, outcomes, strict=True)
                      if outcome.worth is not None], sum(outcome.worth is None for outcome in outcomes))


def _label(outcome: PairOutcome) -> Choice:
    worth = outcome.worth if outcome.worth is not None else 0.5
    return "A" if worth > 0.5 else "B" if worth < 0.5 else "tie"


def agreement(pairs: Sequence[tuple[str, str]], unscored: int = 0, alpha: float = 0.05) -> Agreement:
    """Two raters' labels of the same things."""
    if not pairs:
        return Agreement(None, Interval(None, -1.0, 1.0, 0, "no pairs"), 0, unscored)
    accuracy, found = kappa(Counter(pairs))
    names = sorted({label for pair in pairs for label in pair})
    codes = np.array([[names.index(one), names.index(two)] for one, two in pairs])
    drawn = codes[np.random.default_rng(0).integers(len(pairs), size=(DRAWS, len(pairs)))]
    same = (drawn[..., 0] == drawn[..., 1]).mean(axis=1)
    chance = sum((drawn[..., 0] == k).mean(axis=1) * (drawn[..., 1] == k).mean(axis=1) for k in range(len(names)))
    values = np.where(chance < 1, (same - chance) / np.maximum(1 - chance, 1e-12), np.where(same == 1, 1.0, 0.0))
    low, high = np.quantile(values, [alpha / 2, 1 - alpha / 2])
    return Agreement(accuracy, Interval(found, float(low), float(high), len(pairs), "bootstrap"), len(pairs), unscored)
