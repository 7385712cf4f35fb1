"""The flow `sft-sweep`: starts workers on this machine, watches the study, and shows its front."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from prefect import flow

from flows import console, forms
from flows.around import around
from flows.experiment import named_after
from flows.place import connect, workspace
from flows.worker import give_up
from infra import artifacts, orchestrator, pareto, sweep_view
from infra.contract import Tracker
from infra.importances import importances
from infra.naming import in_markdown, origin, runs_page
from infra.open_runs import running
from infra.settings import read_settings
from infra.study import open_study
from infra.study_contract import ENDED, FROM, OTHER_VERSIONS, Study, TrialRow
from infra.sweep_plots import Shown, sweep_pictures, write_sweep_plots
from infra.watching import only_to_prefect
from sft_core.config.experiment import ExperimentConfig, SearchSection
from sft_core.config.file import LoadedConfig, flatten, load
from sft_core.config.followups import as_searched
from sft_core.errors import (
    ConfigError,
    DataError,
    EvalError,
    ModelError,
    OrchestrationError,
    TemplateError,
    TrackingError,
    TrainingError,
)
from sft_core.stopping import sleep
from tasks.causes import common_cause
from tasks.crew import Crew
from tasks.earlier import beginnings
from tasks.followups import Found, after, confirmation, confirming, placed, varied, wanted
from tasks.front import AXES, IN_WORDS, Kept, dots, measured, note, of_base, pages, summed, texts
from tasks.needs import check_needs, run_lacks
from tasks.pages.sweep import Sweep, write_sweep_page
from tasks.plan import tell_plan
from tasks.prepare import prepare
from tasks.rungs import told
from tasks.stages import Workspace
from tasks.sweep_plan import plan_sweep
from tasks.trial import plan_of, sweep_key
from tasks.versions import differing, found_here, head

log = logging.getLogger("sft")
LOOK_S = 1.0
MOST_TOLD = 30
"""Trials in the note on a sweep's run; its table has all."""


def run_sweep(path: Path, trials: int | None, workers: int, overrides: list[str]) -> None:
    """`sft sweep`: run the flow and show its table."""
    _search(load(path, overrides).config, path)
    summary = orchestrator.outcome(sft_sweep, str(path), trials, overrides, workers)
    console.table(f"Trials (★ on the Pareto front): {summary['study']}", summary["rows"])
    console.lines("", summary["says"], "")
    console.lines(*(f"plot     {file}" for file in summary["plots"]), f"compare  {summary['where_to_look']}")


def _title() -> str:
    return named_after(lambda config: config.search.study if config.search else config.name)


@flow(name="sft-sweep", flow_run_name=_title, **orchestrator.HOOKS)
def sft_sweep(config: forms.Configuration = "sweep", trials: forms.Trials = None,
              overrides: forms.Overrides = None, workers: forms.Workers = 1) -> dict[str, Any]:
    """Search the space of a configuration: alignment up, tax down. A stopped sweep continues.

    Args:
        config: name of a shipped configuration, or path of a YAML file on the worker's machine, with a `search`
            section.
        trials: number of trials in the study at the end; by default `search.trials`.
        overrides: fields that are set otherwise, e.g. {"search.study": "mine"}, or lines as with `--set`.
        workers: how many trials this machine runs at the same time; others join by `sft sweep-worker STUDY`.
    """
    given = forms.loaded(config, overrides)
    check_needs(run_lacks(given.config, workspace(given.config)))
    loaded = given._replace(config=as_searched(given.config))
    search, place = _search(loaded.config, Path(config)), workspace(loaded.config)
    plan, here = plan_of(loaded.config, search), found_here(loaded.config, place)
    earlier = beginnings(loaded.config, plan, here, place.root, _storage(search))
    with (around(place.root, lambda: connect(loaded.config.tracking)) as tracker,
          closing(open_study(plan, place.root, _storage(search))) as study):
        folder = place.root / "sweeps" / search.study
        folder.mkdir(parents=True, exist_ok=True)
        if study.remaining(trials or search.trials):
            differing(study.versions(), here, search)  # after an upgrade; the workers look for themselves
        parent = _parent(loaded, tracker, study)  # whoever was refused has written nothing
        orchestrator.show(lambda: sweep_view.tag(search.study, "sweep"))
        artifacts.show_links(tracker.pages, parent, search.study, search.study)
        with running(tracker, parent):
            for name, rows in earlier.taken.items():
                study.take_over(name, rows)
            study.begin(trials or search.trials, loaded.text, parent, here, earlier.points)
            left = study.remaining()
            many = workers if wanted(loaded.config) else min(workers, left)
            with Crew(search.study, search.storage, many, folder) as crew:
                crew.at_work()  # they import for some seconds
                if left:
                    _tell_plan(loaded.config, search, place, (left, workers))
                found = _worked_off(study, crew, loaded.config, place, tracker)
            return _report(study, found, tracker, parent, place)


def _search(config: ExperimentConfig, path: Path) -> SearchSection:
    if config.search is None:
        raise ConfigError(f"{path} has no search section; flows/configs/sweep.yaml shows one")
    return config.search


def _check_any(study: Study) -> None:
    """Raises OrchestrationError where there is nothing to report: all trials failed."""
    rows = study.trials()
    if rows and not any(row.values for row in rows):
        failed = [row.notes["why"] for row in rows if "why" in row.notes] or ["no word: it lost its worker each time"]
        raise OrchestrationError(f"{len(failed)} trials failed and none came to an end, {common_cause(failed)}; mend "
                                 "the cause and begin again under another name (--set search.study=NAME)")


def _tell_plan(config: ExperimentConfig, search: SearchSection, place: Workspace, size: tuple[int, int]) -> None:
    """Log what one trial takes, and all that are to go, so many at a time. Its own values may make a run of a
    configuration that is none by itself."""
    try:
        prepared = prepare(config, place)
        tell_plan(config, prepared, place, of="plan of a trial")
        for line in plan_sweep(config, search, prepared, place, size).lines():
            log.info("%s", line)
        if search.rungs:
            log.info("%s", told(search.rungs))
    except (DataError, TemplateError, ModelError, EvalError, TrainingError) as error:
        log.warning("no plan of a trial without its own values: %s", error)


def _parent(loaded: LoadedConfig, tracker: Tracker, study: Study) -> str:
    key, params = sweep_key(study.plan), flatten(loaded.config)
    return tracker.start_run(study.plan.name, key, params, loaded.text,
                             {"sft.kind": "sweep", **origin("sft sweep", head())})


def _worked_off(study: Study, crew: Crew, config: ExperimentConfig, place: Workspace, tracker: Tracker) -> Found:
    """Watch over the search, and then over what follows it: the front on its way from the base and under further seeds,
    and what is proposed of all that, on items that were held back."""
    assert config.search is not None, "the sweep checks that"
    if not wanted(config):
        _watch(study, crew, tracker, give_up_after=config.search.give_up_after)
        _check_any(study)
        return placed(study, [], config, place, tracker)
    with closing(open_study(after(study.plan), place.root, _storage(config.search))) as later:
        to_come = study.aim()._replace(trials=1, over=0)
        later.queue((), to_come)  # workers that are done with the search wait for it
        _watch(study, crew, tracker, give_up_after=config.search.give_up_after)
        _check_any(study)
        later.queue([one._asdict() for one in varied(study.pareto(), config)], to_come)
        _watch(later, crew, tracker, to_come.trials)
        found = placed(study, later.trials(), config, place, tracker)
        proposal = found.proposal if config.search.confirm else None
        asked = confirming([proposal.name, *found.default], later.trials(), config) if proposal else []
        later.queue([one._asdict() for one in asked], to_come._replace(trials=0))
        _watch(later, crew, tracker)
        if proposal is None:
            return found
        return found._replace(says=confirmation(proposal, found.default, later.trials(), config, place, tracker))


def _storage(search: SearchSection) -> str | None:
    return search.storage or read_settings().study_storage


def _watch(study: Study, crew: Crew, tracker: Tracker, to_come: int = 0, give_up_after: int | None = None) -> None:
    """Tell what becomes of trials, wherever they run, until all are over but so many that are to come.

    Raises:
        OrchestrationError: this machine has no worker any more, and trials are left.
    """
    told, drawn = {row.number: row.state for row in study.trials()}, dict[int, Mapping[str, object]]()
    what = "follow-up" if study.plan.only_queued else "trial"
    if study.remaining() <= to_come:
        return
    while True:
        here, left = crew.at_work(), study.remaining() - to_come
        for row in study.trials():
            if row.state == "RUNNING" and drawn.get(row.number) != row.params:
                drawn[row.number] = row.params  # told at the next look: its values are drawn one by one
            elif told.get(row.number) != row.state:
                told[row.number] = row.state
                _tell(row, left, what)
                _record(row, tracker)
        if left <= 0:
            return
        if not here:
            give_up(study, give_up_after)
            why = crew.last_words() or "they went without a word"
            raise OrchestrationError(f"the workers of this machine have ended and {left} trials are left: {why}; "
                                     "give the same command again: the sweep continues")
        sleep(LOOK_S)


def _record(row: TrialRow, tracker: Tracker, further: Mapping[str, float] | None = None) -> None:
    """Give a trial's run its objectives, and its numbers as metrics, which MLflow's comparison draws as axes."""
    if (row.values or ENDED in row.notes) and row.notes.get("run_id") and FROM not in row.notes:  # which has them
        searched = {f"search/{field}": value for field, value in row.params.items()
                    if isinstance(value, int | float) and not isinstance(value, bool)}
        held = "confirmed/" * (row.params.get("part") == "held_back")  # other items: not to be plotted among the trials
        values = {f"{held}{name}": value for name, value in (row.values or {}).items()}
        try:
            tracker.log_metrics(row.notes["run_id"], {**values, **searched, **(further or {})})
            if said := {f"sft.{key}": row.notes[key] for key in (OTHER_VERSIONS, ENDED) if row.notes.get(key)}:
                tracker.set_tags(row.notes["run_id"], said)
        except TrackingError as error:
            log.warning("trial %d has no objectives in MLflow (%s); workers of several machines need one server "
                        "(MLFLOW_TRACKING_URI)", row.number, error)


def _tell(row: TrialRow, left: int, what: str) -> None:
    shown = "  ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in row.params.items())
    found = ", ".join(f"{IN_WORDS[name]} {value:.2f}" for name, value in (row.values or {}).items())
    why = row.notes.get("why") or "it lost its worker, and its values are tried again"
    said = {"RUNNING": f"{what} {row.number}, {left} to go: {shown}",
            "COMPLETE": f"{what} {row.number} is done: {found}",
            "PRUNED": f"{what} {row.number} was ended {row.notes.get(ENDED)}",
            "FAIL": f"{what} {row.number} failed: {why}"}[row.state]
    console.lines(said)
    only_to_prefect(said)


def _best(study: Study, rows: Sequence[TrialRow]) -> dict[str, float]:
    """The best of each objective by itself, among trials that keep to all limits."""
    kept = [row.values for row in rows if row.values and not row.broken]
    return {f"best/{name}": (max if direction == "maximize" else min)(values[name] for values in kept)
            for name, direction in study.plan.objectives.items() if kept}


def _note(title: str, says: str, table: Sequence[Mapping[str, str]], columns_say: str) -> str:
    """Markdown: the last word, the trials, and then what their columns mean: MLflow folds what is long."""
    heads = list(table[0]) if table else []
    rows = [[in_markdown(cell) for cell in row.values()] for row in table[:MOST_TOLD]]
    lines = [heads, ["---"] * len(heads), *rows] if heads else []
    left = [f"… and {len(table) - MOST_TOLD} more in trials.json"] if len(table) > MOST_TOLD else []
    return "\n".join([f"**{in_markdown(title)}.** {in_markdown(says)}", "",
                      *(f"| {' | '.join(cells)} |" for cells in lines), *left, "", in_markdown(columns_say)])


def _report(study: Study, ended: Found, tracker: Tracker, parent: str, place: Workspace) -> dict[str, Any]:
    rows, best, folder = study.trials(), study.pareto(), place.root / "sweeps" / study.plan.name
    found, proposal, says = ended.front, ended.proposal, ended.says
    known = {one.name: measured(one) for one in found.points} if found else {}
    for row in rows:
        _record(row, tracker, known.get(str(row.number)))
    kept = Kept(study.plan.name, proposal.name if proposal else "", says)
    links = pages(rows, place, tracker.pages)
    table, drawn = pareto.table(rows, AXES, texts(found, rows, best, kept.proposed)), dots(found, rows, best, links)
    title, columns_say = f"Trials of {study.plan.name}", note(found)
    plots = [pareto.write_picture(drawn, AXES, folder)] if drawn else []
    if found and found.reached:
        plots.append(pareto.write_attainment(drawn, found.reached, AXES, folder))
    pictures = sweep_pictures(rows, Shown(study.plan.name, study.plan.space, AXES,
                                          importances(rows, study.plan.space), of_base(found)))
    plots += write_sweep_plots(pictures, folder)
    if table:
        sweep = Sweep(study.plan.name, says, columns_say, drawn, AXES, table, links, pictures)
        plots.insert(0, write_sweep_page(sweep, folder))
    for file in [*plots, kept.write(folder, found, rows)]:
        tracker.log_artifacts(parent, file, "pareto")
    if table:
        failed = {str(row.number): row.notes.get("why", "") for row in rows if row.state == "FAIL"}
        columns = {column: [row[column] for row in table] for column in table[0]}
        why = [failed.get(name.split()[0], "") for name in columns["trial"]]
        tracker.log_table(parent, "trials.json", columns | {"why": why})
    tracker.log_metrics(parent, {"trials": float(len(rows)), **_best(study, rows), **summed(drawn, found)})
    tracker.describe(parent, _note(title, says, table, columns_say),
                     [*(f"pareto/{file.name}" for file in plots), "trials.json"])
    tracker.set_tags(parent, {"sft.proposed": proposal.sentence if proposal else says, "sft.says": says})
    tracker.finish(parent)
    only_to_prefect(says)
    orchestrator.show(
        artifacts.table("front", kept.study, table, f"{title}: {says}. {columns_say}"),
        lambda: artifacts.page("trials", kept.study, sweep_view.trials_page(
            kept.study, rows, tracker.pages, f"**{in_markdown(title)}**: {in_markdown(says)}", AXES),
            f"{title} with their runs")())
    return {"study": study.plan.name, "rows": table, "plots": [str(plot) for plot in plots], "says": says,
            "where_to_look": runs_page(tracker.pages) or console.where_to_look(tracker.shown)}
