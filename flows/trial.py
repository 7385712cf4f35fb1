"""What the process of one trial does, see `flows/worker.py`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from flows.cli import begin
from flows.logs import told_of
from infra.servers import ensure_prefect
from sft_core.stopping import stop_on_signals


def main(arguments: list[str]) -> int:
    """Run the experiment of a configuration file as a flow run, write its summary as JSON, and return the exit code.

    Args:
        arguments: the configuration, the file for the summary, the MLflow run of the sweep, its study, and the trial's
            number in it. Prefect shows the last two as the flow run's name and tags.
    """
    config, answer, parent, study, number = arguments
    try:
        with stop_on_signals():
            ensure_prefect(begin())
            from prefect import tags

            from flows.experiment import sft_experiment
            from infra.orchestrator import outcome

            named = sft_experiment.with_options(flow_run_name=f"{study} t{int(number):03d}")
            with tags(f"study:{study}", f"trial:{number}", "kind:trial"):
                summary = outcome(named, config, parent_run_id=parent or None)
    except Exception as error:  # a full disk has a different error in each library
        told = told_of(error)
        if told is None:
            raise
        print(f"{type(told).__name__}: {told}", file=sys.stderr)
        return told.exit_code
    Path(answer).write_text(json.dumps(summary), encoding="utf-8")
    return 0
