"""Registered models for a person: every version with its run, verdict and what was done to its aliases."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from heapq import merge
from pathlib import Path
from typing import Any, NamedTuple

from infra.contract import Registered, Tracker
from sft_core.errors import TrackingError
from tasks.metrics import differences
from tasks.named import is_folder, run_in
from tasks.promotion import CHAMPION, Step, history, run_of
from tasks.runs import RECORD, Recorded, find, is_run
from tasks.stages import Workspace

GONE = "deleted in MLflow"


class Listed(NamedTuple):
    """One version. `alignment` and `tax` are points by suite, as the run's verdict has them."""

    model: str
    version: str
    aliases: tuple[str, ...]
    run: str
    run_id: str
    gate: str
    alignment: dict[str, float]
    tax: dict[str, float]
    made_s: float
    digest: str
    steps: tuple[Step, ...]

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {**self._asdict(), "steps": [step._asdict() for step in self.steps]}

    def row(self) -> dict[str, object]:
        """For a table."""
        last = self.steps[-1] if self.steps else None
        return {"model": self.model, "version": self.version, "aliases": ", ".join(sorted(self.aliases)),
                "run": self.run, "gate": self.gate, "alignment": _points(self.alignment), "tax": _points(self.tax),
                "registered": _local(self.made_s),
                "last moved": f"{_local(datetime.fromisoformat(last.at).timestamp())} by {last.by}" if last else ""}


def listed_models(name: str | None, tracker: Tracker) -> list[Listed]:
    """All versions of all registered models, or of one, the latest first."""
    found = []
    for one in tracker.registered(name):
        run = run_of(one.run_id, tracker)
        metrics = run.metrics if run else {}
        found.append(Listed(
            one.name, one.version, one.aliases, run.name if run else GONE, one.run_id,
            run.tags.get("sft.gate", "none") if run else "", differences("win", metrics), differences("tax", metrics),
            one.made_s, one.tags.get("sft.digest", ""), tuple(history([one]))))
    return sorted(found, key=lambda one: (one.model, -int(one.version)))


def told_steps(versions: Iterable[Listed]) -> list[str]:
    """What was done to aliases of these versions, a line each: model by model, of each alias in the order of the store,
    and of several as their clocks say."""
    steps: dict[tuple[str, str], list[tuple[Step, str]]] = {}
    for one in versions:
        for step in one.steps:
            steps.setdefault((one.model, step.alias), []).append((step, f"{one.model} {one.version} was {step.told()}"))
    lines = []
    for model in sorted({model for model, _ in steps}):
        of = [sorted(done, key=lambda pair: pair[0].key) for (name, _), done in steps.items() if name == model]
        lines += [line for _, line in merge(*of, key=lambda pair: pair[0].at)]
    return lines


def version_named(reference: str, tracker: Tracker) -> Registered | None:
    """The version behind NAME (its champion, else its latest version), NAME@ALIAS or NAME/VERSION, each also with
    `models:/` in front; None where it is no more than a name, and nothing of that name is registered.

    Raises:
        TrackingError: there is no such version.
    """
    name, at, alias = reference.removeprefix("models:/").partition("@")
    name, slash, number = (name, "", "") if at else name.partition("/")
    versions = {one.version: one for one in tracker.registered(name)}
    if not (versions or at or slash):
        return None
    aliases = tracker.aliases(name)
    version = number or aliases.get(alias or CHAMPION, "" if at else max(versions, key=int, default=""))
    if version not in versions:
        there = ", ".join(f"{name}/{one}" for one in versions) or "nothing of that name"
        raise TrackingError(f"{reference} is not in the registry of {tracker.shown}; there is {there}, with the "
                            f"aliases {', '.join(sorted(aliases)) or 'none'}; `sft models` lists all")
    return versions[version]


def named_run(reference: str, place: Workspace, tracker: Tracker) -> tuple[Recorded, list[Listed]]:
    """The run behind NAME (its champion, else its latest version), NAME@ALIAS, NAME/VERSION, each also with `models:/`
    in front, or behind a run's own name or id, or of a folder with its model, exported ones too; and
    the registered versions of that run. Its model is not fetched.

    Raises:
        TrackingError: there is no such version, or no such run.
    """
    text = reference.removeprefix("models:/")
    if is_folder(reference) and not is_run(reference, place):
        text = run_in(Path(reference).expanduser(), place)
    elif version := version_named(text, tracker):
        text = version.run_id
    try:
        run = find(text, place, tracker, RECORD)
    except TrackingError as error:
        raise TrackingError(f"there is no registered model {reference}, and {error}" if text == reference else
                            f"the run of {reference} is not to be had: {error}") from error
    return run, [one for one in listed_models(None, tracker) if one.run_id == run.run_id]


def _local(when_s: float) -> str:
    return datetime.fromtimestamp(when_s).isoformat(" ", "minutes")


def _points(found: dict[str, float]) -> str:
    return ", ".join(f"{suite} {value:+.1f}" for suite, value in found.items())
