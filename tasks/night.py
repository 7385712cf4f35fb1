"""One night of a registered model: champion, candidates and their base, asked again and held against what is stored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from eval_suites.results import SuiteResult, write_results
from eval_suites.statistics.pairing import mean_score
from eval_suites.verdict.night import SuiteNight, incomparable, level, refusing, weigh
from infra.contract import CANDIDATE, Resolved, Tracker
from sft_core.config.evaluate import GateSection
from sft_core.config.experiment import ExperimentConfig
from sft_core.errors import EvalError, Interrupted, SftError
from sft_core.locks import exclusive
from sft_core.stage import fingerprint, write_json
from tasks.evaluate import BASE, Subject, evaluate, folder_subject
from tasks.mirror import mirrored
from tasks.needs import check_needs, evaluation_lacks
from tasks.runs import Recorded, find, write_beside
from tasks.stages import Workspace
from tasks.versions import changes, environment

LONGEST_WHY = 400
ANEW = "sft.anew."
"""Tag of a night that measured a version anew; the version follows."""
ENOUGH = 0.95
"""Of the scores that were stored, for others to take their place."""
Results = Mapping[str, SuiteResult]
ABSENT = (SftError, OSError, RuntimeError)
"""What a server that is away, a file that is gone or a GPU without room raise: nothing is known of the model then."""


class Guarded(NamedTuple):
    """A version that an alias names, the run that it came from, and whose results tonight's are held against: the
    run's, or those of the night that measured it anew."""

    alias: str
    model: Resolved
    run: Recorded
    stored: Recorded


class Asked(NamedTuple):
    """What a model was asked tonight; without results, why there are none."""

    results: Results
    why: str = ""


class Night(NamedTuple):
    """One guarded version on one night. `missing`: suite, or base/suite → why it was not measured. `changed`: what the
    models are asked with, where it is another one than at the stored evaluation. `score`: suite → tonight's mean with
    its 95 % interval. `results`: of `tuned` and `base`; `versions`: what they were asked with."""

    guarded: Guarded
    suites: Sequence[SuiteNight]
    missing: Mapping[str, str]
    changed: Sequence[str]
    score: Mapping[str, tuple[float, float, float]]
    results: Mapping[str, Results]
    versions: Mapping[str, str]

    @property
    def who(self) -> str:
        """The alias with its version."""
        return f"{self.guarded.alias} (version {self.guarded.model.version})"

    def key(self, suite: str) -> str:
        """What this suite of this version is remembered by."""
        return f"{self.guarded.model.version}/{suite}"


def guarded(name: str, alias: str, place: Workspace, tracker: Tracker) -> list[Guarded]:
    """The version behind the alias, and every candidate that is another one.

    Raises:
        TrackingError: the alias points nowhere, a version's files have changed, or its run is gone.
    """
    champion = tracker.resolve_alias(name, alias)
    others = sorted({other for one in tracker.registered() if one.name == name and one.version != champion.version
                     for other in one.aliases if other.startswith(CANDIDATE) and other != alias})
    found = [(alias, champion), *((other, tracker.resolve_alias(name, other)) for other in others)]
    runs = [(alias, model, find(model.run_id, place, tracker)) for alias, model in found]
    return [Guarded(alias, model, run, measured_anew(name, model.version, place, tracker) or run)
            for alias, model, run in runs]


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
    for label, results in one.results.items():
        for name, before in one.guarded.stored.results(label).items():
            scored = _scored(results[name]) if name in results else 0
            if scored < ENOUGH * _scored(before):
                why = "" if scored else f": {one.missing.get(f'{BASE}/{name}' if label == BASE else name, '')}"
                raise EvalError(f"{one.who} cannot be measured anew, and what is stored stays: {name} of {label} has "
                                f"{scored} scores, {_scored(before)} before{why}")
    into = folder / one.guarded.model.version
    for label, results in one.results.items():
        for result in results.values():
            write_results(into / "evaluation" / label, result)
    write_beside(into, one.guarded.stored.beside()._replace(versions=one.versions))
    return into


def _scored(result: SuiteResult) -> int:
    return sum(item.score is not None for item in result.items)


def night(all_guarded: Sequence[Guarded], margin: float, occasion: str, place: Workspace) -> list[Night]:
    """Ask each of them and its base again, and compare.

    Args:
        all_guarded: from `guarded`.
        margin: points that a suite may fall, and false refusals may rise.
        occasion: a new value for every night; what a killed night with this value has measured is found again.
        place: the workspace.

    Raises:
        EvalError: a run has no stored results. ConfigError: its configuration cannot be read.
    """
    place = place._replace(elsewhere=None)  # a night's answers are of no use to other machines
    stored = [one.stored.results("tuned") for one in all_guarded]
    gate = GateSection(alpha=level(len(stored), max(map(refusing, stored))), max_tax=margin, max_false_refusals=margin)
    return [_night(one, before, gate, occasion, place) for one, before in zip(all_guarded, stored, strict=True)]


def _night(one: Guarded, stored: Results, gate: GateSection, occasion: str, place: Workspace) -> Night:
    config, beside = one.run.config().config, one.stored.beside()
    base_stored = one.stored.results(BASE)
    tuned = _same(stored, _ask(lambda: _tuned(one, config), config, occasion, place))
    base = _same(base_stored, _ask(lambda: _base(one, config, place), config, occasion, place))
    changed = changes(beside.versions, versions := environment(config.model))
    suites = weigh(stored, tuned.results, (base_stored, base.results), gate, elsewhere=bool(changed),
                   floors=beside.floors)
    lacking = {f"{BASE}/{name}": f"the base on {why}" for name, why in _missing(base_stored, base, ()).items()}
    scores = {name: mean_score(result) for name, result in tuned.results.items()}
    return Night(one, suites, _missing(stored, tuned, suites) | lacking, changed, {
        name: (found.estimate, *found.bounds(0.05, 1.0)) for name, found in scores.items() if found},
        {"tuned": tuned.results, BASE: base.results}, versions)


def _ask(of: Callable[[], Subject], config: ExperimentConfig, occasion: str, place: Workspace) -> Asked:
    try:
        place = mirrored(place, config.data.mirror)
        check_needs(evaluation_lacks(config.eval, place))
        return Asked(evaluate(of(), config.eval, place, occasion=occasion))
    except Interrupted:
        raise
    except ABSENT as error:
        return Asked({}, " ".join(str(error).split())[:LONGEST_WHY] or type(error).__name__)


def _tuned(one: Guarded, config: ExperimentConfig) -> Subject:
    return folder_subject(one.alias, one.model.folder, config.model)


def _base(one: Guarded, config: ExperimentConfig, place: Workspace) -> Subject:
    """The base through the template that its tuned model was saved with, as it was asked when it was stored."""
    from eval_suites.asking.respondent import own_form

    form = own_form(_tuned(one, config).model, place.mirror)
    if form is None:
        return Subject(BASE, config.model, None)
    kept = {"name": "model", "stops": form.stops, "jinja": form.jinja}
    file = place.scratch / f"template-{fingerprint(kept)}.json"
    write_json(file, kept)
    return Subject(BASE, config.model, file)


def _same(stored: Results, tonight: Asked) -> Asked:
    """Without results where the files that were asked are not those whose results are stored."""
    other = [name for name, one in tonight.results.items() if name in stored and stored[name].model != one.model]
    return Asked({}, "its files are not those that the stored results are of: something has changed them; put them "
                     "back, or run and promote again") if other else tonight


def _missing(stored: Results, tonight: Asked, suites: Sequence[SuiteNight]) -> dict[str, str]:
    """Suites with a stored score that were not measured against it, and why. Those that a judge graded are no night's.
    """
    found = {one.suite: one.said for one in suites if one.state == "not_measured"}
    found |= {name: f"{name} not measured: {why}; after an upgrade, `sft nightly --rebase` measures it anew"
              for name, why in incomparable(stored, tonight.results).items()}
    found |= {name: f"{name} not measured: {tonight.why}" for name in stored if tonight.why}
    return {name: why for name, why in found.items() if stored[name].score is not None}
