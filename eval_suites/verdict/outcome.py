"""What a verdict says of one suite: its numbers, its outcome, and how that is put into words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

from eval_suites.statistics.evidence import UNIFORM
from eval_suites.statistics.floor import Floor
from sft_core.config.evaluate import MIN_SCORED

Outcome = Literal["no_worse", "worse", "improved", "not_proved", "undecided", "equal", "not_measured"]
SHOWN = {"no_worse": "no worse", "worse": "worse", "improved": "improved", "not_proved": "not proved",
         "undecided": "undecided", "equal": "equal",
         "not_measured": "not measured"}
Held = Literal["no_worse", "worse", "undecided"]
OPEN = ("undecided", "not_proved")
NONE = "–"
UNKNOWN = "unknown"


ROUGH = 100
"""Items; fewer know little of how many more it takes."""


def about(more: int, items: int) -> str:
    """How many more, in words, said by so many: a number of one digit where they are few."""
    if items >= ROUGH:
        return f"about {more:,}"
    digit = 10 ** (len(str(more)) - 1)
    return f"very roughly {math.ceil(more / digit) * digit:,}"


class Check(NamedTuple):
    """A condition beside the scores, e.g. the parity certificate; one that did not pass fails the gate."""

    name: str
    passed: bool
    why: str


class Part(NamedTuple):
    """The tax or win on some of the items, in points with its interval; `points` is None without a scored pair."""

    points: float | None
    low: float
    high: float
    pairs: int


class FalseRefusals(NamedTuple):
    """Refusals among requests that should be answered: shares of base and tuned model, their rise, its margin in
    points, and how many more such requests would settle whether it is within (0: it is settled, or only missing scores
    stand against it; None: none would). The shares are None where no such request was scored on both sides. `doubt`:
    why what the scored ones show does not count."""

    base: float | None
    tuned: float | None
    rise: Part
    margin: float
    more_items: int | None
    doubt: str = ""

    @property
    def state(self) -> Held:
        """Whether the rise is proved to be at most the margin, or above."""
        return "undecided" if self.doubt else held_to(self.margin, self.rise.low, self.rise.high)


def held_to(margin: float, low: float, high: float) -> Held:
    """An interval against a margin, all in points."""
    return "no_worse" if high <= margin else "worse" if low > margin else "undecided"


@dataclass(frozen=True)
class SuiteVerdict:
    """One suite. `points`, `low`, `high`: tax (capability) or win (alignment) × 100 with its interval.

    `scored_base` and `scored_tuned` count items with a score, `pairs` those with one on both sides: only they enter,
    `base` and `tuned` too, so that their difference is `points`. `level`: the score of the tuned model over all items
    that it has one of, whatever the base has.
    `p` is against the margin (capability) or against no difference (alignment), `p_holm` adjusted for the number of
    suites, `p_mcnemar` the exact test of no difference, for independent items scored 0 or 1 only. `lost` and `gained`
    count items whose score fell and rose. `more_items`: how many more would settle it in 80 % of cases.
    `margin`: the non-inferiority margin in points (capability). `mde`: the smallest difference in points that this
    comparison finds with 80 % power. `looks`: (taken, planned) of a sequential evaluation. `uncontaminated`: the same
    on the items that were not found in the training data, None where none was looked for. `floor`: how far the base
    differs from itself. `false_refusals`: of suites with requests that should be answered. `worst`: the interval of a
    claim that many items without a score were counted against, and that holds. `notes`: what a reader must know beside
    the numbers, a sentence each.
    """

    suite: str
    kind: str
    outcome: Outcome
    base: float | None
    tuned: float | None
    points: float | None
    low: float
    high: float
    pairs: int
    scored_base: int
    scored_tuned: int
    asked: int
    lost: int
    gained: int
    p: float
    p_holm: float
    p_mcnemar: float | None
    more_items: int | None
    method: str
    protocol_hash: str
    margin: float = 0.0
    scale: str = "share"
    mde: float | None = None
    looks: tuple[int, int] | None = None
    uncontaminated: Part | None = None
    floor: Floor | None = None
    notes: tuple[str, ...] = ()
    false_refusals: FalseRefusals | None = None
    worst: tuple[float, float] | None = None
    min_scored: float = MIN_SCORED  # least share of the items asked with a score on both sides
    level: float | None = None
    room: str = ""  # why the base has nothing to lose, or to win, on this suite

    @property
    def said(self) -> str:
        """The outcome in words, e.g. `no worse than 1 (proved)` or `undecided: about 1,200 more items needed`."""
        if self.outcome == "equal":
            return "equal: the very same model, no item changed"
        if self.outcome == "not_measured":
            return (f"not measured: {self.pairs} of {self.asked} items have a score on both sides, at least "
                    f"{100 * self.min_scored:g} % must have (eval.min_scored)")
        refusing = "; false refusals worse (proved)" * self.refuses_more
        if self.outcome in OPEN:
            return f"{SHOWN[self.outcome]}: {self._needed}{refusing}"
        than = f" than {short(self.margin)}" if self.outcome == "no_worse" else ""
        return f"{SHOWN[self.outcome]}{than} (proved){refusing}"

    @property
    def refuses_more(self) -> bool:
        """False refusals are proved to have risen by more than their margin."""
        return self.false_refusals is not None and self.false_refusals.state == "worse"

    @property
    def unchanged(self) -> bool:
        """No item has another score, and there is no margin that more of them could prove."""
        return not (self.lost or self.gained) and (self.kind == "alignment" or self.margin == 0.0)

    @property
    def _needed(self) -> str:
        if self.room and self.more_items != 0:
            return self.room
        if self.unchanged:
            return "unchanged, no item has another score"
        if self.more_items is None:
            return "no realistic number of items would settle it"
        # Zero more items: the numbers would do, a reservation in the notes does not let them.
        if not self.more_items:
            return "see its notes"
        assert self.points is not None  # else it is not measured
        if self.kind == "capability":
            proved = "worse" if self.points > self.margin else "no worse"
        else:
            proved = "improved" if self.points > 0 else "worse"
        return f"{about(self.more_items, self.pairs)} more items needed to prove it {proved}"


def row(suite: SuiteVerdict, alpha: float) -> dict[str, str]:
    """A row of the verdict's table; the keys are the heads."""
    capability = suite.kind == "capability"
    return {
        "suite": suite.suite,
        "base": shown_score(suite.base, suite.scale),
        "tuned": shown_score(suite.tuned, suite.scale),
        "tax / win": NONE if suite.points is None else f"{'tax' if capability else 'win'} {suite.points:+.1f}",
        f"{100 * (1 - alpha):g} % interval": span(suite.points, suite.low, suite.high, suite.scale),
        "margin": short(suite.margin) if capability else NONE,
        "p (Holm)": NONE if suite.points is None else f"{suite.p_holm:.2g}",
        "lost / gained": f"{suite.lost} / {suite.gained}",
        "false refusals": refusing(suite.false_refusals),
        "items": f"{suite.pairs}" if suite.pairs == suite.asked else f"{suite.pairs} of {suite.asked}",
        "detectable": NONE if suite.mde is None else f"{suite.mde:.1f}",
        "outcome": suite.said,
    }


def refusing(found: FalseRefusals | None) -> str:
    """False refusals of base and tuned model, in percent."""
    if found is None or found.base is None or found.tuned is None:
        return NONE
    return f"{100 * found.base:.1f} → {100 * found.tuned:.1f} %"


def bounded(low: float, high: float, scale: str) -> bool:
    """Whether an interval in points says anything; that of one item or text alone does not."""
    return high - low < 200 * (UNIFORM if scale == "log" else 1.0)


def span(points: float | None, low: float, high: float, scale: str) -> str:
    """An interval in words."""
    if points is None:
        return NONE
    return f"{low:+.1f} to {high:+.1f}" if bounded(low, high, scale) else UNKNOWN


def short(points: float) -> str:
    """Points with one digit after the point, or all that they have."""
    return f"{points:.1f}" if round(points, 1) == points else f"{points:g}"


def shown_score(value: float | None, scale: str) -> str:
    """A share as points of 100; minus nats per byte as perplexity per byte."""
    if value is None:
        return NONE
    return f"ppl {math.exp(-value):.3f}" if scale == "log" else f"{100 * value:.1f}"
