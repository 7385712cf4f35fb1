"""The page of the data: the way of the rows, what was taken out and put right with examples, mixture and licences."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from sft_core.config.experiment import ExperimentConfig
from sft_core.data.curate.look import KIND
from sft_core.data.mix.plan import Mixed
from sft_core.stage import write_text
from sft_core.visible import visible
from tasks.curate import Curation, curation
from tasks.data_rows import Kind, Texts, examples
from tasks.data_view import Row, in_percent, in_short, licences, mixture, parts, totals, way
from tasks.experiment import Experiment
from tasks.pages.shell import rendered
from tasks.pages.way import way_picture
from tasks.provenance import CARD, MANIFEST, unknown_licences, write_manifest
from tasks.runs import EVENTS
from tasks.stages import Done, Workspace

FILE = "data.html"
EACH = 5
"""Examples of a kind."""
KINDS = 12
"""Kinds of a view that have examples; the others are counted."""
LONGEST = 1_500
"""Characters of a text: with all kinds of all views a page stays below 2 MB."""
HEADS: dict[str, tuple[str, str]] = {
    "rejected": ("Left out", "Rows that are not trained on, by reason."),
    "duplicates": ("Duplicates", "On the left the row that went, on the right the one that stays for it; what differs "
                                 "is marked."),
    "changes": ("Texts put right", "Before and after, at the first place that changed."),
    "flaws": ("Flaws", "What is odd about answers, whether data.quality.drop names it or not."),
    "personal": ("Personal data and secrets", "By their beginnings; in the texts placeholders stand for them, whatever "
                                              "data.pii does."),
}


class _Shown(NamedTuple):
    view: str
    head: str
    note: str
    kinds: list[Kind]
    more: list[str]  # kinds without examples


def write_data_page(file: Path, config: ExperimentConfig, curated: Curation, place: Workspace,
                    mixed: Sequence[Mixed] | str = ()) -> None:
    """Write the page.

    Args:
        mixed: what the mixture reaches in a run, or why that cannot be said.

    Raises:
        DataError: a source must not be put to what `data.use` says.
    """
    found, manifest = curated.done.result, write_manifest(config, curated, place).result
    sources, (read, kept) = found["sources"], totals(found["sources"])
    shown = list(_shown(config, curated, place))
    tables = list(parts(found))
    values = {
        "title": f"{config.name}: the data", "facts": list(_facts(config, manifest, (read, kept))),
        "picture": way_picture(sources), "way": way(sources), "views": shown, "parts": tables,
        "says": f"{kept:,} of {read:,} rows from {len(sources)} source{'s' * (len(sources) != 1)} are left "
                f"({in_percent(kept, read)}).",
        "mixture": [] if isinstance(mixed, str) else mixture(mixed), "unmixed": mixed if isinstance(mixed, str) else "",
        "licences": licences(manifest), "unknown": unknown_licences(config, place.mirror),
        "files": [{"source": one["name"], "file": part["name"], "SHA-256": part["sha256"][:16]}
                  for one in manifest["sources"] for part in one["parts"]][:200],
        "seed": config.seed}
    write_text(file, rendered("data.html.jinja", **values))


class DataTold(NamedTuple):
    """The data of a run in short."""

    fingerprint: str  # of the manifest
    rows_in: int
    rows_out: int
    way: list[Row]
    short: list[str]  # the way of every source in a line


def record_data(run: Experiment, trained: Done, place: Workspace) -> DataTold:
    """Write what a run was trained on into its folder: the page, and in `data/` manifest and data card."""
    curated = curation(run.config, place, whole=False)
    made = write_manifest(run.config, curated, place)
    for name in (MANIFEST, CARD):
        write_text(run.folder / "data" / name, (made.folder / name).read_text(encoding="utf-8"))
    write_data_page(run.folder / FILE, run.config, curated, place, _mixed(trained.folder / EVENTS))
    sources = curated.done.result["sources"]
    return DataTold(made.result["fingerprint"], *totals(sources), way(sources), in_short(sources))


def _mixed(events: Path) -> list[Mixed]:
    """What the training said of its mixture when it began."""
    with events.open(encoding="utf-8") as lines:
        told = json.loads(next(lines, "{}"))
    return [Mixed(**{**one, "wanted": one["wanted"] and tuple(one["wanted"])}) for one in told.get("mixture", ())]


def _facts(config: ExperimentConfig, manifest: dict[str, object], rows: tuple[int, int]) -> Iterator[tuple[str, str]]:
    yield "rows read", f"{rows[0]:,}"
    yield "rows left", f"{rows[1]:,}"
    yield "declared use", config.data.use or "none (data.use)"
    yield "fingerprint of the data", str(manifest["fingerprint"])


def _shown(config: ExperimentConfig, curated: Curation, place: Workspace) -> Iterator[_Shown]:
    texts = Texts(config, curated, place, LONGEST)
    for view in KIND:
        kinds = list(examples(view, curated.done.folder, texts, (KINDS, EACH), config.seed))
        if kinds:
            more = [f"{visible(one.name)} {one.many}" for one in kinds[KINDS:]]
            yield _Shown(view, *HEADS[view], kinds[:KINDS], more)
