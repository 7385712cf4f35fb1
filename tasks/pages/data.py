"""The page of the data: the way of the rows, what was taken out and put right with examples, mixture and licences."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from sft_core.config.experiment import ExperimentConfig
from sft_core.data.curate.look import KIND
from sft_core.data.provenance.handed import in_words, table, with_ends
from sft_core.stage import write_text
from sft_core.visible import visible
from tasks.curate import Curation, curation
from tasks.data_rows import Kind, Texts, examples
from tasks.data_view import Row, in_percent, in_short, licences, mixture, parts, totals, way
from tasks.experiment import Experiment
from tasks.mixture import Reached, reached_by
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
                    come_to: Reached) -> None:
    """Write the page.

    Args:
        come_to: what becomes of the curated rows in a run.

    Raises:
        DataError: a source must not be put to what `data.use` says.
    """
    found, manifest = curated.done.result, write_manifest(config, curated, place, come_to.ends).result
    (read, kept), sources = totals(found["sources"]), with_ends(found["sources"], come_to.ends)
    shown = list(_shown(config, curated, place))
    tables = list(parts(found))
    values = {
        "title": f"{config.name}: the data", "facts": list(_facts(config, manifest, (read, kept), come_to)),
        "picture": way_picture(sources), "way": way(sources), "views": shown, "parts": tables,
        "says": f"Curated: {kept:,} of {read:,} rows from {len(sources)} source{'s' * (len(sources) != 1)} "
                f"({in_percent(kept, read)}). {in_words(come_to.ends)}",
        "ends": table(come_to.ends), "unknown_ends": come_to.unknown, "mixture": mixture(come_to.mixed),
        "narrow": come_to.narrow,
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
    ended: str  # what became of the curated rows, in a sentence


def record_data(run: Experiment, prepared: Done, trained: Done, place: Workspace) -> DataTold:
    """Write what a run was trained on into its folder: the page, and in `data/` manifest and data card."""
    curated = curation(run.config, place, whole=False)
    sources = curated.done.result["sources"]
    come_to = reached_by(sources, prepared, trained, trained.folder / EVENTS)
    made = write_manifest(run.config, curated, place, come_to.ends)
    for name in (MANIFEST, CARD):
        write_text(run.folder / "data" / name, (made.folder / name).read_text(encoding="utf-8"))
    write_data_page(run.folder / FILE, run.config, curated, place, come_to)
    return DataTold(made.result["fingerprint"], *totals(sources), way(with_ends(sources, come_to.ends)),
                    in_short(sources), in_words(come_to.ends))


def _facts(config: ExperimentConfig, manifest: dict[str, object], rows: tuple[int, int], come_to: Reached
           ) -> Iterator[tuple[str, str]]:
    yield "rows read", f"{rows[0]:,}"
    yield "rows curated", f"{rows[1]:,}"
    if come_to.ends:
        yield "training examples", f"{sum(one.examples for one in come_to.ends):,}"
        yield "used in training", f"{sum(one.used for one in come_to.ends):,}"
    yield "declared use", config.data.use or "none (data.use)"
    yield "fingerprint of the data", str(manifest["fingerprint"])


def _shown(config: ExperimentConfig, curated: Curation, place: Workspace) -> Iterator[_Shown]:
    texts = Texts(config, curated, place, LONGEST)
    for view in KIND:
        kinds = list(examples(view, curated.done.folder, texts, (KINDS, EACH), config.seed))
        if kinds:
            more = [f"{visible(one.name)} {one.many}" for one in kinds[KINDS:]]
            yield _Shown(view, *HEADS[view], kinds[:KINDS], more)
