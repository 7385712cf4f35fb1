"""What looks at trials under way (`search.rungs`) save, and how often they end a trial of the final front.

    python -m bench.rungs [--json FILE] [--studies N] [--study HOME STUDY]

Whole studies, each trial of which went through all looks, are replayed: trials come one after the other, and at each
look a trial is compared with all that were there before, as `tasks/rungs.py` does.

`simulated`: studies of 16 trials whose learning curves cross (`bench/rungs_curves.py`), with 200 and 800 items a suite;
also under a limit on the tax, which is then proved broken at a look, or is not.
`real`: a recorded study, made with `search.rungs.end: false`, of a workspace.

`saved_by_rungs_pct`: of the cost of all trials without looks, what ended trials save less what looks cost, where a
whole evaluation costs a tenth, or three tenths, of a whole training. `false_stops_pct`: trials of the final front (by
the estimates, on all items, and within the limit) that were ended, of all trials of final fronts.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from bench.found import write_found
from bench.rungs_curves import SHARES, WHAT, simulated
from eval_suites.front.differences import Difference, difference, dominates
from eval_suites.front.early import exceeds
from eval_suites.front.front import ahead
from eval_suites.front.points import Objectives, Point, Terms
from infra.stored import read_earlier
from sft_core.config.constraints import Constraint, constraint
from sft_core.config.experiment import RungsSection
from tasks.runs import results_in

EVALUATIONS, LOOK = (0.1, 0.3), 0.02
"""Cost of a whole evaluation, and of a look beside training and evaluation (a process, a saved model), in trainings."""
ALPHAS, TOLERANCES = (0.01, 0.05, 0.2), (1.0, 3.0, 5.0, 10.0)
DEFAULT, TOLERANCE = RungsSection(), Terms().tolerance
LIMIT = constraint("tax <= 5")


class Seen(NamedTuple):
    """One trial: its results at every look, and at its end."""

    looks: tuple[Point, ...]
    end: Point


class Whole(NamedTuple):
    """A study in which every trial went to its end."""

    trials: tuple[Seen, ...]
    base: Point
    what: Objectives
    shares: tuple[tuple[float, float], ...]  # of training and of items at each look


class Tally(NamedTuple):
    """Sums over trials: shares of training and of evaluation that were paid for, looks, and what became of them."""

    trained: float = 0.0
    evaluated: float = 0.0
    looks: int = 0
    false: int = 0
    front: int = 0
    ended: int = 0
    trials: int = 0

    def plus(self, other: Tally) -> Tally:
        """Both together."""
        return Tally(*(a + b for a, b in zip(self, other, strict=True)))

    def plain(self) -> dict[str, float]:
        """The numbers that are told."""
        saved = {f"saved_by_rungs_pct, evaluation {cost:g}": round(100 * (1 - (
            self.trained + cost * self.evaluated + LOOK * self.looks) / (self.trials * (1 + cost))), 1)
            for cost in EVALUATIONS}
        return {**saved, "false_stops_pct": round(100 * self.false / max(1, self.front), 1), "front": self.front,
                "ended_pct": round(100 * self.ended / self.trials, 1), "trials": self.trials}


class Replay:
    """One study, with a limit on the tax or without; each comparison is made once."""

    def __init__(self, study: Whole, limit: Constraint | None = None) -> None:
        self.study, self.limit = study, limit
        kept = [at for at, one in enumerate(study.trials) if limit is None or limit.excess({}, {
            "tax": 100 * difference(study.base, one.end, study.what).tax.estimate}) <= 0]
        ends = [study.trials[at].end for at in kept]
        self.front = {at for at, one in zip(kept, ends, strict=True)
                      if not any(ahead(difference(one, other, study.what)) for other in ends)}
        self.differs, self.proof, self.beyond = cache(self._differs), cache(self._proof), cache(self._beyond)

    def _differs(self, look: int, worse: int, better: int) -> Difference:
        trials = self.study.trials
        return difference(trials[worse].looks[look], trials[better].looks[look], self.study.what)

    def _proof(self, look: int, worse: int, better: int, tolerance: float) -> float:
        return dominates(self.differs(look, worse, better), Terms(tolerance=tolerance))

    def _beyond(self, look: int, at: int) -> float:
        if self.limit is None:
            return 1.0
        return exceeds(self.study.trials[at].looks[look], self.study.base, self.study.what, self.limit)

    def tally(self, alpha: float, tolerance: float, looks: Sequence[int]) -> Tally:
        """The study with these of its looks."""
        found, reached = Tally(), {look: list[int]() for look in looks}
        for at in range(len(self.study.trials)):
            stop, passed = None, []
            for look in looks:
                rivals = tuple(reached[look])
                reached[look].append(at)
                passed.append(look)
                least = min((self.proof(look, at, one, tolerance) for one in rivals), default=1.0)
                claims = len(looks) * max(1, len(rivals) + (self.limit is not None))
                if at >= DEFAULT.min_trials and min(least, self.beyond(look, at)) <= alpha / claims:
                    stop = look
                    break
            shares, on_front = self.study.shares, at in self.front
            found = found.plus(Tally(
                1.0 if stop is None else shares[stop][0], sum(shares[look][1] for look in passed) + (stop is None),
                len(passed), on_front and stop is not None, on_front, stop is not None, 1))
        return found


def measured(studies: Iterable[Whole]) -> dict[str, Any]:
    """All settings over all studies."""
    found: dict[str, Tally] = {}
    for study in studies:
        plain, limited = Replay(study), Replay(study, LIMIT)
        for subset in _subsets(study.shares):
            where = " and ".join("{:.0%} ({:.0%} of the items)".format(*study.shares[look]) for look in subset)
            tried = [(plain, alpha, tolerance) for alpha in ALPHAS for tolerance in TOLERANCES
                     if alpha == DEFAULT.alpha or tolerance == TOLERANCE]
            for replay, alpha, tolerance in [*tried, (limited, DEFAULT.alpha, TOLERANCE)]:
                under = f", {replay.limit.text}" if replay.limit else ""
                name = f"alpha {alpha:g}, tolerance {tolerance:g}{under}, looks at {where}"
                found[name] = found.get(name, Tally()).plus(replay.tally(alpha, tolerance, subset))
    return {name: tally.plain() for name, tally in found.items()}


def by_default(studies: int, items: int) -> dict[str, dict[str, float]]:
    """Simulated studies with the default look, without a limit and with one."""
    found = {"no limit": Tally(), LIMIT.text: Tally()}
    for study in _simulated(studies, items):
        look = study.shares.index((DEFAULT.train[0], DEFAULT.items[0]))
        for name, limit in (("no limit", None), (LIMIT.text, LIMIT)):
            found[name] = found[name].plus(Replay(study, limit).tally(DEFAULT.alpha, TOLERANCE, (look,)))
    return {name: tally.plain() for name, tally in found.items()}


def _simulated(studies: int, items: int) -> Iterator[Whole]:
    for base, trials in simulated(studies, items):
        yield Whole(tuple(Seen(tuple(looks), end) for *looks, end in trials), base, WHAT, SHARES)


def _subsets(shares: Sequence[tuple[float, float]]) -> list[tuple[int, ...]]:
    """Each look alone, and every two of which the second comes later."""
    looks = range(len(shares))
    return [*((look,) for look in looks),
            *(two for two in combinations(looks, 2) if shares[two[0]][0] < shares[two[1]][0])]


def recorded(home: Path, name: str) -> Whole:
    """The trials of a study in a journal that went through all looks."""
    rows = [row for row in read_earlier(name, home).rows if row.values]
    runs = [home / "runs" / row.notes["run"] for row in rows]
    folders = sorted(path.name for path in (runs[0] / "rungs").iterdir() if path.name != "base")
    search = _search(home, name)
    shares = tuple(zip(search["rungs"]["train"], search["rungs"]["items"], strict=True))
    looks = [f"{100 * train:g}" for train, _ in shares]
    assert set(looks) == set(folders), f"{runs[0]} has the looks {folders}"
    trials = tuple(Seen(tuple(_point(run / "rungs" / look) for look in looks), _point(run / "evaluation" / "tuned"))
                   for run in runs)
    what = Objectives(tuple(search["alignment"]), tuple(search["capability"]))
    return Whole(trials, _point(runs[0] / "evaluation" / "base"), what, shares)


def _search(home: Path, name: str) -> dict[str, Any]:
    from tempfile import TemporaryDirectory

    from infra.stored import read_aim
    from sft_core.config.file import load

    with TemporaryDirectory() as scratch:
        file = Path(scratch) / "sweep.yaml"
        file.write_text(read_aim(name, home).config, encoding="utf-8")
        section = load(file).config.search
    assert section is not None
    return section.model_dump()


def _point(folder: Path) -> Point:
    return Point(folder.parent.name, (results_in(folder),))


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--studies", type=int, default=20, help="how many are simulated of each size")
    parser.add_argument("--study", nargs=2, metavar=("HOME", "STUDY"), help="a recorded study to replay as well")
    given = parser.parse_args()
    found: dict[str, Any] = {}
    if given.study:
        found["real"] = measured([recorded(Path(given.study[0]).resolve(), given.study[1])])
    for items in (200, 800):
        found[f"simulated, {given.studies} studies, {items} items"] = measured(_simulated(given.studies, items))
        write_found(given.json, found)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
