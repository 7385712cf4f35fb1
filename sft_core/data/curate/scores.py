"""Scores of rows: what a model found likely and what a judge thought of it, which rows they take out, how they spread.

Perplexity is exp of the mean loss of the trained tokens behind their prompts. IFD is that mean loss over the mean loss
of the same tokens without what stands before them (`likelihood.py`), the ratio of losses of the paper and of the
authors' code for it (Li et al. 2024, arXiv 2308.12032; Cherry_LLM, `data_by_IFD.py`, which leaves out rows above 1).
Their later code (Superfiltering) takes the ratio of perplexities, which is another order of rows.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sft_core.config.scores import Bounds
from sft_core.conversation import Conversation
from sft_core.data.shards import read_some
from sft_core.errors import EvalError
from sft_core.progress import progress

log = logging.getLogger("sft")
Reals = NDArray[np.float64]
QUANTILES = {"lowest": 0.0, "5 %": 0.05, "25 %": 0.25, "median": 0.5, "75 %": 0.75, "95 %": 0.95, "highest": 1.0}
"""Of a score over rows, by their names."""
TOGETHER = 256
"""Rows that a judge is asked about at once."""


class Likelihood(NamedTuple):
    """How likely a model finds the trained tokens of a row behind what stands before each."""

    nats: float | None  # minus their log-probability; None where there are none
    tokens: int
    why: str  # why there are none


class Alone(NamedTuple):
    """The same without what stands before them."""

    alone_nats: float | None


class Grade(NamedTuple):
    """What a judge said of a row: 1 to 10, or None and why. `answered`: it said something at all."""

    value: float | None
    why: str = ""
    answered: bool = True


class Grader(NamedTuple):
    """A judge of rows."""

    stamp: object  # who judges, and by which prompt
    most_ungraded: float  # share of the rows
    grade: Callable[[Sequence[Conversation]], Sequence[Grade]]
    paid: Callable[[], str]  # what that cost, in words


def perplexity(nats: Reals, tokens: Reals) -> Reals:
    """[rows]: nan where there are no nats; infinite beyond what a float holds."""
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        return np.exp(nats / tokens)


def ifd(nats: Reals, alone: Reals) -> Reals:
    """[rows]: nan where either is missing, or an answer alone has no loss at all."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(alone > 0, nats / alone, np.nan)


def outside(name: str, values: Reals, ends: Bounds) -> Iterator[tuple[int, str]]:
    """Rows whose score is beyond these ends, with what a person reads of it. Rows without one are not among them."""
    low, high = ends
    for row in np.flatnonzero((values < (-np.inf if low is None else low)) | (
            values > (np.inf if high is None else high))).tolist():
        below = low is not None and values[row] < low
        yield row, f"{name} {values[row]:.4g}, {'below' if below else 'above'} {low if below else high:g}"


def graded(grader: Grader, rows: Iterable[tuple[int, Conversation]], count: int) -> dict[int, Grade]:
    """Grades by row.

    Args:
        count: of the rows.

    Raises:
        EvalError: more of them have no grade than `data.scores.judge.max_ungraded_share` says.
    """
    found: dict[int, Grade] = {}
    lacking: list[Grade] = []
    with progress("asking the judge", count, "rows") as bar:
        left = iter(rows)
        while some := list(islice(left, TOGETHER)):
            found |= zip((row for row, _ in some), grader.grade([one for _, one in some]), strict=True)
            lacking = [one for one in found.values() if one.value is None]
            if len(lacking) > grader.most_ungraded * count:
                raise EvalError(
                    f"{len(lacking)} of {len(found)} rows that the judge was asked about have no grade, "
                    f"{sum(not one.answered for one in lacking)} of them because it did not answer, and "
                    f"data.scores.judge.max_ungraded_share allows {grader.most_ungraded:g} of {count}; the first: "
                    f"{lacking[0].why}. What it answered is kept: the same command goes on from there; or choose a "
                    "judge that keeps to the form, or raise the share")
            bar.advance(len(some))
    log.info("the judge graded %d of %d rows: %s", len(found) - len(lacking), len(found), grader.paid())
    return found


def told(grades: Iterable[Grade]) -> dict[str, int]:
    """How many rows a judge was asked about, and what came of it."""
    every = list(grades)
    without = [one for one in every if one.value is None]
    silent = sum(not one.answered for one in without)
    return {"asked": len(every), "graded": len(every) - len(without), "not answered": silent,
            "no grade in the reply": len(without) - silent}


def conversations_in(shards: Sequence[Path], starts: Sequence[int], rows: NDArray[np.int64]
                     ) -> Iterator[tuple[int, Conversation]]:
    """Rows, rising, with what stands there.

    Args:
        shards: of all rows.
        starts: number of the first row of each, and of all rows.
    """
    for file, start, stop in zip(shards, starts[:-1], starts[1:], strict=True):
        mine = rows[(rows >= start) & (rows < stop)]
        if len(mine):
            yield from zip(mine.tolist(), read_some(file, (mine - start).tolist()), strict=True)


def spread(values: Reals) -> dict[str, Any]:
    """How a score is spread over rows: plain data, without infinite numbers."""
    known = values[np.isfinite(values)]
    ends: list[float | None] = [None] * len(QUANTILES)
    if len(known):
        ends = np.quantile(known, list(QUANTILES.values())).tolist()
    return {"rows": len(known), "without": len(values) - len(known), **dict(zip(QUANTILES, ends, strict=True))}
