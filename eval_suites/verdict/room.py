"""Whether a suite can show anything of a base: one at the floor has nothing to lose, one at the top nothing to win."""

from __future__ import annotations

from eval_suites.results import SuiteResult
from eval_suites.statistics.pairing import mean_score


def room(base: SuiteResult, alpha: float) -> str:
    """Why this base has nothing to lose (capability) or to win (alignment) on this suite; empty where it has.

    The floor is what guessing gives, the mean over items of 1 / choices and 0 where there are none to choose from: a
    base that is not shown to be above it, by the interval of its score, may be there. The top is every item right.
    """
    evidence = mean_score(base)
    if evidence is None or base.scale == "log":
        return ""
    score = f"the base scores {100 * evidence.estimate:.1f}"
    if base.kind == "alignment":
        return f"{score}: nothing is left to win here" if evidence.estimate >= 1.0 else ""
    if evidence.interval(alpha).low > base.chance:
        return ""
    return f"{score} and guessing gives {100 * base.chance:.1f}: it has nothing to lose here"
