"""What all tasks share: the workspace, the versions of the rooms, and the rule "look at the mark, then make"."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from infra.shared_stages import SharedStages
from sft_core.stage import Stage, StageStore
from sft_core.stopping import check
from sft_core.versions import code_version
from tasks.shared import SharedStage

log = logging.getLogger("sft")
WORTH_TELLING_S = 1.0


class Workspace(NamedTuple):
    """Where a run keeps its things and where hub ids are looked up first."""

    root: Path
    mirror: Path | None
    elsewhere: SharedStages | None = None
    """Where other machines keep finished stages, and look for ours."""
    address: str | None = None
    """Of this machine for others that train with it; None: of the interface by which it reaches others."""
    dask: str | None = None
    """The Dask cluster that works on data, see `infra/dask.py`; None: processes of this machine."""

    @property
    def stages(self) -> StageStore:
        """All stage folders."""
        return StageStore(self.root / "stages")

    def shared(self, name: str, stamp: str) -> Stage:
        """A stage that many runs have in common; other machines may have made it, and may need it."""
        stage = self.stages.open(name, stamp)
        return SharedStage(name, stamp, stage.folder, self.elsewhere) if self.elsewhere else stage

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
    """A finished stage; `seconds` is what making it took, when it was made, None where that is not known."""

    fingerprint: str
    folder: Path
    result: dict[str, Any]
    reused: bool
    seconds: float | None = None


def once(stage: Stage, make: Callable[[Path], Mapping[str, object]], *, resume: bool = False, listed: bool = False
         ) -> Done:
    """The finished stage: found, or made now by `make(folder)`, whose return value goes into the done-mark.

    With `resume`, `make` finds what an earlier, killed try left in the folder; otherwise it finds an empty one. With
    `listed`, a stage of which a file was removed or cut off is made again: what comes behind it would miss rows.
    """
    check()
    if (found := _found(stage)) is not None:
        return found
    with stage.lock():
        if (found := _found(stage)) is not None:
            return found
        if lost := stage.lost():
            log.warning("%s: %s of its files missing or cut off since it was made, the first %s; it is made again",
                        stage.name, f"{len(lost)} are" if len(lost) > 1 else "1 is", lost[0])
        began = time.monotonic()
        made = make(stage.resume() if resume else stage.fresh())
        seconds = round(time.monotonic() - began, 1)
        if seconds >= WORTH_TELLING_S:
            log.info("%s: made in %.1f s", _named(stage, made), seconds)
        result = stage.finish(made, seconds, listed=listed)
        return Done(stage.fingerprint, stage.work, result, reused=False, seconds=seconds)


def _found(stage: Stage) -> Done | None:
    result = stage.take()
    if result is None:
        return None
    if (stage.seconds or 0.0) >= WORTH_TELLING_S:
        log.info("%s: found; it took %.1f s when it was made", _named(stage, result), stage.seconds)
    return Done(stage.fingerprint, stage.work, result, reused=True, seconds=stage.seconds)


def _named(stage: Stage, result: Mapping[str, object]) -> str:
    """Of a stage that there are several of in one run, also what it is of."""
    return f"{stage.name} ({result['of']})" if "of" in result else stage.name


def version(what: str) -> str:
    """Hash of the code that what a stage keeps depends on."""
    return code_version(*CODE[what], beyond=BEYOND.get(what, ()))


CODE: dict[str, tuple[str, ...]] = {
    "prepare": ("sft_core.data.prepare", "sft_core.model.load"),
    "questions": ("eval_suites.asking.questions",),
    "reference": ("sft_core.train.reference",),
    "train": ("sft_core.train.engine",),
    "interpolate": ("sft_core.train.interpolate",),
    "probe": ("eval_suites.asking.probe",),
    "evaluate": ("eval_suites.asking.run",),
    "looks": ("eval_suites.verdict.sequential",),
    "floors": ("eval_suites.asking.again",),
    "power": ("eval_suites.verdict.power",),
    "verdict": ("eval_suites.verdict.verdict",),
}
"""Where the code of each begins; what it reaches, `sft_core/versions.py` finds."""
BEYOND = {"questions": ("eval_suites.scorers", "eval_suites.backends", "sft_core.model")}
"""What a suite asks hangs neither on who answers nor on how answers are scored: a new scorer trains no model again."""
