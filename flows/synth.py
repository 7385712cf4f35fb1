"""The flow `sft-synth`: rows that a model writes, by Self-Instruct or by rejection sampling."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow
from prefect.runtime import flow_run

from flows import console, forms
from flows.around import around
from flows.place import connect, workspace
from infra.contract import Tracker
from infra.orchestrator import HOOKS, outcome
from infra.watching import only_to_prefect
from sft_core.config.synth_file import LoadedSynth, load_synth
from sft_core.errors import SftError
from sft_core.visible import shortened
from tasks.stages import Workspace
from tasks.synth.generator import found
from tasks.synth.record import record_synthesis, synthesise


def run_synth(path: Path, overrides: list[str]) -> None:
    """`sft synth`: run the flow and say what came of it, and how it is trained on."""
    summary = outcome(sft_synth, str(path), overrides)
    console.table(f"Synthesis {summary['name']}, by {summary['generator']}", summary["table"])
    console.lines(*summary["report"]["lines"])
    for what, usage in summary["usage"].items():
        console.lines(f"{what:<9} {usage['calls']} calls, {usage['kept']} kept answers, {usage['prompt_tokens']} + "
                      f"{usage['completion_tokens']} tokens, cost {usage['cost']:.4f}")
    console.lines(f"rows      {summary['rows']}", f"left out  {Path(summary['folder']) / 'left.jsonl'}",
                  f"to train  data.sources as in {Path(summary['folder']) / 'source.yaml'}")


def _title() -> str:
    given = flow_run.parameters
    try:
        name = _loaded(given["config"], given["overrides"]).config.name
    except SftError:
        name = str(given["config"])
    return shortened(" · ".join([name, *forms.changes(given["overrides"])]), 150)


def _loaded(config: str, overrides: dict[str, Any] | list[str] | None) -> LoadedSynth:
    return load_synth(forms.synth_path_of(config), forms.lines_of(overrides))


@flow(name="sft-synth", flow_run_name=_title, **HOOKS)
def sft_synth(config: forms.Synthesis = "reject", overrides: forms.Overrides = None) -> dict[str, Any]:
    """Rows that a model writes: new tasks, or verified answers.

    Args:
        config: name of a shipped configuration of synthesis, or path of a YAML file on the worker's machine.
        overrides: fields that are set otherwise than there, e.g. {"reject.samples": 16}, or lines as with `--set`.
    """
    loaded = _loaded(config, overrides)
    place = workspace()
    with around(place.root, lambda: connect(loaded.config.tracking)) as tracker:
        return _synthesised(loaded, place, tracker)


def _synthesised(loaded: LoadedSynth, place: Workspace, tracker: Tracker) -> dict[str, Any]:
    there = loaded._replace(config=found(loaded.config, place, lambda: tracker))
    summary = record_synthesis(there, synthesise(there, place), place, tracker)
    only_to_prefect(*summary["report"]["lines"], f"rows: {summary['rows']}")
    return summary
