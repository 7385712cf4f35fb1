"""The page of a run: the comparison with its base, and what was trained on what, how, when and where."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import yaml

from infra.naming import run_page, runs_page
from sft_core.stage import write_text
from tasks.experiment import Experiment
from tasks.facts import Count, carried_out, chain, changed, described, duration
from tasks.pages import data
from tasks.pages.curves import curves
from tasks.pages.data import DataTold
from tasks.pages.items import items
from tasks.pages.ledger import ways
from tasks.pages.masks import telling_masks
from tasks.pages.report import comparison
from tasks.pages.shell import rendered
from tasks.runs import REPORT
from tasks.stages import Done, Workspace
from tasks.verdict import Compared, SuiteResult
from tasks.versions import environment


class Made(NamedTuple):
    """The stages of a run, and what they came out of."""

    prepared: Done
    trained: Done
    lineage: Mapping[str, Any]
    data: DataTold


def write_run_page(run: Experiment, made: Made, found: Compared, place: Workspace) -> None:
    """Write `report.html` into the run's folder, with its further items beside it."""
    shown = items(found.base, found.tuned, "report-items")
    shown.write(run.folder)
    values = dict(comparison(f"{run.name}: tuned against base", found, shown))
    parts = [("verdict", "Wins and tax"), ("training", "Training"), ("data", "Data"), ("answers", "Answers"),
             ("more", "More about the verdict"), ("made", "How it was made")]
    times, told = list(_times(made, found)), made.trained.result
    counts = [Count(one.lost, one.gained, one.pairs) for one in found.verdict.suites]
    values |= {
        "parts": parts, "facts": [*described(run.config), *carried_out(told, made.lineage["made_with"], time.time())],
        "changed": list(changed(told, counts, found.base, found.tuned)),
        "curves": curves(made.trained.folder / "events.jsonl"), "ways": ways(made.prepared.result["ledger"]),
        "learned": _learned(made), "curated": made.data.short, "data_page": data.FILE,
        "masks": telling_masks(run.config, made.prepared, place), "times": [_time_row(*one) for one in times],
        "cost": _cost(times, made.trained), "lineage": chain(made.lineage),
        "machine": [{"what": name, "version": text} for name, text in environment(run.config.model).items()],
        "config": yaml.safe_dump(run.config.model_dump(mode="json", by_alias=True, exclude_unset=True), sort_keys=False,
                                 allow_unicode=True),
        "commands": _commands(run), "links": list(_links(run))}
    write_text(run.folder / REPORT, rendered("run.html.jinja", **values))


def _learned(made: Made) -> str:
    ledger, told = made.prepared.result["ledger"], made.trained.result
    return (f"{made.data.ended} The training examples have {ledger['train_tokens']:,} tokens, "
            f"{ledger['train_trained_tokens']:,} of them trained; over all {told['steps']:,} steps "
            f"{told['trained_tokens']:,} of {told['tokens']:,} tokens, and {told['replay_tokens']:,} of replay.")


def _times(made: Made, found: Compared) -> Iterator[tuple[str, float | None, str]]:
    """Stage, the seconds that making it took, and whether it was made now."""
    told = made.trained.result
    yield "prepare", made.prepared.seconds, _how([made.prepared.reused])
    yield "evaluate base", *_asked(found.base)
    yield "train", told["seconds"], _how([made.trained.reused])
    yield "save", told["saving_s"], _how([made.trained.reused])
    yield "evaluate tuned", *_asked(found.tuned)


def _asked(results: Mapping[str, SuiteResult]) -> tuple[float, str]:
    return sum(one.seconds for one in results.values()), _how([one.found for one in results.values()])


def _how(found: list[bool]) -> str:
    if any(found) and not all(found):
        return f"{sum(found)} of {len(found)} suites found, made earlier; the others made now"
    return "found, made earlier" if all(found) else "made now"


def _time_row(stage: str, seconds: float | None, how: str) -> dict[str, str]:
    return {"stage": stage, "took": "–" if seconds is None else duration(seconds), "how": how}


def _cost(times: list[tuple[str, float | None, str]], trained: Done) -> str:
    processes = trained.result["pace"]["processes"]
    whole = sum((seconds or 0.0) * (processes if stage in ("train", "save") else 1) for stage, seconds, _ in times)
    return (f"{duration(whole)} of a device in all, had all of it been made anew: {processes} "
            f"process{'es' * (processes > 1)} in training ({trained.result['pace']['machine']}), one elsewhere. "
            "Evaluation counts the answering alone.")


def _commands(run: Experiment) -> dict[str, str]:
    config = shlex.quote(str(run.folder / "config.yaml"))
    return {"again": f"sft run {config}", "rejected": f"sft data show {config} --rejected",
            "show": f"sft show {run.name}"}


def _links(run: Experiment) -> Iterator[tuple[str, str]]:
    if page := run_page(run.tracker.pages, run.run_id):
        yield "this run in MLflow", page
    if runs := runs_page(run.tracker.pages):
        yield "all runs of its experiment side by side", runs
