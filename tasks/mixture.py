"""What the rows of a configuration come to in training, before anything is trained, and what a run says of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sft_core.config.experiment import ExperimentConfig
from sft_core.data.provenance.handed import Handed, handed
from sft_core.errors import SftError
from sft_core.model.where import why_no_model
from tasks.prepare import prepare
from tasks.stages import Done, Workspace
from tasks.train import inputs_of

if TYPE_CHECKING:
    from sft_core.data.mix.plan import Mixed


class Reached(NamedTuple):
    """What becomes of curated rows in a run."""

    ends: Sequence[Handed] = ()  # of every source; nothing where that is not known
    mixed: Sequence[Mixed] = ()  # of every source and label over the epochs of the run; nothing without a mixture
    narrow: str = ""  # what keeps the epochs of the mixture small
    unknown: str = ""  # why none of it can be said


def reached(config: ExperimentConfig, curated: Sequence[Mapping[str, Any]], place: Workspace) -> Reached:
    """What a run will make of the rows; the data is prepared for it, which takes the base's tokenizer.

    Args:
        curated: of every source what `curation.json` says.
    """
    if absent := why_no_model(config.model, place.mirror):
        return Reached(unknown=f"Not known: it is counted in what the base's tokenizer makes of the rows, and "
                               f"{absent.why}.")
    from sft_core.train.inputs import read_data

    try:
        prepared = prepare(config, place)
        data = read_data(inputs_of(config, prepared, place), config.train)
    except SftError as error:
        return Reached(unknown=f"Not known: the data cannot be prepared: {error}.")
    ends, mixture = handed(curated, prepared.result["ledger"], data.course.sft.used_by_source()), data.mixture
    return Reached(ends, mixture.table(config.train.epochs) if mixture else (), mixture.narrow if mixture else "")


def reached_by(curated: Sequence[Mapping[str, Any]], prepared: Done, trained: Done, events: Path) -> Reached:
    """What a run has made of the rows, as its report and its first event say."""
    from sft_core.data.mix.plan import Mixed

    with events.open(encoding="utf-8") as lines:
        told = json.loads(next(lines, "{}"))
    mixed = [Mixed(**{**one, "wanted": one["wanted"] and tuple(one["wanted"])}) for one in told.get("mixture", ())]
    return Reached(handed(curated, prepared.result["ledger"], trained.result["used"]), mixed, told.get("narrow", ""))
