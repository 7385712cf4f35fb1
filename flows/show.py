"""`sft show`: one run, all that is known of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flows import console
from flows.place import look, workspace
from tasks.listing import listed_run
from tasks.runs import Recorded, in_full
from tasks.shown import Shown, here, shown
from tasks.stages import Workspace


def show_run(reference: str, *, as_json: bool) -> None:
    """Print a run as sections, or as JSON.

    Raises:
        TrackingError: there is none of this name; the message lists the latest ones.
    """
    place = workspace()
    run = found_run(reference, place)
    told = shown(run, listed_run(run.folder, place), place, lambda: look().find_run(run.run_id))
    if as_json:
        console.as_json(told._asdict())
    else:
        _print(told)


def found_run(reference: str, place: Workspace) -> Recorded:
    """The run whose name is or begins so, at once where it is in the workspace; else as registry and tracker know it.

    Raises:
        TrackingError: there is none, or there are several.
    """
    if (mine := here(in_full(reference, place), place)) is not None:
        return mine
    from tasks.catalog import named_run  # brings Prefect, a second

    return named_run(reference, place, look())[0]


def _print(told: Shown) -> None:
    console.lines(f"{told.run}: {told.state}")
    if told.gate:
        console.gate(told.gate, told.sentence)
    else:
        console.lines(told.sentence)
    _table("Wins and tax: tuned against base", told.suites)
    _pairs("What changed", told.changed)
    _pairs("What it is", told.facts)
    _pairs("Training", told.training)
    _pairs("Time", told.times)
    _table("Data", told.ledger)
    console.lines(*(f"  {said}" for said in told.ledger_remarks))
    _table("Checks", told.checks)
    for title, rows in told.beside:
        _table(title, rows)
    _table("Lineage", told.lineage)
    _pairs("Where", told.links)
    for title, lines in (("Not to be had", told.missing), ("Next", told.next)):
        if lines:
            console.lines("", title, *(f"  {line}" for line in lines))


def _table(title: str, rows: Sequence[Mapping[str, object]]) -> None:
    if rows:
        console.lines("")
        console.table(title, rows)


def _pairs(title: str, pairs: Sequence[tuple[str, str]]) -> None:
    if pairs:
        wide = max(len(head) for head, _ in pairs)
        console.lines("", title, *(f"  {head:{wide}}  {text}" for head, text in pairs))
