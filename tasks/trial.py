"""Runs one trial of a sweep in its own process and reads what it found."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from prefect import task
from prefect.cache_policies import NO_CACHE

from infra.children import end, end_with_parent
from infra.contract import Dimension, Plan
from infra.orchestrator import api_url
from infra.settings import child_environment
from sft_core.config.experiment import ExperimentConfig, SearchSection
from sft_core.config.search import ends, is_whole
from sft_core.stage import fingerprint, read_json
from sft_core.stopping import POLL_S, sleep

log = logging.getLogger("sft")
GRACE_S = 60.0  # a trial that is told to stop saves a checkpoint first


class TrialOutcome(NamedTuple):
    """What a trial found: the two objectives, or None and why not."""

    values: dict[str, float] | None
    why: str
    run: str


def plan_of(config: ExperimentConfig, search: SearchSection) -> Plan:
    """The sweep in the study's words; its context is everything a trial's values depend on besides the space."""
    rest = config.model_dump(mode="json", by_alias=True, exclude={"search", "tracking", "name"})
    space = {field: Dimension(*ends(field, span), span.log, span.choices, is_whole(field))
             for field, span in search.space.items()}
    return Plan(
        name=search.study, space=space, objectives={"alignment": "maximize", "tax": "minimize"},
        context=fingerprint(rest, search.alignment, search.capability, "points"), sampler=search.sampler,
        seed=config.seed,
    )


def sweep_key(plan: Plan) -> str:
    """What makes the sweep's own tracked run the same run when it continues."""
    return fingerprint("sweep", plan.name, plan.identity())


@task(name="trial", cache_policy=NO_CACHE, task_run_name="trial-{number}")
def run_trial(number: int, config: ExperimentConfig, folder: Path, parent_run_id: str, renew: Callable[[], None]
              ) -> TrialOutcome:
    """Run one experiment as a flow run in its own process; `renew` is called while it runs.

    Its answer stays in the sweep's folder; its log is `trial-NNN.log`.
    """
    assert config.search is not None, "the sweep checks that"
    settings, answer = folder / f"trial-{number:03d}.json", folder / f"trial-{number:03d}.answer.json"
    alone = config.model_copy(update={"search": None})
    settings.write_text(alone.model_dump_json(by_alias=True, indent=2), encoding="utf-8")  # JSON is YAML
    answer.unlink(missing_ok=True)
    output = folder / f"trial-{number:03d}.log"
    code = _in_own_process([str(settings), str(answer), parent_run_id], output, renew)
    if code or not answer.exists():
        last = [line for line in output.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        return TrialOutcome(None, f"exit code {code}: {last[-1] if last else 'no output'}; see {output}", "")
    summary = read_json(answer)
    return TrialOutcome(objectives(summary, config.search), "", summary["run"])


def objectives(summary: dict[str, Any], search: SearchSection) -> dict[str, float] | None:
    """Mean alignment score and mean tax of a finished run, in points of 100; None when a suite has no score."""
    suites = summary["suites"]
    scores = [suites[name]["tuned"] for name in search.alignment]
    taxes = [suites[name]["tax"] for name in search.capability]
    if any(value is None for value in [*scores, *taxes]):
        return None
    return {"alignment": 100 * sum(scores) / len(scores), "tax": sum(taxes) / len(taxes)}


def _in_own_process(arguments: list[str], output: Path, renew: Callable[[], None]) -> int:
    environment = child_environment({"PREFECT_API_URL": api_url()})  # it reports to the server that this flow uses
    with output.open("w", encoding="utf-8") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.trial", *arguments], stdout=stream, stderr=subprocess.STDOUT,
            env=environment, start_new_session=True, preexec_fn=end_with_parent(),
        )
        try:
            while (code := process.poll()) is None:
                renew()
                sleep(POLL_S)
            return code
        finally:
            if process.poll() is None:
                end(process, GRACE_S)
