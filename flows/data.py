"""`sft data check`, `show` and `report`: looking at data, before it is trained on and as it will be."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.text import Text

from flows import console
from flows.place import workspace
from infra.settings import read_settings
from sft_core.config.experiment import ExperimentConfig
from sft_core.config.file import load
from sft_core.errors import DataError
from tasks.curate import curation
from tasks.data_rows import VIEWS, Texts, Told, Wish, listed
from tasks.data_view import licences, parts, totals, unusable, way
from tasks.mixture import reached
from tasks.prepare import prepare, prepared_stage
from tasks.provenance import unknown_licences, write_manifest
from tasks.show import Wanted, shown_rows
from tasks.stages import Workspace

MOST_ROWS = 60
"""Rows of a table on the terminal."""
LONGEST = 400
"""Characters of a text on the terminal."""


def check_data(path: Path, overrides: list[str], *, as_json: bool) -> None:
    """`sft data check`: curate, and tell what became of every row.

    Raises:
        DataError: behind all that is told: more rows cannot be used than a run takes.
    """
    config, place = _asked(path, overrides)
    curated = curation(config, place)
    manifest = write_manifest(config, curated, place)
    found, unknown = curated.done.result, unknown_licences(config, place.mirror)
    if as_json:
        console.as_json({"name": config.name, "folder": str(curated.done.folder), "manifest": manifest.result,
                         "unknown_licences": unknown, **found})
    else:
        console.table("The way of the rows", way(found["sources"]))
        for part in parts(found):
            console.lines("")
            console.table(part.title, part.rows[:MOST_ROWS])
            left = len(part.rows) - MOST_ROWS
            console.lines(*([part.note] if part.note else []),
                          *([f"and {left} more rows, which --json and the page have"] if left > 0 else []))
        console.lines("")
        console.table(f"Licences; declared use: {config.data.use or 'none'} (data.use)", licences(manifest.result))
        console.lines(*(f"warning: {said}" for said in unknown), "", *_next(path, manifest.folder))
    _check_rows(config, curated.done.result["sources"])


def report_data(path: Path, overrides: list[str], out: Path) -> None:
    """`sft data report`: curate, and write the page."""
    from tasks.pages.data import write_data_page

    config, place = _asked(path, overrides)
    curated = curation(config, place)
    write_data_page(out, config, curated, place, reached(config, curated.done.result["sources"], place))
    console.lines(f"page     {out}")


def show_found(path: Path, overrides: list[str], view: str, page: tuple[int, int],
               only: tuple[str | None, str | None]) -> None:
    """`sft data show --rejected` and so on: rows of the curation; rejected ones also where they are so many that the
    preparation fails.

    Args:
        page: first row, and how many.
        only: source and kind.

    Raises:
        DataError: what the preparation failed with, behind the rows.
    """
    config = load(path, overrides).here().config
    place = workspace(config)
    wish = Wish(view, *page, *only)
    failed: DataError | None = None
    with _quiet():
        curated = curation(config, place)
        folder = curated.done.folder
        if view == "rejected":
            folder, failed = _prepared(config, place)
        shown = listed(wish, folder, Texts(config, curated, place, LONGEST))
    for one in shown.told:
        _print(one)
    all_of_them = "" if len(shown.told) == shown.total else f"; `-n {shown.total}` shows all"
    console.lines(f"{shown} of --{view}, from {wish.first} on{all_of_them}")
    if failed:
        raise failed


def show_data(path: Path, overrides: list[str], wanted: Wanted, *, html: Path | None) -> None:
    """`sft data show`: prepared examples with their masks, alone or packed, and the ledger."""
    config = load(path, overrides).here().config
    place = workspace(config)
    prepared = prepare(config, place)
    if html:
        from tasks.pages.masks import write_masks_page

        write_masks_page(html, config, prepared, place, wanted)
        console.lines(f"{html}: {'packed rows' if wanted.packed else 'examples'} from {wanted.first} on")
    else:
        for text in shown_rows(config, prepared, place, wanted):
            console.console.print(text)
    console.ledger("Ledger", prepared.result["rows"])


def _asked(path: Path, overrides: list[str]) -> tuple[ExperimentConfig, Workspace]:
    from flows.checking import checked  # with what is looked at: judges and suites, seconds that a `show` is spared
    from tasks.needs import data_lacks

    config = checked(path, overrides, read_settings(), data_lacks).here().config
    return config, workspace(config)


def _prepared(config: ExperimentConfig, place: Workspace) -> tuple[Path, DataError | None]:
    """The folder of the prepared data, and what kept it from being finished."""
    stage = prepared_stage(config, place)
    try:
        prepare(config, place)
    except DataError as error:
        if not (stage.work / "rejected.parquet").exists():
            raise
        return stage.work, error
    return stage.work, None


def _check_rows(config: ExperimentConfig, sources: list[dict[str, Any]]) -> None:
    lost, (read, kept) = unusable(sources), totals(sources)
    shown = "`sft data show CONFIG --rejected` shows them"
    if lost > config.data.max_rejected_share * read:
        raise DataError(f"{lost} of {read} rows cannot be used, and a run stops where it is more than "
                        f"data.max_rejected_share = {config.data.max_rejected_share:g}; {shown}")
    if not kept:
        raise DataError(f"none of {read} rows is left, and there is nothing to train on: the table above says which "
                        f"step took them out; {shown}")
    for source, one in zip(config.data.sources, sources, strict=True):
        if not (source.may_be_empty or totals([one])[1]):
            raise DataError(f"nothing is left of the source {one['name']}: the table above says which step took its "
                            f"rows out, and {shown}; correct it, take it out, set may_be_empty: true there, or, where "
                            "the selection did, leave it out of data.select.sources")


def _next(path: Path, manifest: Path) -> Iterator[str]:
    given, others = shlex.quote(str(path)), VIEWS[1:]
    yield f"read     sft data show {given} --rejected   (or {', '.join(f'--{view}' for view in others)})"
    yield f"page     sft data report {given}   (and what rendering, validation and a mixture leave of these rows)"
    yield f"card     {manifest / 'README.md'}, and manifest.json beside it"


def _print(one: Told) -> None:
    console.lines(f"{one.origin}: {one.kind}: {one.said}")
    for name, side in zip(one.names, one.sides(), strict=True):
        console.lines(*([f"  {name}"] if name else []))
        text = Text.assemble(*((piece.text, "" if piece.same else "bold reverse") for piece in side))
        lines = text.split("\n", allow_blank=True)
        for line in lines:
            console.console.print(Text("    ").append_text(line), soft_wrap=True, highlight=False)
    if len(one.texts) > 1:
        console.lines("")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what stages tell of their way, which the rows asked for would follow."""
    log = logging.getLogger("sft")
    before = log.level
    log.setLevel(logging.WARNING)
    try:
        yield
    finally:
        log.setLevel(before)
