"""What the process of one trial does, see `flows/worker.py`."""

from __future__ import annotations

import json
import sys

from flows.cli import begin
from flows.logs import told_of
from infra.servers import ensure_prefect
from sft_core.stopping import stop_on_signals
from tasks.rungs import Rung
from tasks.trial import FAILED_OUTSIDE, OUTSIDE, Order


def main(order: Order, rung: Rung | None = None) -> int:
    """Run the experiment of a trial as a flow run, write its summary as JSON, and return the exit code; with a rung a
    look at the trial instead, on its way there.

    Prefect shows study, number and what follows the trial as the flow run's name and tags.
    """
    try:
        with stop_on_signals():
            ensure_prefect(begin())
            from prefect import tags

            from flows.experiment import sft_experiment
            from flows.rung import sft_rung
            from infra.orchestrator import outcome
            from infra.sweep_view import shown_shortly, trial_tags, trial_title

            (study, number, suffix), parent = order.known, order.parent_run_id or None
            title = " · ".join(filter(None, (trial_title(study, number) + suffix, shown_shortly(order.searched))))
            kind = "follow-up" if suffix else "rung" if rung else "trial"
            with tags(*trial_tags(study, number, kind)):
                if rung:
                    look = sft_rung.with_options(flow_run_name=f"{title} at {rung.name}")
                    summary = outcome(look, str(order.config), rung, parent)
                else:
                    summary = outcome(sft_experiment.with_options(flow_run_name=title), str(order.config),
                                      parent_run_id=parent, searched=dict(order.searched))
    except Exception as error:  # a full disk has a different error in each library
        told = told_of(error)
        if told is None:
            raise
        print(f"{type(told).__name__}: {told}", file=sys.stderr)
        return FAILED_OUTSIDE if isinstance(told, OUTSIDE) else told.exit_code
    order.answer.write_text(json.dumps(summary), encoding="utf-8")
    return 0
