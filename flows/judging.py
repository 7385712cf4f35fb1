"""`sft judge` and `sft human`: open-ended answers judged by an LLM or by people."""

from __future__ import annotations

from pathlib import Path

from flows import console
from flows.experiment import look, workspace
from sft_core.config.evaluate import JudgeSection
from tasks.judge import export_sheets, folder_of, import_labels, judge_all, results_at, write_judged
from tasks.verdict import listed


def run_judging(first: str, second: str, section: JudgeSection, out: Path | None) -> None:
    """`sft judge`: the second against the first."""
    place, tracker = workspace(), look()
    base, tuned = results_at(first, place, tracker), results_at(second, place, tracker)
    found = judge_all(base, tuned, section, place)
    if rows := [one.row() for one in found.win_rates()]:
        console.table(f"{second} against {first}, judged by {section.endpoint.model}", rows)
    else:
        console.table(first, listed(found.base))
        console.table(second, listed(found.tuned))
    path = write_judged(found, out or folder_of(first, second, section, place))
    console.lines(*found.lines(), f"written {path}")


def run_export(first: str, second: str, out: Path, seed: int) -> None:
    """`sft human export`: blinded sheets."""
    place, tracker = workspace(), look()
    made = export_sheets(results_at(first, place, tracker), results_at(second, place, tracker), out, seed)
    console.lines(*map(str, made))


def run_import(first: str, second: str, files: list[Path], seed: int) -> None:
    """`sft human import`: labels as a win rate."""
    place, tracker = workspace(), look()
    rates, found = import_labels(results_at(first, place, tracker), results_at(second, place, tracker), files, seed)
    console.table(f"{second} against {first}, judged by people", [one.row() for one in rates])
    if found and found.accuracy is not None:
        console.lines(f"raters agree on {100 * found.accuracy:.0f} % of {found.pairs} labels, κ "
                      f"{found.kappa.estimate:.2f} ({found.kappa.low:.2f} to {found.kappa.high:.2f})")
