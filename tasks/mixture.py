"""What the mixture of a configuration reaches, before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sft_core.config.experiment import ExperimentConfig
from sft_core.errors import SftError
from sft_core.model.where import why_no_model
from tasks.prepare import prepare
from tasks.stages import Workspace
from tasks.train import inputs_of, mixing_of

if TYPE_CHECKING:
    from sft_core.data.mix.plan import Mixed


def reached(config: ExperimentConfig, place: Workspace) -> Sequence[Mixed] | str:
    """A row for every source and label over the epochs of a run; or why that cannot be said: what a mixture counts
    takes the base's tokenizer. Nothing where no mixture is asked for."""
    if mixing_of(config) is None:
        return ()
    if absent := why_no_model(config.model, place.mirror):
        return f"Not known: it is counted in what the base's tokenizer makes of the rows, and {absent.why}."
    from sft_core.train.inputs import read_data

    try:
        data = read_data(inputs_of(config, prepare(config, place), place), config.train)
    except SftError as error:
        return f"Not known: the data cannot be prepared: {error}."
    return data.mixture.table(config.train.epochs) if data.mixture else ()
