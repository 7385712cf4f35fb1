"""`sft eval`, `sft compare` and `sft suites`: looking at models, runs and suites."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from flows import console
from flows.place import look, workspace
from sft_core.config.data import ModelSection
from sft_core.config.evaluate import EvalSection, GateSection
from sft_core.errors import ConfigError, EvalError
from tasks.evaluate import Subject, alike, check_loaded, evaluate, floors, named
from tasks.measure import Against
from tasks.mirror import asked_mirror
from tasks.needs import check_needs, evaluation_lacks, named_lacks
from tasks.runs import Beside, Found, joined, results_of
from tasks.show import check_measured, remarks
from tasks.stages import Workspace
from tasks.verdict import (
    Compared,
    Floor,
    Known,
    Names,
    Results,
    SuiteResult,
    compared,
    foresee,
    keep,
    listed,
    reach_verdict,
)


class Shown(NamedTuple):
    """How a comparison is shown: changed items per suite on the terminal, and where a page and results go."""

    flips: int = 0
    html: Path | None = None
    out: Path | None = None


def run_evaluation(
    model: ModelSection, section: EvalSection, template: str, against: str | None, shown: Shown, mirror: Path | None
) -> None:
    """`sft eval`: evaluate a model, alone or paired with another one in the same precision on the same device.

    Raises:
        EvalError: behind all that is shown: too few items of a suite were scored.
    """
    place = asked_mirror(workspace(), mirror)
    if shown.html and against is None:
        raise ConfigError("--html writes a comparison; say with --against what to compare with")
    check_loaded(model, against)
    both = [model, *([like(model, against)] if against else [])]
    check_needs([*named_lacks(both, place), *evaluation_lacks(section, place)])
    tuned = named(model, template, section, place, look)
    if against is None:
        alone = evaluate(tuned, section, place)
        show_scores(model.path, alone, shown)
        check_measured(alone)
        return
    base_model, tuned = alike(named(like(model, against), template, section, place, look), tuned)
    base, results, floor = paired(base_model, tuned, section, place)
    show_scores(model.path, results, shown)
    if shown.out:
        keep(shown.out / "base", base)
        console.lines(f"items    {shown.out / 'base'} (of {against})")
    verdict = reach_verdict(base, results, GateSection(), Known(floors=floor, names=Names(against, model.path)))
    show_comparison(compared(verdict, base, results), shown)
    check_measured(base)
    check_measured(results)


def like(model: ModelSection, reference: str) -> ModelSection:
    """Another model, asked as this one is."""
    return model.model_copy(update={"path": reference})


def show_scores(model: str, results: Results, shown: Shown) -> None:
    """Print one model's scores and write its items where that is asked for."""
    console.table(model, listed(results))
    console.lines(*remarks(results))
    if shown.out:
        keep(shown.out, results)
        console.lines(f"items    {shown.out}")


def paired(base: Subject, tuned: Subject, section: EvalSection, place: Workspace,
           gate: GateSection | None = None) -> tuple[dict[str, SuiteResult], dict[str, SuiteResult], dict[str, Floor]]:
    """Both models' results, the tuned one's looked at early where asked for, and the base's A/A floor."""
    before = evaluate(base, section, place)
    foresee(before, gate or GateSection(), section.looks, place)
    after = evaluate(tuned, section, place, against=Against(before, gate or GateSection()))
    return before, after, floors(base, before, section, place)


def run_comparison(
    first: ModelSection, second: str, gate: GateSection, shown: Shown, section: EvalSection | None, mirror: Path | None
) -> None:
    """`sft compare`: two recorded runs by their results, or any two models, evaluated now on `section`, the second as
    the first is."""
    place = asked_mirror(workspace(), mirror)
    beside = Beside({}, None)
    if section is None:
        tracker = look()
        one, two = (results_of(run, place, tracker) for run in (first.path, second))
        (name_a, a), (name_b, b) = one[:2], two[:2]
        beside = joined(one.beside, two.beside)
        gate = own_gate(gate, one, two)
    else:
        check_needs([*named_lacks([first, like(first, second)], place), *evaluation_lacks(section, place)])
        sides = [named(one, "auto", section, place, look) for one in (first, like(first, second))]
        _name_only(gate, section.names)
        a, b, floor = paired(*alike(*sides), section, place, gate)
        beside = Beside(floor, None)
        name_a, name_b = first.path, second
    shared = [name for name in a if name in b]
    if not shared:
        raise EvalError(f"{name_a} and {name_b} share no suite: {sorted(a)} and {sorted(b)}; say with --suite what to "
                        "evaluate on both")
    missing = sorted(set(a) ^ set(b))
    a, b = {name: a[name] for name in shared}, {name: b[name] for name in shared}
    _name_only(gate, shared)
    verdict = reach_verdict(a, b, gate, Known(beside.contaminated, beside.floors, names=Names(name_a, name_b)))
    show_comparison(compared(verdict, a, b), shown)
    if missing:
        console.lines(f"not compared, only in one of the two: {', '.join(missing)}")
    if section is not None:
        check_measured(a)
        check_measured(b)


TOLERANCES = ("max_tax", "margins", "max_false_refusals", "alpha")


def own_gate(asked: GateSection, one: Found, two: Found) -> GateSection:
    """What was asked for, and else the tolerances that both runs were judged by; says which. What their gates demand of
    a fine-tune against its base is no demand here."""
    own = [{name: getattr(run.gate, name) for name in TOLERANCES} if run.gate else None for run in (one, two)]
    gate, whose = asked, "the default"
    if own[0] is not None and own[0] == own[1]:
        mine = {name: value for name, value in own[0].items() if name not in asked.model_fields_set}
        gate, whose = asked.model_copy(update=mine), "that of both runs"
    elif None not in own:
        whose = "the default, as the runs' own differ"
    given = f", beside {', '.join(sorted(asked.model_fields_set))} as given" if asked.model_fields_set else ""
    said = ", ".join(f"{name} {getattr(gate, name)}" for name in TOLERANCES if getattr(gate, name) != {})
    console.lines(f"gate     {said}: {whose}{given}")
    return gate


def _name_only(gate: GateSection, suites: Collection[str]) -> None:
    """Raises ConfigError where the gate asks for a suite that is not compared."""
    if wrong := gate.unknown(suites):
        raise ConfigError("; ".join(wrong))


def show_comparison(found: Compared, shown: Shown) -> None:
    """Print the report and the items that changed, and write the page where one is asked for."""
    for changed in found.flips.values():
        for flip in changed[: shown.flips]:
            console.side_by_side(flip, found.report.names)
        if shown.flips and changed:
            console.lines(f"{changed[0].suite}: {min(shown.flips, len(changed))} of {len(changed)} items that changed")
    console.report(found.report)
    if shown.html:
        from tasks.pages.report import write_report_page

        names = found.report.names
        write_report_page(shown.html, f"{names.tuned} against {names.base}", found)
        console.lines(f"page     {shown.html}")


def list_suites(data_path: Path | None, mirror: Path | None, *, as_json: bool) -> None:
    """`sft suites`: what can be run."""
    from tasks.show import suite_rows

    rows = suite_rows(data_path, asked_mirror(workspace(), mirror).mirror)
    if as_json:
        console.as_json(rows)
    else:
        short = [{key: value for key, value in row.items() if key != "about"} for row in rows]
        console.table("Suites (lm:TASK is any task of lm-eval)", short)
        console.lines("detectable: the smallest difference in points that is found with 80 % power at a base of 50 %; "
                      "alike: the same where all items of a cluster change together")
