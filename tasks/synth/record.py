"""What trackers and people are shown of synthesis."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from infra import artifacts, orchestrator
from infra.contract import Tracker
from infra.naming import in_markdown, origin
from infra.orchestrator import stage_task
from sft_core.config.file import flatten
from sft_core.config.synth_file import LoadedSynth
from sft_core.stage import fingerprint
from tasks.stages import Done, Workspace
from tasks.synth.made import LEFT, MANIFEST, REPORT, ROWS, publish
from tasks.versions import head

INTERVALS = ("pass_1", "pass_n", "baseline")
OF_ROUNDS = ("rows", "gain", "repetition", "novelty")
COUNTED = ("prompts", "answers", "kept", "prompts_with_kept", "tokens", "rows", "unanswered")


@stage_task("synthesise", "synthesise {loaded.config.name}")
def synthesise(loaded: LoadedSynth, place: Workspace) -> Done:
    """What a configuration asks for, found or made now.

    Raises:
        DataError, EvalError, ModelError, TemplateError: see `rejection` and `self_instruction`.
    """
    if loaded.config.reject:
        from tasks.synth.reject import rejection

        return rejection(loaded.config, place)
    from tasks.synth.self_instruct import self_instruction

    return self_instruction(loaded.config, place)


@stage_task("record synthesis")
def record_synthesis(loaded: LoadedSynth, done: Done, place: Workspace, tracker: Tracker) -> dict[str, Any]:
    """Put what was made under its name, show it in the tracker and in Prefect; returns the summary.

    Raises:
        TrackingError: the tracker refuses; the folder is complete, and the same command records again.
    """
    config, report = loaded.config, done.result["report"]
    folder = publish(loaded, done, place)
    run_id = tracker.start_run(f"synth-{config.name}", fingerprint("synth", done.fingerprint, config.name),
                               flatten(config), loaded.text, origin("sft synth", head()))
    tracker.log_metrics(run_id, metrics(report))
    for one in report.get("rounds", ()):
        tracker.log_metrics(run_id, {f"rounds/{name}": one[name] for name in OF_ROUNDS}, one["number"])
    for name in (REPORT, MANIFEST, ROWS, LEFT):
        tracker.log_artifacts(run_id, folder / name)
    tracker.describe(run_id, "\n\n".join(in_markdown(line) for line in report["lines"]), [REPORT, MANIFEST])
    tracker.finish(run_id)
    table = rows(report)
    artifacts.show_links(tracker.pages, run_id, config.name, f"synth-{config.name}")
    orchestrator.show(artifacts.table("synth", config.name, table, report["lines"][0]))
    return {"name": config.name, "folder": str(folder), "rows": str(folder / ROWS), "report": report, "table": table,
            "generator": done.result["generator"], "usage": done.result["usage"], "reused": done.reused,
            "mlflow_run_id": run_id}


def metrics(report: Mapping[str, Any]) -> dict[str, float | None]:
    """Numbers for the tracker."""
    found: dict[str, float | None] = {f"synth/{name}": float(report[name]) for name in COUNTED if name in report}
    return found | {f"synth/{name}": report[name]["estimate"] for name in INTERVALS if name in report}


def rows(report: Mapping[str, Any]) -> list[dict[str, object]]:
    """A table: what became of everything, step by step."""
    if "rounds" in report:
        steps = {step: report[step] for step in ("instructions", "instances")}
    else:
        steps = {"answers": {"kept": report["kept"], **report["reasons"]},
                 "prompts": {"asked": report["prompts"], **report["prompts_left_out"]}}
    return [{"step": step, "what became of it": why, "number": number} for step, tally in steps.items()
            for why, number in sorted(tally.items(), key=lambda one: (-one[1], one[0]))]
