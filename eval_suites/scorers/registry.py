"""Which scorer an item of which kind has, and the scorer of a suite."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from eval_suites.scorers.answer_text import without_thought
from eval_suites.scorers.base import Expect, Score, Scorer
from eval_suites.scorers.custom import load_scorer
from eval_suites.scorers.jsons import score_json
from eval_suites.scorers.markdown import score_citations, score_headings, score_table
from eval_suites.scorers.requests import REQUEST_SCORERS
from eval_suites.scorers.shape import (
    score_bare,
    score_list,
    score_one_sentence,
    score_pattern,
    score_word_limit,
    score_words,
)
from eval_suites.scorers.short import score_letter, score_short_answer
from eval_suites.scorers.tools import score_no_call, score_tool, score_tool_calls
from sft_core.errors import EvalError

SCORERS: Mapping[str, Scorer] = {
    "json": score_json,
    "tool": score_tool,
    "tool_calls": score_tool_calls,
    "no_call": score_no_call,
    "one_sentence": score_one_sentence,
    "word_limit": score_word_limit,
    "words": score_words,
    "list": score_list,
    "pattern": score_pattern,
    "bare": score_bare,
    "table": score_table,
    "headings": score_headings,
    "citations": score_citations,
    "short_answer": score_short_answer,
    "letter": score_letter,
    **REQUEST_SCORERS,
}


def score(kind: str, expect: Expect, answer: str) -> Score:
    """Score an answer to an item of that kind.

    Raises:
        EvalError: there is no such kind.
    """
    if kind not in SCORERS:
        raise EvalError(f"items of kind {kind!r} have no scorer; kinds are {sorted(SCORERS)}")
    return SCORERS[kind](expect, without_thought(answer))


def scorer_for(own: str | None, folder: Path | None) -> Callable[[str, Expect, str], Score]:
    """(kind, expect, answer) → Score for a suite: `score`, or the suite's own function (`Suite.scorer`).

    Raises:
        EvalError: the suite's own function cannot be found.
    """
    if own is None:
        return score
    found = load_scorer(own, folder)
    return lambda kind, expect, answer: found(expect, without_thought(answer))
