"""One trial of a sweep as a flow run in its own process: `python -m flows.trial CONFIG ANSWER [PARENT_RUN_ID]`.

A process of its own frees all memory between trials, and a trial that dies takes nothing with it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from flows.cli import begin
from flows.logs import told_of
from infra.servers import ensure_prefect
from sft_core.stopping import stop_on_signals


def main(arguments: list[str]) -> int:
    """Run the trial, write its summary as JSON to ANSWER, and return the exit code."""
    config, answer, *parent = arguments
    try:
        with stop_on_signals():
            ensure_prefect(begin())
            from flows.experiment import sft_experiment
            from infra.orchestrator import outcome

            summary = outcome(sft_experiment, config, parent_run_id=parent[0] if parent else None)
    except Exception as error:  # a full disk has a different error in each library
        told = told_of(error)
        if told is None:
            raise
        print(f"{type(told).__name__}: {told}", file=sys.stderr)
        return told.exit_code
    Path(answer).write_text(json.dumps(summary), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
