"""The flow `sft-rung`: a look at a trial under way. Train up to a share of its steps → evaluate → record."""

from pathlib import Path
from typing import Any

from prefect import flow

from flows.around import around
from flows.place import connect, workspace
from infra.contract import Tracker
from infra.orchestrator import HOOKS
from infra.watching import only_to_prefect
from sft_core.config.file import LoadedConfig, load
from tasks.evaluate import base_subject, evaluate, folder_subject
from tasks.experiment import open_experiment
from tasks.interpolate import interpolate
from tasks.judge import judged
from tasks.needs import check_needs, run_lacks
from tasks.plan import tell_plan
from tasks.prepare import prepare
from tasks.rungs import Rung, record_rung
from tasks.stages import Workspace
from tasks.train import train_until


# No annotations as texts in this file: Prefect would look for Rung where `orchestrator.outcome` is.
@flow(name="sft-rung", **HOOKS)
def sft_rung(config: str, rung: Rung, parent_run_id: str | None = None) -> dict[str, Any]:
    """One look at a trial; the next one, or `sft-experiment` of the same configuration, continues from there.

    Args:
        config: YAML file of the trial.
        rung: where to look.
        parent_run_id: MLflow run of the sweep.
    """
    loaded = load(Path(config))
    place = workspace(loaded.config)
    with around(place.root, lambda: connect(loaded.config.tracking)) as tracker:
        found = look(loaded, place, tracker, parent_run_id, rung)
        only_to_prefect(f"at {rung.name}: {found.get('values') or 'not measured'}")
        return found


def look(loaded: LoadedConfig, place: Workspace, tracker: Tracker, parent_run_id: str | None, rung: Rung
         ) -> dict[str, Any]:
    """The stages of a look. `paused` is false where the trial is trained beyond it already."""
    loaded = loaded.here()
    config = loaded.config
    check_needs(run_lacks(config, place))
    prepared = prepare(config, place)
    with open_experiment(loaded, prepared, place, tracker, parent_run_id) as run:
        tell_plan(config, prepared, place)
        base = evaluate(base_subject(config, prepared), config.eval, place)
        trained = train_until(config, prepared, place, run.follow, rung.train)
        if not trained.result["paused"]:
            tracker.finish(run.run_id)
            return {"paused": False}
        model = interpolate(config, prepared, trained, place).folder / "model"
        subject = folder_subject(f"tuned-{rung.train:g}", model, config.model)
        tuned = evaluate(subject, rung.asked(config.eval), place)
        base, tuned = judged({name: base[name] for name in tuned}, tuned, config.eval.judge, place,
                             run.folder / rung.folder)
        return record_rung(run, trained, base, tuned, rung)
