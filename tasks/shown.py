"""A recorded run for a person, from its folder: what `sft show` tells. Of a run that was killed half-way what is there,
and how to continue."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from infra.contract import ERROR, TrackedRun
from infra.naming import run_page
from sft_core.errors import ConfigError, DamagedFile, EvalError, TrackingError
from sft_core.stage import DONE, read_json
from tasks.facts import LINEAGE, Count, carried_out, chain, changed, described, duration
from tasks.ledger import ledger_remarks, ledger_table
from tasks.listing import Listed
from tasks.runs import EVENTS, Recorded
from tasks.stages import Workspace

Row = Mapping[str, object]
Pairs = list[tuple[str, str]]
TERMS = ("loss", "sft", "replay", "kl")
IN_FULL = ("evaluation", "libraries", "gate")
"""Parts of a lineage that `sft lineage` shows, and that are told of elsewhere or long."""


class Shown(NamedTuple):
    """A run. What is not there is empty, and `missing` says so."""

    run: str
    state: str  # as in tasks/listing.py
    gate: str
    sentence: str  # the verdict's, or why there is none
    suites: list[Row]
    beside: list[tuple[str, list[Row]]]  # further tables of the verdict by their titles
    facts: Pairs
    changed: Pairs
    training: Pairs
    times: Pairs
    ledger: list[Row]
    ledger_remarks: list[str]
    checks: list[Row]
    lineage: list[Row]
    links: Pairs
    missing: list[str]
    next: list[str]


class _Files:
    """The files of a run; what is missing or damaged is noted, once."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.missing = folder, list[str]()

    def read(self, name: str, *wanted: str) -> Mapping[str, Any]:
        """Empty where the file is not there, or does not hold what is wanted."""
        try:
            return dict(read_json(self.folder / name, *wanted))
        except FileNotFoundError:
            self.missing.append(f"{name} is not there")
        except DamagedFile as error:
            self.missing.append(str(error))
        return {}


def here(name: str, place: Workspace) -> Recorded | None:
    """The run of this name in the workspace, whatever of it is damaged; None where there is none."""
    folder = place.runs / name
    if name != folder.name or not (folder / "run.json").exists():
        return None
    return Recorded(name, str(_Files(folder).read("run.json").get("mlflow_run_id", "")), folder)


def shown(run: Recorded, listed: Listed, place: Workspace, ask: Callable[[], TrackedRun]) -> Shown:
    """All that is known of a run.

    Args:
        run: the run.
        listed: how it stands.
        place: the workspace.
        ask: for what the tracker has of it, where it did not come to its end.
    """
    files = _Files(run.folder)
    summary = files.read("summary.json", "gate", "verdict_rows", "ledger", "mlflow_uri", "mlflow_run_id")
    verdict = files.read("verdict.json", "suites", "gate", "reason")
    training, lineage = files.read("training.json", "stored", "steps"), files.read(LINEAGE, "prepared", "gate")
    tracked = None if summary else _asked(ask, files)
    gate = summary.get("gate") or {"outcome": verdict.get("gate", ""), "reason": verdict.get("reason", "")}
    if not (run.folder / "model").exists():
        files.missing.append("its model was removed, or never made: giving its command again makes it")
    return Shown(
        run.name, listed.state, gate["outcome"], gate["reason"] or _why_none(listed, tracked),
        summary.get("verdict_rows") or [_suite(one) for one in verdict.get("suites", ())],
        [(part["title"], part["rows"]) for part in summary.get("beside", ())],
        [*_described(run, files), *(carried_out(training, lineage.get("made_with"),
                                                (run.folder / "training.json").stat().st_mtime) if training else ())],
        _changed(run, training, verdict), list(_trained(training, tracked, listed)),
        list(_times(run, training, lineage, place, files.missing)), list(ledger_table(summary.get("ledger", ()))),
        ledger_remarks(summary.get("ledger", ())),
        [{"check": name, "result": "ok" if good else "FAILED", "seen": said}
         for name, good, said in verdict.get("checks", ())],
        [row for row in chain(lineage) if str(row["part"]).split()[0] not in IN_FULL] if lineage else [],
        list(_links(run, summary or files.read("run.json"))),
        list(dict.fromkeys(files.missing)) if listed.state == "done" else _unfinished(files.missing),
        _next(run, listed, gate["outcome"]))


def _asked(ask: Callable[[], TrackedRun], files: _Files) -> TrackedRun | None:
    try:
        return ask()
    except TrackingError as error:
        files.missing.append(f"MLflow does not tell of it: {error}")
        return None


def _why_none(listed: Listed, tracked: TrackedRun | None) -> str:
    if listed.state == "under way":
        return "no verdict yet: it is under way"
    why = tracked.tags.get(ERROR) if tracked else None
    return f"no verdict: it ended before that, {why or 'without a word: killed, or the machine went down'}"


def _unfinished(missing: list[str]) -> list[str]:
    """Of a run that is not done what is no matter of course."""
    return [said for said in missing if not said.endswith("is not there") and "never made" not in said]


def _suite(one: Mapping[str, Any]) -> Row:
    kind = "tax" if one["kind"] == "capability" else "win"
    interval = None if one["low"] is None else f"{one['low']:+.1f} to {one['high']:+.1f}"
    return {"suite": one["suite"], "tax / win": "–" if one["points"] is None else f"{kind} {one['points']:+.1f}",
            "interval": interval, "items": one["pairs"], "outcome": one["outcome"]}


def _described(run: Recorded, files: _Files) -> Iterator[tuple[str, str]]:
    try:
        yield from described(run.config().config)
    except ConfigError as error:
        files.missing.append(f"its configuration cannot be read: {error}")


def _changed(run: Recorded, training: Mapping[str, Any], verdict: Mapping[str, Any]) -> Pairs:
    if not (training and verdict):
        return []
    base, tuned = {}, {}
    with suppress(EvalError, DamagedFile):  # lengths of answers are left out
        base, tuned = run.results("base"), run.results("tuned")
    counts = [Count(one["lost"], one["gained"], one["pairs"]) for one in verdict["suites"]]
    return [(one.says, f"{one.value} ({one.how})") for one in changed(training, counts, base, tuned)]


def _trained(training: Mapping[str, Any], tracked: TrackedRun | None, listed: Listed) -> Iterator[tuple[str, str]]:
    if training:
        final = ", ".join(f"{name} {training['final'][name]:.4g}" for name in TERMS
                          if training["final"].get(name) is not None)
        yield "losses of the last step", f"{final} nats"
        if training["validation"]:
            step, loss = training["validation"][-1]
            yield "held-out examples", f"{loss:.4g} nats per token after step {step}"
        yield "speed", f"{training['tokens_per_s']:,.0f} tokens/s, on {training['pace']['machine']}"
    elif listed.step is not None:
        losses = {name.removeprefix("train/"): value for name, value in (tracked.metrics if tracked else {}).items()
                  if name.startswith("train/")}
        told = ", ".join(f"{name} {losses[name]:.4g}" for name in TERMS if name in losses)
        of = _planned(listed.config.parent)
        yield "trained so far", f"{listed.step}{f' of {of}' if of else ''} steps{f': {told} nats' if told else ''}"


def _planned(folder: Path) -> int | None:
    """Steps that its training was to take; None where it left no word of that."""
    with suppress(OSError, ValueError, KeyError), (folder / EVENTS).open(encoding="utf-8") as events:
        return int(json.loads(events.readline())["steps"])
    return None


def _times(run: Recorded, training: Mapping[str, Any], lineage: Mapping[str, Any], place: Workspace,
           missing: list[str]) -> Iterator[tuple[str, str]]:
    """What making each stage took, whoever made it."""
    if lineage:
        mark = place.root / "stages" / "prepare" / lineage["prepared"]["fingerprint"] / DONE
        with suppress(FileNotFoundError, DamagedFile):
            yield "prepare", _seconds(read_json(mark).get("seconds"))
    for label in ("base", "tuned"):
        parts = _parts(run.folder / "evaluation" / label, missing)
        if label == "tuned" and training:
            yield "train", _seconds(training["seconds"])
            yield "save", _seconds(training["saving_s"])
        if parts:
            yield f"evaluate {label}", _seconds(sum(parts))


def _parts(folder: Path, missing: list[str]) -> list[float]:
    """Seconds of the suites of one side; none where a file of them is damaged, of which something is missing then."""
    try:
        return [read_json(file, "seconds")["seconds"] for file in folder.glob("*.json")]
    except DamagedFile as error:
        missing.append(str(error))
        return []


def _seconds(took: float | None) -> str:
    return "not known" if took is None else duration(took)


def _links(run: Recorded, told: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "folder", str(run.folder)
    if (run.folder / "report.html").exists():
        yield "page", str(run.folder / "report.html")
    if (run.folder / "data.html").exists():
        yield "data", str(run.folder / "data.html")
    if (run.folder / "model").exists():
        yield "model", str((run.folder / "model").resolve())
    uri, run_id = told.get("mlflow_uri", ""), told.get("mlflow_run_id", "")
    if run_id:
        yield "MLflow", run_page(told.get("mlflow_pages", ""), run_id) or f"{run_id} in {uri}"


def _next(run: Recorded, listed: Listed, gate: str) -> list[str]:
    again = f"sft run {run.folder / 'config.yaml'}"
    if listed.state == "under way":
        return ["sft status"]
    if listed.state == "stopped":
        return [f"sft sweep-worker {listed.sweep}  (continues it)" if listed.sweep else f"{again}  (continues it)",
                f"sft rm {run.name}"]
    promote = [f"sft promote {run.name}"] if gate == "pass" else []
    look = [f"sft open {run.name}"] if (run.folder / "report.html").exists() else []
    talk = [f"sft chat {run.name} --against base"] if (run.folder / "model").exists() else []
    return [*look, *talk, *promote, f"sft compare OTHER {run.name} --flips 3  (OTHER: a run or its id)",
            f"sft lineage {run.name} --verify", f"{again}  (makes it again)"]
