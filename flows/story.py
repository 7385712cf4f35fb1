"""`sft story`: what SFT buys and costs on the tiny world, from several seeds, printed and written as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow

from flows import console
from flows.around import around
from flows.experiment import experiment
from flows.place import connect, workspace
from infra.contract import Tracker
from infra.orchestrator import HOOKS, outcome
from sft_core.config.experiment import TrackingSection
from sft_core.config.file import load
from tasks.runs import local_runs
from tasks.stages import Workspace
from tasks.story import claims, pool, write_story
from tasks.tiny import rebuild

DEMO = Path(__file__).resolve().parent / "configs" / "demo.yaml"
PLAIN = ("train.replay.lambda=0", "train.kl.beta=0")
VARIANTS: dict[str, tuple[str, ...]] = {"sft": PLAIN, "mitigated": ()}
LAB: dict[str, tuple[str, ...]] = {
    f"kl_{on}": ("train.replay.lambda=0", "train.kl.beta=1", f"train.kl.on={on}")
    for on in ("assistant", "replay", "both")
}


def run_story(seeds: int, lab: bool) -> None:
    """Run the story's experiments (finished ones are found again), print its numbers and claims."""
    numbers = outcome(sft_story, seeds, lab)
    file = workspace().root / "story.json"
    console.table(f"The story, {seeds} seeds", write_story(file, numbers))
    console.table("Claims", claims(numbers))
    console.lines(f"written to {file}")


@flow(name="sft-story", flow_run_name="story of {seeds} seeds", **HOOKS)
def sft_story(seeds: int = 3, lab: bool = False) -> dict[str, dict[str, Any]]:
    """Plain and mitigated SFT over several seeds on the tiny world, pooled.

    Args:
        seeds: training seeds per variant.
        lab: also KL to the base on assistant positions, on replay text and on both.
    """
    place = workspace()
    with around(place.root, lambda: connect(TrackingSection(experiment="story"))) as tracker:
        return _told(seeds, lab, place, tracker)


def _told(seeds: int, lab: bool, place: Workspace, tracker: Tracker) -> dict[str, dict[str, Any]]:
    tuned: dict[str, list[Any]] = {}
    base: Any = None
    for variant, changes in (VARIANTS | (LAB if lab else {})).items():
        for seed in range(seeds):
            console.lines(f"{variant}, seed {seed}")
            named = (f"name=story-{variant.replace('_', '-')}-{seed}", f"seed={seed}", "tracking.experiment=story")
            loaded = load(DEMO, [*changes, *named, "tracking.registered_model=null"])
            summary = experiment(loaded, place, tracker, None)
            run = local_runs(place.runs)[summary["run"]]
            tuned.setdefault(variant, []).append(run.results())
            base = base or run.results("base")
    return pool(base, tuned)


def build_tiny(folder: Path) -> None:
    """`sft tiny build`: train the embedded base again and compare it with the committed one."""
    for line in rebuild(folder):
        console.lines(line)
