"""One night of a registered model: champion, candidates and their base, asked again and held against what is stored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from eval_suites.results import SuiteResult, write_results
from eval_suites.statistics.pairing import mean_score
from eval_suites.verdict.night import SuiteNight, incomparable, level, refusing, weigh
from infra.contract import CANDIDATE, Tracker
from sft_core.config.evaluate import GateSection, suite_name
from sft_core.config.experiment import ExperimentConfig
from sft_core.errors import EvalError, Interrupted, SftError, TrackingError
from sft_core.locks import exclusive
from sft_core.stage import fingerprint, write_json
from tasks.evaluate import BASE, Subject, evaluate, folder_subject
from tasks.mirror import mirrored
from tasks.needs import check_needs, evaluation_lacks
from tasks.runs import Beside, Recorded, find, write_beside
from tasks.stages import Workspace
from tasks.versions import changes, environment

LONGEST_WHY = 400
ANEW = "sft.anew."
"""Tag of a night that measured a version anew; the version follows."""
ENOUGH = 0.95
"""Of the scores that were stored, for others to take their place."""
Results = Mapping[str, SuiteResult]
CHANGED = ("its files are not those that the stored results are of: something has changed them; put them back, or run "
           "and promote again")
ABSENT = (SftError, OSError, RuntimeError)
"""What a server that is away, a file that is gone or a GPU without room raise: nothing is known of the model then."""


class Guarded(NamedTuple):
    """A version that an alias names, the configuration of its run, and what tonight's results are held against: the
    run's, or those of the night that measured it anew."""

    alias: str
    version: str
    folder: Path
    config: ExperimentConfig
    tuned: Results
    base: Results
    beside: Beside


class Barred(NamedTuple):
    """A version that cannot be asked, and why."""

    alias: str
    version: str
    why: str


class Asked(NamedTuple):
    """What a model was asked tonight; without results, why there are none."""

    results: Results
    why: str = ""


class Night(NamedTuple):
    """One guarded version on one night. `missing`: suite, base/suite, or nothing for all of them → why it was not
    measured. `changed`: what the models are asked with, where it is another one than at the stored evaluation. `score`:
    suite → tonight's mean with its 95 % interval. `results`: of `tuned` and `base`; `versions`: what they were asked
    with."""

    guarded: Guarded | Barred
    suites: Sequence[SuiteNight] = ()
    missing: Mapping[str, str] = {}
    changed: Sequence[str] = ()
    score: Mapping[str, tuple[float, float, float]] = {}
    results: Mapping[str, Results] = {}
    versions: Mapping[str, str] = {}

    @property
    def who(self) -> str:
        """The alias with its version."""
        return f"{self.guarded.alias} (version {self.guarded.version})"

    def key(self, suite: str) -> str:
        """What this suite of this version is remembered by; without one, the version."""
        return f"{self.guarded.version}/{suite}"


def guarded(name: str, alias: str, place: Workspace, tracker: Tracker) -> list[Guarded | Barred]:
    """The version behind the alias, and every candidate that is another one; nothing where the alias names none.

    Raises:
        TrackingError: the tracker cannot be asked.
    """
    versions = tracker.aliases(name)
    if alias not in versions:
        return []
    others = sorted(other for other, version in versions.items()
                    if other.startswith(CANDIDATE) and version != versions[alias])
    return [_guarded(name, one, versions[one], place, tracker) for one in (alias, *others)]


def _guarded(name: str, alias: str, version: str, place: Workspace, tracker: Tracker) -> Guarded | Barred:
    """One that cannot be asked bars no other."""
    try:
        model = tracker.resolve_alias(name, alias)
        run = _run_of(name, alias, model.run_id, place, tracker)
        stored = measured_anew(name, version, place, tracker) or run
        return Guarded(alias, version, model.folder, run.config().config, stored.results("tuned"),
                       stored.results(BASE), stored.beside())
    except Interrupted:
        raise
    except ABSENT as error:
        return Barred(alias, version, _brief(error))


def _run_of(name: str, alias: str, run_id: str, place: Workspace, tracker: Tracker) -> Recorded:
    try:
        return find(run_id, place, tracker)
    except TrackingError as error:
        raise TrackingError(f"its run, with what it scored, cannot be had (`sft promote RUN --name {name} --alias "
                            f"{alias}` names another one): {error}") from error


def _brief(error: BaseException) -> str:
    return " ".join(str(error).split())[:LONGEST_WHY] or type(error).__name__


def measured_anew(name: str, version: str, place: Workspace, tracker: Tracker) -> Recorded | None:
    """The results of the last night that measured this version anew; None where none did."""
    nights = [run for run in tracker.recent(99, {"sft.kind": "nightly", "sft.model": name, ANEW + version: "yes"})
              if run.status == "FINISHED"]
    if not nights:
        return None
    last = max(nights, key=lambda run: int(run.tags["sft.night"])).run_id
    folder = place.scratch / "downloaded" / last
    with exclusive(folder.with_suffix(".lock")):
        if not (folder / version).is_dir():
            tracker.download(last, version, folder)
    return Recorded(f"the night {last}", last, folder / version)


def keep_anew(one: Night, folder: Path) -> Path:
    """Write tonight's results as `measured_anew` finds them; returns the folder that is to be recorded.

    Raises:
        EvalError: something was not measured as wholly as before.
    """
    stays = f"{one.who} cannot be measured anew, and what is stored stays"
    kept = one.guarded
    if isinstance(kept, Barred) or not one.results:
        raise EvalError(f"{stays}: {one.missing['']}")
    for label, before in (("tuned", kept.tuned), (BASE, kept.base)):
        for name, was in before.items():
            scored = _scored(one.results[label][name]) if name in one.results[label] else 0
            if scored < ENOUGH * _scored(was):
                why = "" if scored else f": {one.missing.get(f'{BASE}/{name}' if label == BASE else name, '')}"
                raise EvalError(f"{stays}: {name} of {label} has {scored} scores, {_scored(was)} before{why}")
    into = folder / kept.version
    for label, results in one.results.items():
        for result in results.values():
            write_results(into / "evaluation" / label, result)
    write_beside(into, kept.beside._replace(versions=one.versions))
    return into


def _scored(result: SuiteResult) -> int:
    return sum(item.score is not None for item in result.items)


def night(all_guarded: Sequence[Guarded | Barred], margin: float, occasion: str, place: Workspace) -> list[Night]:
    """Ask each of them and its base again, and compare; what cannot be measured keeps no other from being measured.

    Args:
        all_guarded: from `guarded`.
        margin: points that a suite may fall, and false refusals may rise.
        occasion: a new value for every night; what a killed night with this value has measured is found again.
        place: the workspace.
    """
    place = place._replace(elsewhere=None)  # a night's answers are of no use to other machines
    most = max((refusing(one.tuned) for one in all_guarded if isinstance(one, Guarded)), default=0)
    gate = GateSection(alpha=level(max(len(all_guarded), 1), most), max_tax=margin, max_false_refusals=margin)
    return [_night(one, gate, occasion, place) for one in all_guarded]


def _night(one: Guarded | Barred, gate: GateSection, occasion: str, place: Workspace) -> Night:
    if isinstance(one, Barred):
        return Night(one, missing={"": one.why})
    try:
        return _measured(one, gate, occasion, place)
    except Interrupted:
        raise
    except ABSENT as error:
        return Night(one, missing={"": _brief(error)})


def _measured(one: Guarded, gate: GateSection, occasion: str, place: Workspace) -> Night:
    config = one.config
    tuned = _ask(lambda: _tuned(one), one.tuned, config, occasion, place)
    base = _ask(lambda: _base(one, place), one.base, config, occasion, place)
    changed = changes(one.beside.versions, versions := environment(config.model))
    suites = weigh(one.tuned, tuned.results, (one.base, base.results), gate, elsewhere=bool(changed),
                   floors=one.beside.floors)
    lacking = {f"{BASE}/{name}": why for name, why in _missing(one.base, base, ()).items()}
    scores = {name: mean_score(result) for name, result in tuned.results.items()}
    return Night(one, suites, _missing(one.tuned, tuned, suites) | lacking, changed, {
        name: (found.estimate, *found.bounds(0.05, 1.0)) for name, found in scores.items() if found},
        {"tuned": tuned.results, BASE: base.results}, versions)


def _ask(of: Callable[[], Subject], stored: Results, config: ExperimentConfig, occasion: str, place: Workspace
         ) -> Asked:
    """Without results where the files are not those whose results are stored: then nothing could be compared."""
    try:
        place = mirrored(place, config.data.mirror)
        check_needs(evaluation_lacks(config.eval, place))
        if _others(subject := of(), stored, config, place):
            return Asked({}, CHANGED)
        return Asked(evaluate(subject, config.eval, place, occasion=occasion))
    except Interrupted:
        raise
    except ABSENT as error:
        return Asked({}, _brief(error))


def _others(subject: Subject, stored: Results, config: ExperimentConfig, place: Workspace) -> bool:
    from eval_suites.asking.respondent import identity_of

    asked = {suite_name(one) for one in config.eval.suites} & stored.keys()
    return bool({stored[name].model for name in asked} - {identity_of(subject.model, place.mirror)})


def _tuned(one: Guarded) -> Subject:
    return folder_subject(one.alias, one.folder, one.config.model)


def _base(one: Guarded, place: Workspace) -> Subject:
    """The base through the template that its tuned model was saved with, as it was asked when it was stored."""
    from eval_suites.asking.respondent import own_form

    form = own_form(_tuned(one).model, place.mirror)
    if form is None:
        return Subject(BASE, one.config.model, None)
    kept = {"name": "model", "stops": form.stops, "jinja": form.jinja}
    file = place.scratch / f"template-{fingerprint(kept)}.json"
    write_json(file, kept)
    return Subject(BASE, one.config.model, file)


def _missing(stored: Results, tonight: Asked, suites: Sequence[SuiteNight]) -> dict[str, str]:
    """Suites with a stored score that were not measured against it, and why. Those that a judge graded are no night's.
    """
    found = {one.suite: "; ".join((one.change.said.removeprefix("not measured: "), *one.change.notes))
             for one in suites if one.state == "not_measured"}
    found |= {name: f"{why}; after an upgrade, `sft nightly --rebase` measures it anew"
              for name, why in incomparable(stored, tonight.results).items()}
    found |= {name: tonight.why for name in stored if tonight.why}
    return {name: why for name, why in found.items() if stored[name].score is not None}
