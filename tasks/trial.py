"""Runs one trial of a sweep in its own process and reads what it found."""

from __future__ import annotations

import functools
import math
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from infra.children import GRACE_S, Forked, killed_for_memory, last_line
from infra.plans import Dimension, Plan, Value
from infra.study_contract import NOTHING
from sft_core.config.conditions import ordered, point_of
from sft_core.config.experiment import ExperimentConfig, SearchSection
from sft_core.config.file import override
from sft_core.config.search import ends, is_whole
from sft_core.errors import DiskError, Interrupted, OrchestrationError, TrackingError
from sft_core.stage import fingerprint, read_json
from sft_core.stopping import POLL_S, sleep
from tasks.plan import FORECAST
from tasks.stages import Workspace

NO_MEMORY = "ran out of memory"
"""How the reason of such a trial begins."""
OUTSIDE = DiskError, TrackingError, OrchestrationError, Interrupted
"""Errors of what a trial needs around it; its values may do well."""
FAILED_OUTSIDE = 75
"""What its process ends with then (EX_TEMPFAIL)."""
SHORT = ("MemoryError", "OutOfMemoryError", "can't allocate memory", "no memory left")
"""What Python, torch on CUDA and on the CPU, and `sft_core/train/shortage.py` say then."""


class TrialOutcome(NamedTuple):
    """What a trial found: the two objectives, or None and why not."""

    values: dict[str, float] | None
    why: str
    run: str
    run_id: str = ""
    """MLflow's."""
    excess: Mapping[str, float] = NOTHING
    """See `infra.contract.TrialRow`."""
    killed: bool = False
    """Its process was killed from outside, and not for want of memory: its values may do well."""
    ended: str = ""
    """Where and why it was ended early."""
    outside: bool = False
    """What it needs around it failed, see `OUTSIDE`."""


class Known(NamedTuple):
    """As what people find the flow run of a trial, or of one that follows it."""

    study: str
    number: int
    """Of the trial."""
    suffix: str = ""
    """Says what follows the trial, see `sft_core.config.followups.suffix`."""


class Order(NamedTuple):
    """What the process of a trial is to do."""

    config: Path
    answer: Path
    """Gets the summary of the run."""
    parent_run_id: str
    """MLflow run of the sweep."""
    known: Known
    searched: Mapping[str, Value]
    """Searched field → the trial's value."""


class Place(NamedTuple):
    """Where the trials of a worker run."""

    folder: Path
    """The sweep's, with a configuration, a log and an answer for each trial."""
    parent_run_id: str
    """MLflow run of the sweep."""
    environment: Mapping[str, str]
    """Which device they see."""
    other_versions: str = ""
    """What this machine has otherwise than the sweep began with, in words."""
    versions: Mapping[str, str] = {}
    """What this machine has, see `tasks.versions.found_here`."""
    home: Workspace | None = None
    """The worker's workspace, where it shares stages with other machines."""


def plan_of(config: ExperimentConfig, search: SearchSection) -> Plan:
    """The sweep in the study's words; its context is everything a trial's values depend on besides the space."""
    rest = config.model_dump(mode="json", by_alias=True, exclude={"search", "tracking", "name"})
    space = {field: _dimension(field, search) for field in ordered(search.space)}
    points = [point_of(search.space, override(config, point)) for point in ({}, *search.points)]
    return Plan(
        name=search.study, space=space, objectives={"alignment": "maximize", "tax": "minimize"},
        context=fingerprint(rest, search.alignment, search.capability, "points"), sampler=search.sampler,
        seed=config.seed, points=tuple(points), constraints=search.constraints,
    )


def _dimension(field: str, search: SearchSection) -> Dimension:
    span = search.space[field]
    searched = {name: values for name, values in span.when.items() if name in search.space}  # others always hold
    return Dimension(*ends(field, span), span.log, span.choices, is_whole(field), searched)


def sweep_key(plan: Plan) -> str:
    """What makes the sweep's own tracked run the same run when it continues."""
    return fingerprint("sweep", plan.name, plan.identity())


def run_trial(number: int, config: ExperimentConfig, place: Place, run: Callable[[Order], int],
              renew: Callable[[], None], known: Known | None = None) -> TrialOutcome:
    """Run one experiment in its own process: all its memory goes back, and one that dies takes nothing with it.

    Its answer stays in the sweep's folder; its log is `trial-NNN.log`.

    Args:
        number: of the trial.
        config: its configuration.
        place: where, and on which device.
        run: the work of the process; returns its exit code.
        renew: called while it runs.
        known: by default as this trial.
    """
    assert config.search is not None, "the sweep checks that"
    known = known or Known(place.folder.name, number)
    found = answered(f"trial-{number:03d}", known, config, place, run, renew)
    return found if isinstance(found, TrialOutcome) else found_in(found, config.search)


def answered(name: str, known: Known, config: ExperimentConfig, place: Place,
             run: Callable[[Order], int], renew: Callable[[], None]) -> dict[str, Any] | TrialOutcome:
    """The answer of a process of a trial, or a failure; files and log are called `name`."""
    assert config.search is not None, "the sweep checks that"
    settings, answer = (place.folder / f"{name}{end}" for end in (".json", ".answer.json"))
    alone = config.model_copy(update={"search": None})
    settings.write_text(alone.model_dump_json(by_alias=True, indent=2), encoding="utf-8")  # JSON is YAML
    answer.unlink(missing_ok=True)
    output = place.folder / f"{name}.log"
    killed = killed_for_memory()
    order = Order(settings, answer, place.parent_run_id, known, point_of(config.search.space, config))
    code = waited_for(Forked(functools.partial(run, order), output, place.environment), renew)
    if code or not answer.exists():
        dead = code == -signal.SIGKILL
        short = dead and killed_for_memory() > killed
        return TrialOutcome(None, _why(code, output, short), "", killed=dead and not short,
                            outside=code == FAILED_OUTSIDE)
    return dict(read_json(answer))


def _why(code: int, output: Path, short: bool) -> str:
    """Why a trial failed; `short`: the kernel killed for want of memory while it ran."""
    said = last_line(output)
    ended = f"exit code {code}: {said or 'no output'}; see {output}"
    if not short and not any(sign in said for sign in SHORT):
        return ended
    planned = FORECAST.search(" ".join(output.read_text(encoding="utf-8", errors="replace").split()))
    return (f"{NO_MEMORY}: its forecast was {planned[0] if planned else 'not made yet'}; set a smaller "
            "train.micro_rows or data.max_tokens, or train.gradient_checkpointing: true, or keep such values out of "
            f"search.space ({ended})")


def found_in(summary: dict[str, Any], search: SearchSection) -> TrialOutcome:
    """What the summary of a finished run says of a search: mean alignment score and mean tax, in points of 100, and how
    far beyond its limits they are; a failure where a suite has no score."""
    suites, run, run_id = summary["suites"], summary["run"], summary["mlflow_run_id"]
    found = {"alignment": {name: suites[name]["tuned"] for name in search.alignment},
             "tax": {name: suites[name]["tax"] for name in search.capability}}
    lacking = {objective: [name for name, value in of.items() if value is None or not math.isfinite(value)]
               for objective, of in found.items()}
    if said := [f"no {objective}, as {', '.join(names)} has no score" for objective, names in lacking.items() if names]:
        return TrialOutcome(None, f"{'; '.join(said)}; see the run's report", run, run_id)
    alignment, tax = (sum(of.values()) / len(of) for of in found.values())
    values = {"alignment": 100 * alignment, "tax": tax}
    excess = {one.text: one.excess(suites, values) for one in search.limits}
    if missing := [text for text, beyond in excess.items() if beyond is None]:
        return TrialOutcome(None, f"search.constraints: nothing was measured for {', '.join(missing)}; see the run's "
                                  "report", run, run_id)
    told = {text: beyond for text, beyond in excess.items() if beyond is not None}
    return TrialOutcome(values, "", run, run_id, told)


def waited_for(process: Forked, renew: Callable[[], None]) -> int:
    """The exit code of a process, which ends with this one's wait; `renew` is called while it runs."""
    try:
        while (code := process.poll()) is None:
            renew()
            sleep(POLL_S)
        return code
    finally:
        if process.poll() is None:
            process.end(GRACE_S)
