"""`sft judge` and `sft human`: open-ended answers judged by an LLM or by people."""

from __future__ import annotations

from pathlib import Path

from flows import console
from flows.place import look, workspace
from sft_core.config.evaluate import JudgeSection
from sft_core.errors import EvalError
from tasks.judge import export_sheets, folder_of, import_labels, judge_all, kept_at, results_at, write_judged
from tasks.verdict import listed


def run_judging(first: str, second: str, section: JudgeSection, out: Path | None) -> None:
    """`sft judge`: the second against the first.

    Raises:
        EvalError: too little of a suite was judged. Of those that were measured the results are written.
    """
    place, tracker = workspace(), look()
    base, tuned = results_at(first, place, tracker), results_at(second, place, tracker)
    found = judge_all(base, tuned, section, place)
    if rows := [one.row() for one in found.win_rates()]:
        console.table(f"{second} against {first}, judged by {section.endpoint.model}", rows)
    else:
        console.table(first, listed(found.base))
        console.table(second, listed(found.tuned))
    console.lines(*found.lines())
    if found.measured.base:
        path = write_judged(found.measured, out or folder_of(first, second, section, place))
        console.lines(f"written {path}")
    if failures := found.failures():
        raise EvalError(f"{'; '.join(failures)}. The same command asks again what the judge did not answer. Replies "
                        "without a verdict are kept and stay so: take another judge (--model, --mode), or delete "
                        f"{kept_at(place)} to ask for all of them again")


def run_export(first: str, second: str, out: Path, seed: int) -> None:
    """`sft human export`: blinded sheets."""
    place, tracker = workspace(), look()
    made = export_sheets(results_at(first, place, tracker), results_at(second, place, tracker), out, seed)
    console.lines(*map(str, made))


def run_import(first: str, second: str, files: list[Path], seed: int) -> None:
    """`sft human import`: labels as a win rate.

    Raises:
        EvalError: too few pairs of a suite have a label.
    """
    place, tracker = workspace(), look()
    rates, found = import_labels(results_at(first, place, tracker), results_at(second, place, tracker), files, seed)
    console.table(f"{second} against {first}, judged by people", [one.row() for one in rates])
    if found:
        console.table("Raters of the same sheet", [one.row() for one in found])
    if few := [f"{one.suite}: {one.pairs} of {one.pairs + one.unscored} pairs have a label" for one in rates
               if one.rate is None]:
        raise EvalError(f"not measured, as too few are labelled (eval.min_scored of the evaluation): {'; '.join(few)}")
