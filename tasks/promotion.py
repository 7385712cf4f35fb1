"""Which model of the registry is the champion: moved so that every state in between is one, and recorded.

Two machines share a server and no lock, and each step may be the last one before a kill. So a step is first written
down (a tag of the version), then `previous` moves to the champion, then `champion` moves, then the step is closed.
Whoever reads meanwhile finds the old champion or the new one. The same command again finishes what a kill left.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import NamedTuple

from infra.contract import Registered, TrackedRun, Tracker
from sft_core.errors import ConfigError, GateFailed, TrackingError
from tasks.lineage import check_model, enrol, read_lineage
from tasks.runs import Recorded

CHAMPION, PREVIOUS = "champion", "previous"
PROMOTED, ROLLED_BACK = "promoted", "rolled back"
PREFIX = "sft.step."
"""How the tags begin, of a version and of its run, that say what was done to an alias and when."""
LONGEST_REASON = 2000


class Asked(NamedTuple):
    """Who moves an alias, and why; `override`: although the gate did not pass."""

    by: str
    why: str = ""
    override: bool = False

    def check(self, *, named: bool) -> None:
        """Raises ConfigError where an override does not say why and by whom, `named` being whether that was said."""
        if self.override and not (self.why.strip() and named):
            raise ConfigError("--override goes with --reason TEXT and --by NAME: both are kept with the model for "
                              "whoever asks why it was promoted against its gate")
        if len(self.why) > LONGEST_REASON:
            raise ConfigError(f"--reason has {len(self.why)} characters, and {LONGEST_REASON} are kept; shorten it")


class Step(NamedTuple):
    """One move of an alias. `done` is off while it is under way, and stays so where a kill has cut it off."""

    key: str
    what: str
    alias: str
    version: str
    before: str | None  # the version that the alias named
    by: str
    why: str
    gate: str
    override: bool
    at: str  # UTC, ISO
    done: bool

    def told(self) -> str:
        """In words, for people."""
        end = "" if self.done else ", cut off before its end"
        against = f" against its gate ({self.gate})" if self.override else ""
        return (f"{self.what} to {self.alias}{against} at {self.at} by {self.by}"
                + (f" from version {self.before}" if self.before else "") + (f": {self.why}" if self.why else "") + end)


def history(versions: Iterable[Registered]) -> list[Step]:
    """What was done to aliases of these versions, the oldest first."""
    return sorted((Step(key, **json.loads(text)) for one in versions for key, text in one.tags.items()
                   if key.startswith(PREFIX)), key=lambda step: (step.key, step.at))


def run_of(run_id: str, tracker: Tracker) -> TrackedRun | None:
    """The tracked run of a version; None where it was deleted, which the registry outlives."""
    try:
        return tracker.find_run(run_id)
    except TrackingError:
        return None


def promote(run: Recorded, name: str, alias: str, asked: Asked, tracker: Tracker) -> tuple[Step, bool]:
    """Make a run's model a version of a registered model and the one that the alias names.

    Returns:
        The step, and whether something was moved or finished: off where it was the champion already.

    Raises:
        GateFailed: the run's gate did not pass, and this is no override.
        TrackingError: the run has no verdict, its files are not those that were evaluated, or the tracker refuses.
    """
    lineage = read_lineage(run)
    gate = lineage["gate"]
    if gate["outcome"] != "pass" and not asked.override:
        raise GateFailed(f"{run.name} is not promoted, its gate says {gate['outcome']}: {gate['reason']} Promote "
                         "another run, or this one all the same with --override --reason TEXT --by NAME, which is "
                         "recorded")
    check_model(run, lineage)
    version = enrol(tracker, run.run_id, run.model(), name, run.config().config.tracking.store_models, lineage)
    held = tracker.aliases(name).get(alias)
    last = _last(name, alias, tracker)
    if held == version and last and last.done and last.version == version:
        return last, False
    step = _begin(name, Step("", PROMOTED, alias, version, held if held != version else None, asked.by, asked.why,
                             gate["outcome"], override=gate["outcome"] != "pass", at="", done=False), last, tracker)
    if held != version:
        if alias == CHAMPION:
            step = step._replace(before=_keep(name, version, tracker))
        tracker.set_alias(name, alias, version)
    return _close(name, step, run.run_id, tracker), True


def roll_back(name: str, asked: Asked, tracker: Tracker) -> Step:
    """Make the previous champion the champion again; there is no previous one then.

    Raises:
        TrackingError: there is none, its files are not those that were registered, or the tracker refuses.
    """
    aliases, last = tracker.aliases(name), _last(name, CHAMPION, tracker)
    champion, previous = aliases.get(CHAMPION), aliases.get(PREVIOUS)
    cut = last is not None and last.what == ROLLED_BACK and not last.done and last.version == champion
    if not cut and (previous is None or previous == champion):
        raise TrackingError(_no_way_back(name, champion, last))
    resolved = tracker.resolve_alias(name, CHAMPION if cut else PREVIOUS)  # which looks at its files
    before = champion if champion != resolved.version else None
    step = _begin(name, Step("", ROLLED_BACK, CHAMPION, resolved.version, before, asked.by, asked.why, "",
                             override=False, at="", done=False), last, tracker)
    tracker.set_alias(name, CHAMPION, resolved.version)
    tracker.drop_alias(name, PREVIOUS)
    return _close(name, step, resolved.run_id, tracker)


def _no_way_back(name: str, champion: str | None, last: Step | None) -> str:
    if champion is None:
        return (f"{name} has neither a champion nor a previous one; `sft models` lists what is registered, `sft "
                f"promote RUN --name {name}` makes a run's model the champion")
    if last and last.what == ROLLED_BACK and last.version == champion:
        why = f"it was {last.told()}, and that is undone by promoting that version's run again"
    elif last and not last.done:
        why = f"and version {last.version} was {last.told()}; the same command again finishes that"
    else:
        why = "no promotion has replaced another version by it"
    return (f"{name} has no previous champion to go back to: version {champion} is the champion, {why}; `sft models "
            f"{name}` lists all versions, `sft promote RUN --name {name}` makes another one the champion")


def _last(name: str, alias: str, tracker: Tracker) -> Step | None:
    """The latest step of an alias."""
    steps = [step for step in history(tracker.registered(name)) if step.alias == alias]
    return steps[-1] if steps else None


def _begin(name: str, step: Step, last: Step | None, tracker: Tracker) -> Step:
    """Write a step down: as the one that a kill has cut off, where it is that, else as a new one, in the order in which
    the store has them and not the clocks of machines."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    if last and not last.done and (last.what, last.version) == (step.what, step.version):
        step = step._replace(key=last.key, at=now, before=step.before or last.before)
    else:
        number = int(last.key.removeprefix(PREFIX).partition(".")[0]) + 1 if last else 1
        step = step._replace(key=f"{PREFIX}{number:04}.{step.alias}", at=now)
    tracker.note(name, step.version, {step.key: _text(step)})
    return step


def _keep(name: str, version: str, tracker: Tracker) -> str | None:
    """Point `previous` at the champion, once more where another promotion has moved that meanwhile."""
    while (there := tracker.aliases(name)).get(CHAMPION) not in (None, version, there.get(PREVIOUS)):
        tracker.set_alias(name, PREVIOUS, there[CHAMPION])
    return there.get(CHAMPION)


def _close(name: str, step: Step, run_id: str, tracker: Tracker) -> Step:
    step = step._replace(done=True)
    if run_of(run_id, tracker):
        tracker.set_tags(run_id, {step.key: _text(step)})
    tracker.note(name, step.version, {step.key: _text(step)})
    return step


def _text(step: Step) -> str:
    return json.dumps({key: value for key, value in step._asdict().items() if key != "key"}, ensure_ascii=False)
