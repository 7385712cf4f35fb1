"""The stage `curate`: sources → checked rows, measured, and those that stay; each step in a stage folder of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from eval_suites.asking.questions import eval_items
from eval_suites.lm_door.data import outside
from eval_suites.suites.suite import named_suites
from infra.orchestrator import stage_task
from sft_core.config.experiment import ExperimentConfig
from sft_core.data.curate.items import EvalItem
from sft_core.stage import Stage
from sft_core.versions import code_version
from tasks.scores import fits_of, scoring_of
from tasks.stages import Done, Workspace, once, version

if TYPE_CHECKING:
    from sft_core.data.curate.chain import Wanted
    from sft_core.data.curate.kept import Kept
    from sft_core.data.workers import Workers


def asked_of(config: ExperimentConfig, place: Workspace) -> object:
    """Stands for the evaluation items that the data is searched for; None where it is not."""
    if not config.data.decontaminate.looks:
        return None
    return [version("questions"), [(one.asked(), outside(one, config.eval, place.mirror))
                                   for one in named_suites(config.eval.suites).values()]]


def items_of(config: ExperimentConfig, place: Workspace) -> Sequence[EvalItem]:
    """The evaluation items that training text is searched for.

    Raises:
        EvalError: they cannot be read.
    """
    if not config.data.decontaminate.looks:
        return ()
    data_path = Path(config.eval.data_path) if config.eval.data_path else None
    return eval_items(config.eval.suites, mirror=place.mirror, include_path=config.eval.include_path,
                      scratch=place.scratch, data_path=data_path)


def wanted_of(config: ExperimentConfig, place: Workspace) -> Wanted:
    """What the curation of this configuration hangs on.

    Raises:
        DataError: a source cannot be found.
        ModelError: nor the model that is to score rows.
    """
    from sft_core.data.curate.chain import Wanted
    from sft_core.data.sources import source_digest

    scoring = scoring_of(config, place)
    if config.data.select is not None:
        scoring = replace(scoring, families=(fits_of(config, place), *scoring.families))
    digests = [source_digest(one, scratch=place.scratch, mirror=place.mirror) for one in config.data.sources]
    return Wanted(config.data, config.seed, digests, asked_of(config, place), lambda: items_of(config, place),
                  place.scratch, place.mirror, scoring)


def curated_stage(wanted: Wanted, place: Workspace) -> Stage:
    """The stage, finished or not."""
    return place.shared("curate", wanted.stamp())


class Curation(NamedTuple):
    """Curated data, and what it came out of."""

    done: Done
    shards: list[Path]  # of every source the folder of its conversations before anything went, their texts put right


@stage_task("curate", "curate the data of {config.name}")
def curate(config: ExperimentConfig, place: Workspace) -> Done:
    """Curate the training data of an experiment, or find it curated.

    Raises:
        DataError, EvalError, ModelError, TemplateError: an input is missing or cannot be used, or too many rows have
            no grade of a judge.
        OrchestrationError: the Dask cluster that SFT_DASK names cannot be used.
    """
    return _curated(wanted_of(config, place), place)


def curation(config: ExperimentConfig, place: Workspace, *, whole: bool = True) -> Curation:
    """The curated data of an experiment, made where it is not there.

    Args:
        whole: what it came out of is there too; else only where nobody has removed it, as for a record of what is.

    Raises:
        DataError, EvalError: an input is missing or cannot be used.
    """
    wanted = wanted_of(config, place)
    stage = curated_stage(wanted, place)
    result = None if whole else stage.take()
    done = _curated(wanted, place) if result is None else Done(stage.fingerprint, stage.work, result, reused=True)
    kept = [place.stages.open(*wanted.rows_kept(at)) for at in range(len(wanted.digests))]
    return Curation(done, [one.work for one in kept if one.take() is not None])


def _curated(wanted: Wanted, place: Workspace) -> Done:
    from sft_core.data.curate.chain import curate as curate_data
    from sft_core.data.curate.kept import Kept

    made = []

    def keep(name: str, stamp: str, make: Callable[[Path], Mapping[str, object]]) -> Kept:
        shared = name == "curate"  # the others are large, and quickly made
        stage = place.shared(name, stamp) if shared else place.stages.open(name, stamp)
        done = once(stage, make, resume=name in ("facts", "normalise"), listed=True)
        made.append(done)
        return Kept(done.folder, done.result)

    with workers_of(wanted.data.processes, place) as workers:
        curate_data(wanted, keep, workers)
    return made[-1]


@contextmanager
def workers_of(several_processes: int | None, place: Workspace) -> Iterator[Workers]:
    """Who computes: so many processes of this machine, or the Dask cluster that SFT_DASK names.

    Raises:
        OrchestrationError: that cluster cannot be used.
    """
    from sft_core.data.workers import processes

    if place.dask is None:
        with processes(several_processes) as workers:
            yield workers
        return
    from infra.dask import cluster, refuse_others

    with cluster(place.dask) as several:
        place.stages.root.mkdir(parents=True, exist_ok=True)  # of a new workspace, for the workers to see
        refuse_others(several, place.stages.root, partial(code_version, "sft_core.data.prepare"))
        yield several
