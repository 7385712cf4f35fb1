"""What takes room in the workspace, who needs it, and what may go by which rule.

Never goes what an alias in the registry names, what a process that is at work may read, what a stopped sweep continues
from, or the results of a run. Everything else can be made again from its configuration. A process that has found or
made a stage shares a lock of it until it ends, so that one that begins between the look and the removal loses nothing.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from infra.contract import Registered, Tracker
from sft_core.locks import is_held, try_exclusive
from sft_core.stage import DONE, USED, read_json
from tasks.runs import EVENTS, Recorded, local_runs
from tasks.stages import Workspace

CHECKPOINTS, CACHES, AGE, BEST = "--checkpoints", "--caches", "--older-than", "--keep-best"
MADE_AGAIN = ("scratch", "cache", "registry")
"""Folders of the workspace whose content is made or fetched again when it is needed."""
KEPT = ("runs", "synth", "nights", "mlartifacts", "mlflow.db", "studies", "sweeps", "prefect", "alive", "locks")
"""What `sft clean` only shows: results, records and logs."""
GATES = {"pass": 2, "undecided": 1, "fail": 0}


class Thing(NamedTuple):
    """Something that takes room. `rule` is the option that removes it, empty where none does."""

    kind: str
    paths: tuple[Path, ...]
    bytes: int
    used: float  # seconds since 1970
    rule: str
    needed: str  # by whom; empty: by nobody
    runs: tuple[Recorded, ...] = ()
    versions: tuple[Registered, ...] = ()


class Rules(NamedTuple):
    """What is to go: checkpoints of finished training, caches, what was not used for so many seconds, and the models
    of all but so many best runs of each experiment."""

    checkpoints: bool = False
    caches: bool = False
    older_than_s: float | None = None
    keep_best: int | None = None


def things(place: Workspace, tracker: Tracker) -> list[Thing]:
    """Everything that takes room, files with several names counted once."""
    seen: set[tuple[int, int]] = set()
    busy = ", ".join(f"{name}, at work now" for name in at_work(place))
    waiting = waiting_since(place)
    runs, versions = list(local_runs(place.runs).values()), tracker.registered()
    found = [*_stages(place, runs, versions, seen, busy, waiting)]
    for name in MADE_AGAIN:
        if (place.root / name).exists():
            found.append(_whole(name, place.root / name, CACHES, busy, seen))
    others = sorted(path for path in place.root.iterdir() if path.name not in ("stages", *MADE_AGAIN))
    found += [_whole(path.name if path.name in KEPT else f"{path.name} (of no run)", path, "", "", seen)
              for path in others]
    return found


def at_work(place: Workspace) -> list[str]:
    """What holds a lock in this workspace, in words: the runs and sweeps that are worked on now, else what there is."""
    named = {"runs/*/lock": "the run {0}", "studies/*.lock": "the sweep {1}"}
    others = {"alive/*.json": "a flow", "stages/*/*/lock": "a stage"}
    for patterns in (named, others):
        held = {name.format(file.parent.name, file.stem) for pattern, name in patterns.items()
                for file in place.root.glob(pattern) if is_held(file)}
        if held:
            return sorted(held)
    return []


def chosen(found: Sequence[Thing], rules: Rules, now: float) -> list[Thing]:
    """What these rules remove; nothing that anybody needs."""
    best = _best(found, rules.keep_best)
    return [one for one in found if not one.needed and _goes(one, rules, one in best, now)]


def _goes(one: Thing, rules: Rules, best: bool, now: float) -> bool:
    aged = rules.older_than_s is not None and now - one.used > rules.older_than_s
    if one.rule == BEST:  # both rules together spare what either spares
        asked = [aged] * (rules.older_than_s is not None) + [not best] * (rules.keep_best is not None)
        return bool(asked) and all(asked)
    return {CHECKPOINTS: rules.checkpoints, CACHES: rules.caches, AGE: aged}.get(one.rule, False)


def remove(one: Thing, tracker: Tracker) -> bool:
    """Remove it, under its stage's locks; False where somebody has begun to use it."""
    if one.rule == CACHES and at_work(Workspace(one.paths[0].parent, None)):
        return False
    stage = next((path for path in one.paths if (path / DONE).exists() or (path / "lock").exists()), None)
    handles = [try_exclusive(stage / name) for name in ("lock", USED)] if stage else []
    if None in handles:
        for handle in filter(None, handles):
            handle.close()
        return False
    for version in one.versions:
        tracker.forget(version)
    if stage:
        (stage / DONE).unlink(missing_ok=True)  # first, so that a half removed stage is none
    for path in one.paths:
        shutil.rmtree(path, ignore_errors=True)
    for handle in filter(None, handles):
        handle.close()
    return True


def _stages(place: Workspace, runs: Sequence[Recorded], versions: Sequence[Registered], seen: set[tuple[int, int]],
            busy: str, waiting: Mapping[str, float]) -> Iterator[Thing]:
    for folder in sorted((place.root / "stages").glob("*/*")):
        used = _used(folder)
        sweep = next((f"the sweep {name}, which can continue" for name, since in waiting.items() if used >= since), "")
        finished = (folder / DONE).exists()
        if finished and (folder / "out" / "checkpoints").is_dir():
            checkpoints = folder / "out" / "checkpoints"
            yield Thing("checkpoints of finished training", (checkpoints,), disk_size(checkpoints, seen), used,
                        CHECKPOINTS, folder.name if is_held(folder / "lock") else "")
        of = tuple(run for run in runs if _leads(run, "model", folder))
        begun = tuple(run for run in runs if not run.finished and run not in of and _leads(run, EVENTS, folder))
        mine = tuple(one for one in versions if one.folder and one.run_id in {run.run_id for run in of})
        alias = ", ".join(f"{one.name}@{name}" for one in mine for name in one.aliases)
        kind = f"stage {folder.parent.name}" + ("" if finished else ", unfinished")
        copies = (*_artifacts(place, of), *(one.folder for one in mine if one.folder))
        size = sum(disk_size(path, seen) for path in (folder, *copies))
        held = "a process, at work now" if is_held(folder / USED) else ""
        yield Thing(kind, (folder, *_artifacts(place, of)), size, used, BEST if of else AGE,
                    alias or busy or held or sweep, of + begun, mine)


def _leads(run: Recorded, link: str, folder: Path) -> bool:
    return (run.folder / link).resolve().is_relative_to(folder)


def _artifacts(place: Workspace, runs: Iterable[Recorded]) -> tuple[Path, ...]:
    """The models that MLflow's local artifacts hold of these runs."""
    return tuple(path for run in runs for path in place.root.glob(f"mlartifacts/*/{run.run_id}/artifacts/model"))


def _best(found: Sequence[Thing], keep: int | None) -> list[Thing]:
    """The things of the best runs of each experiment: first by the gate, then by the mean score of the tuned model."""
    if keep is None:
        return []
    groups: dict[str, list[tuple[tuple[int, float], Thing]]] = {}
    for one in found:
        for run in one.runs if one.rule == BEST else ():
            experiment = read_json(run.folder / "run.json", "experiment")["experiment"]
            groups.setdefault(experiment, []).append((_merit(run), one))
    return [one for group in groups.values() for _, one in sorted(group, key=lambda pair: pair[0])[::-1][:keep]]


def _merit(run: Recorded) -> tuple[int, float]:
    try:
        summary = read_json(run.folder / "summary.json", "suites", "gate")
    except FileNotFoundError:
        return -1, 0.0
    scores = [one["tuned"] for one in summary["suites"].values() if one["tuned"] is not None]
    return GATES[summary["gate"]["outcome"]], sum(scores) / max(1, len(scores))


def waiting_since(place: Workspace) -> dict[str, float]:
    """Sweeps with a trial that has no answer, and when they began: they continue from what was used since then."""
    began = {}
    for folder in sorted((place.root / "sweeps").glob("*/")):
        trials = [file for file in folder.glob("trial-*.json") if not file.name.endswith(".answer.json")]
        if any(not file.with_suffix(".answer.json").exists() for file in trials):
            began[folder.name] = min(file.stat().st_mtime for file in trials)
    return began


def _whole(name: str, path: Path, rule: str, busy: str, seen: set[tuple[int, int]]) -> Thing:
    return Thing(name, (path,), disk_size(path, seen), path.stat().st_mtime, rule, busy)


def _used(stage: Path) -> float:
    """When the stage was last used: its done-mark, of an unfinished one its newest file."""
    mark = stage / DONE
    if mark.exists():
        return mark.stat().st_mtime
    return max((path.stat().st_mtime for path in stage.rglob("*")), default=stage.stat().st_mtime)


def disk_size(path: Path, seen: set[tuple[int, int]]) -> int:
    """Bytes on the disk that were not counted yet; what a link leads to is not this folder's."""
    total = 0
    for file in () if path.is_symlink() else (path, *path.rglob("*")):
        with suppress(FileNotFoundError):
            about = file.lstat()
            if (about.st_dev, about.st_ino) not in seen and not file.is_dir():
                seen.add((about.st_dev, about.st_ino))
                total += about.st_blocks * 512
    return total
