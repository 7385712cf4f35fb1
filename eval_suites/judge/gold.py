"""The judge against people: pairs with a human judgement, and how often the judge says the same.

A row of a gold set: {"id", "questions": [...], "a": [...], "b": [...], "label": "A" | "B" | "tie"}, the answers one a
turn. `gold.jsonl` is the project's own, of pairs whose better answer is plain: a check that a judge works at all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

from eval_suites.judge.calibrate import kappa, kappa_limits
from eval_suites.judge.pairwise import PairOutcome, judged
from eval_suites.judge.replies import Choice
from eval_suites.judge.talk import Judge, Talk
from eval_suites.results import enough
from eval_suites.statistics.intervals import Interval, clopper_pearson
from eval_suites.suites.chat_item import parse_lines
from sft_core.errors import EvalError

OWN = Path(__file__).parent / "gold.jsonl"


class Gold(NamedTuple):
    """A pair and what people say of it."""

    item_id: str
    a: Talk
    b: Talk
    label: Choice


class Agreement(NamedTuple):
    """`accuracy`: share of equal labels; `kappa`: Cohen's; both with intervals that hold for few pairs.

    `unscored` pairs are in neither."""

    accuracy: Interval
    kappa: Interval
    pairs: int
    unscored: int

    @property
    def doubt(self) -> str:
        """Why verdicts of such a rater say nothing; '' where it agrees better than chance, or nothing was measured."""
        if self.kappa.estimate is None or self.kappa.low > 0:
            return ""
        return (f"this judge is not shown to agree with the gold set better than chance (κ {self.kappa.estimate:.2f}, "
                f"{self.kappa.low:.2f} to {self.kappa.high:.2f}); its rates say nothing: take another judge")


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


def against_people(gold: Sequence[Gold], judge: Judge, least: float) -> Agreement:
    """The judge's verdicts, both orders, against the labels; `least`: share of the pairs that it must have judged."""
    outcomes = judged([(one.b, one.a) for one in gold], judge)
    return agreement([(one.label, _label(outcome)) for one, outcome in zip(gold, outcomes, strict=True)
                      if outcome.worth is not None], sum(outcome.worth is None for outcome in outcomes), least)


def _label(outcome: PairOutcome) -> Choice:
    worth = outcome.worth if outcome.worth is not None else 0.5
    return "A" if worth > 0.5 else "B" if worth < 0.5 else "tie"


def agreement(pairs: Sequence[tuple[str, str]], unscored: int = 0, least: float = 0.0, alpha: float = 0.05
              ) -> Agreement:
    """Two raters' labels of the same things; both numbers have no estimate where less than the share `least` of all
    has both labels."""
    n = len(pairs)
    if not n or not enough(n, n + unscored, least):
        nothing = f"not measured: {n} of {n + unscored} pairs have both labels"
        return Agreement(Interval(None, 0.0, 1.0, n, nothing), Interval(None, -1.0, 1.0, n, nothing), n, unscored)
    counts = Counter(pairs)
    same, found = kappa(counts)
    exact = clopper_pearson(same * n, n, alpha)
    limits = kappa_limits(counts, {*get_args(Choice), *(label for pair in pairs for label in pair)}, alpha)
    return Agreement(Interval(same, *exact, n, "exact"),
                     Interval(found, *limits, n, "exact limits of the agreement"), n, unscored)


def shown_agreement(found: Agreement) -> str:
    """Both numbers with their intervals and of how many pairs they are."""
    if found.accuracy.estimate is None or found.kappa.estimate is None:
        return found.accuracy.method
    low, high = 100 * found.accuracy.low, 100 * found.accuracy.high
    return (f"{100 * found.accuracy.estimate:.0f} % ({low:.0f} to {high:.0f}), κ {found.kappa.estimate:.2f} "
            f"({found.kappa.low:.2f} to {found.kappa.high:.2f}), {found.pairs} of {found.pairs + found.unscored} pairs")
