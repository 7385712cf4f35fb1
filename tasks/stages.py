"""What all tasks share: the workspace, the versions of the rooms, and the rule "look at the mark, then make"."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from sft_core.stage import Stage, StageStore, code_version

ROOT = Path(__file__).resolve().parent.parent


class Workspace(NamedTuple):
    """Where a run keeps its things and where hub ids are looked up first."""

    root: Path
    mirror: Path | None

    @property
    def stages(self) -> StageStore:
        """All stage folders."""
        return StageStore(self.root / "stages")

    @property
    def runs(self) -> Path:
        """One folder per run, with its configuration, verdict and where it was recorded."""
        return self.root / "runs"

    @property
    def scratch(self) -> Path:
        """For files that can be made again at any time."""
        folder = self.root / "scratch"
        folder.mkdir(parents=True, exist_ok=True)
        return folder


class Done(NamedTuple):
    """A finished stage."""

    fingerprint: str
    folder: Path
    result: dict[str, Any]
    reused: bool


def once(stage: Stage, make: Callable[[Path], Mapping[str, object]], *, resume: bool = False) -> Done:
    """The finished stage: found, or made now by `make(folder)`, whose return value goes into the done-mark.

    With `resume`, `make` finds what an earlier, killed try left in the folder; otherwise it finds an empty one.
    """
    if (result := stage.result()) is not None:
        return Done(stage.fingerprint, stage.work, result, reused=True)
    with stage.lock():
        if (result := stage.result()) is not None:
            return Done(stage.fingerprint, stage.work, result, reused=True)
        made = make(stage.resume() if resume else stage.fresh())
        return Done(stage.fingerprint, stage.work, stage.finish(made), reused=False)


@cache
def version(stage: str) -> str:
    """Hash of the code that a stage's output depends on."""
    return code_version(*(ROOT / name for name in CODE[stage]))


CODE: dict[str, tuple[str, ...]] = {
    "prepare": ("sft_core/conversation.py", "sft_core/data", "sft_core/templates", "sft_core/tiny",
                "eval_suites/suites", "eval_suites/lm_door"),
    "train": ("sft_core/model", "sft_core/train"),
    "evaluate": ("eval_suites",),
}
