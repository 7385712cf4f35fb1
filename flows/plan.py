"""`sft plan`: what a run will do and cost, before it starts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from flows import console
from flows.checking import checked
from flows.place import workspace
from infra.settings import read_settings
from sft_core.config.followups import as_searched
from tasks.needs import path_lacks
from tasks.plan import Plan, plan, shown_span
from tasks.sweep_plan import plan_sweep


def show_plan(path: Path, overrides: list[str], rows: int | None, size: tuple[int | None, int], *, as_json: bool
              ) -> None:
    """Print the plan of a configuration, as tables or as JSON; `size`: trials and workers of a sweep."""
    config = as_searched(checked(path, overrides, read_settings(), path_lacks).here().config)
    place = workspace(config)
    made = plan(config, place, rows)
    sweep = config.search and plan_sweep(config, config.search, made.prepared, place,
                                         (size[0] or config.search.trials, size[1]))
    if as_json:
        more = {"sweep": {**sweep._asdict(), "whole": sweep.whole}} if sweep else {}
        console.as_json({**made.to_dict(), **more})
        return
    if rows is None:
        console.ledger("Data", made.prepared.result["rows"])
    console.table(f"Stages of {made.name}", list(_stages(made)))
    console.table("Suites: what their items can find with 80 % power, and what is there of base and tuned model",
                  [one.row() for one in made.suites])
    console.lines("", *made.lines(), *(sweep.lines() if sweep else ()))
    console.lines(*(f"warning: {said}" for said in made.advice))


def _stages(made: Plan) -> Iterator[dict[str, object]]:
    took = "" if made.prepared.seconds is None else f"{made.prepared.seconds:.1f} s"
    how = "found; it took" if made.prepared.reused else "made now, in"
    sampled = "" if made.sampled == 1.0 else f"a sample: there are {made.sampled:.1f} times as many rows"
    yield {"stage": "prepare", "state": f"{how} {took}" if took else "found", "time": sampled}
    yield {"stage": "base evaluation", "state": _count([one.base_there for one in made.suites]), "time": ""}
    yield {"stage": "train", "state": made.trained, "time": "" if made.trained == "found"
           else shown_span(made.training)}
    yield {"stage": "evaluation", "state": _count([one.tuned_there for one in made.suites]),
           "time": f"with the base's: {shown_span(made.evaluation)}"}


def _count(there: list[bool]) -> str:
    return f"{sum(there)} of {len(there)} suites found"
