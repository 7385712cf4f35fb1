"""Whether a suite can show anything of a base: one at the floor has nothing to lose, one at the top nothing to win."""

from __future__ import annotations

from eval_suites.results import SuiteResult
from eval_suites.statistics.pairing import mean_score


def room(base: SuiteResult, alpha: float, name: str = "the base") -> str:
    """Why this base has nothing to lose (capability) or to win (alignment) on this suite; empty where it has.

    The floor is what guessing gives, the mean over items of 1 / choices and 0 where there are none to choose from: a
    base that is not shown to be above it, by the interval of its score, may be there. It is 0 at least where it is not
    known. The top is every item right.
    """
    evidence = mean_score(base)
    if evidence is None or base.scale == "log":
        return ""
    score = f"{name} scores {100 * evidence.estimate:.1f}"
    if base.kind == "alignment":
        return f"{score}: nothing is left to win here" if evidence.estimate >= 1.0 else ""
    floor = base.chance or 0.0
    if evidence.interval(alpha).low > floor:
        return ""
    return f"{score} and guessing gives {100 * floor:.1f}: it has nothing to lose here"
