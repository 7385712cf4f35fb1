"""`sft eval`, `sft compare`, `sft suites` and `sft data show`: looking at models, runs, suites and data."""

from __future__ import annotations

from pathlib import Path

from flows import console
from flows.experiment import connect, workspace
from sft_core.config.evaluate import EvalSection, GateSection
from sft_core.configfile import load
from sft_core.errors import DataError
from tasks.evaluate import evaluate_any
from tasks.prepare import prepare, prepared_stage
from tasks.runs import find
from tasks.show import Wanted, page, rejected_rows, shown_rows
from tasks.verdict import changed_items, judge, listed


def run_evaluation(model: str, suites: list[str], *, against: str | None, limit: int | None, template: str) -> None:
    """`sft eval`: evaluate a model, alone or paired with another one."""
    place, tracker = workspace(), connect()
    section = EvalSection(suites=tuple(suites), limit=limit)
    results = evaluate_any(model, template, section, place, tracker)
    if against is None:
        console.table(model, listed(results))
        return
    base = evaluate_any(against, template, section, place, tracker)
    verdict = judge.fn(base, results, GateSection())
    console.table(f"{model} against {against}", verdict.rows())
    console.gate(verdict.gate, verdict.reason)


def run_comparison(run_a: str, run_b: str, flips: int) -> None:
    """`sft compare`: paired differences between two recorded runs, and the items that flipped."""
    place, tracker = workspace(), connect()
    first, second = (find(reference, place, tracker) for reference in (run_a, run_b))
    a, b = first.results(), second.results()
    shared = sorted(set(a) & set(b))
    verdict = judge.fn({name: a[name] for name in shared}, {name: b[name] for name in shared}, GateSection())
    console.table(f"{second.name} against {first.name}", verdict.rows())
    if missing := sorted(set(a) ^ set(b)):
        console.lines(f"not compared, only in one of the two: {', '.join(missing)}")
    for name in shared:
        items, total = changed_items(a[name], b[name], flips)
        console.table(f"{name}: {len(items)} of {total} items that changed", items)


def list_suites() -> None:
    """`sft suites`: what can be run."""
    from tasks.show import suite_rows

    console.table("Suites (lm:TASK is any task of lm-eval)", suite_rows())


def show_data(path: Path, overrides: list[str], wanted: Wanted, *, html: Path | None) -> None:
    """`sft data show`: prepared examples with their masks, alone or packed, and the ledger."""
    config = load(path, overrides).config
    place = workspace()
    prepared = prepare.fn(config, place)
    if html:
        page(config, prepared, place, html, wanted)
        console.lines(f"{html}: {'packed rows' if wanted.packed else 'examples'} from {wanted.first} on")
    else:
        for text in shown_rows(config, prepared, place, wanted):
            console.console.print(text)
    console.ledger("Ledger", prepared.result["rows"])


def show_rejected(path: Path, overrides: list[str], wanted: Wanted) -> None:
    """`sft data show --rejected`: rows that are not used, also where they are so many that the stage fails.

    Raises:
        DataError: what the stage failed with, behind the rows.
    """
    config = load(path, overrides).config
    place = workspace()
    stage = prepared_stage(config, place)
    failed: DataError | None = None
    try:
        prepare.fn(config, place)
    except DataError as error:
        failed = error
        if not (stage.work / "rejected.parquet").exists():
            raise
    rows, total = rejected_rows(stage.work, wanted)
    console.lines(*rows, f"{len(rows)} of {total} rejected rows, from {wanted.first} on")
    if failed:
        raise failed
