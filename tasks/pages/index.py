"""The index of a workspace: its runs, sweeps and guarded models, each with a link to its page."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from urllib.parse import quote

from markupsafe import Markup

from eval_suites.verdict.outcome import NONE
from infra.naming import told
from sft_core.errors import ConfigError, DamagedFile
from sft_core.stage import read_json, write_text
from sft_core.visible import visible
from tasks.columns import Columns, Value
from tasks.listing import Listed, listed_run, listed_runs
from tasks.nights import TRENDS
from tasks.pages import nights, sweep
from tasks.pages.shell import rendered
from tasks.runs import REPORT, in_full
from tasks.stages import Workspace

FILE = "index.html"
COMPARED = {"tax": "tax", "win": "win", "loss": "loss", "learning rate": "train.optim.lr", "λ": "train.replay.lambda"}
"""Head → column of `sft runs`, between how a run went and what it took."""
IN_POINTS = ("tax", "win")


def write_index(place: Workspace) -> Path:
    """Write `index.html` into the workspace, which is there, from what its folders say now."""
    text = rendered("index.html.jinja", title=f"Workspace {place.root}", made=_when(datetime.now().timestamp()), lists=[
        ("runs", "Runs", _runs(place),
         "There is none yet; sft run flows/configs/demo.yaml makes one."),
        ("sweeps", "Sweeps", [_sweep(page) for page in sorted(place.root.glob(f"sweeps/*/{sweep.FILE}"))],
         "None has been run to its end here; sft sweep flows/configs/sweep.yaml makes one."),
        ("guarded", "Nights", [_nights(page) for page in sorted(place.root.glob(f"{TRENDS}/*/{nights.FILE}"))],
         "No night has measured anything here."),
    ])
    write_text(place.root / FILE, text)
    return place.root / FILE


def page_of(name: str, place: Workspace) -> Path:
    """The page of a run, of a sweep or of the nights of a model, by its name; of a run, also by the start of its name.

    Raises:
        ConfigError: there is none; says what there is.
        TrackingError: several runs begin so.
    """
    places = (place.runs / name / REPORT, place.root / "sweeps" / name / sweep.FILE,
              place.root / TRENDS / name / nights.FILE)
    if found := next((page for page in places if name and page.is_file()), None):
        return found
    run = place.runs / in_full(name, place)
    if name and (run / REPORT).is_file():
        return run / REPORT
    if name and run.is_dir():
        raise ConfigError(_without_page(listed_run(run, place)))
    there = [page.parent.name for pattern in (f"{place.runs.name}/*/{REPORT}", f"sweeps/*/{sweep.FILE}",
                                              f"{TRENDS}/*/{nights.FILE}") for page in sorted(place.root.glob(pattern))]
    raise ConfigError(f"{name!r} is no run, sweep or guarded model with a page in {place.root}; there are "
                      f"{told(there) or 'none'}; `sft open` alone lists them")


def _without_page(run: Listed) -> str:
    """Why a run has no page, and what comes next."""
    if run.state == "done":
        return f"the page of the run {run.name} is gone; `sft run {run.config}` writes it again"
    why = {"under way": "it is under way", "ended early": "its sweep ended it early"}.get(run.state, "it is not done")
    return f"the run {run.name} has no page: {why}; `sft show {run.name}` says how it stands and what comes next"


def _runs(place: Workspace) -> list[dict[str, object]]:
    """The columns of `sft runs` and those that runs are compared by, without those in which nothing stands."""
    listed = listed_runs(place)
    columns = Columns(listed)
    rows = [_run(one, columns.of(one), place) for one in listed]
    there = [head for head in (rows[0] if rows else ()) if any(row[head] not in (None, "") for row in rows)]
    return [{head: NONE if row[head] in (None, "") else row[head] for head in there} for row in rows]


def _run(one: Listed, values: Mapping[str, Value], place: Workspace) -> dict[str, object]:
    row = dict(one.row())
    if (place.runs / one.name / REPORT).is_file():
        row["run"] = _link(f"{place.runs.name}/{quote(one.name)}/{REPORT}", one.name)
    if one.state == "stopped":
        row["state"] = Markup("stopped: <code>sft show {}</code>").format(visible(one.name))
    first = {head: row.pop(head) for head in ("run", "sweep", "state", "gate")}
    del row["saving"]
    return {**first, **{head: _number(values.get(column), ".1f" if head in IN_POINTS else ".4g")
                        for head, column in COMPARED.items()}, **row}


def _number(value: Value, form: str) -> Value:
    return format(value, form) if isinstance(value, float) else value


def _sweep(page: Path) -> dict[str, object]:
    try:
        found = read_json(page.parent / "front.json", "says", "points")
    except (FileNotFoundError, DamagedFile):
        found = {"says": "–", "points": []}
    return {"sweep": _link(f"sweeps/{quote(page.parent.name)}/{sweep.FILE}", page.parent.name),
            "points": len(found["points"]), "last change": _when(page.stat().st_mtime), "said": found["says"]}


def _nights(page: Path) -> dict[str, object]:
    return {"model": _link(f"{TRENDS}/{quote(page.parent.name)}/{nights.FILE}", page.parent.name),
            "last change": _when(page.stat().st_mtime)}


def _link(target: str, text: str) -> Markup:
    return Markup('<a href="{}">{}</a>').format(target, visible(text))


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).isoformat(" ", "minutes")
