"""What is told when memory runs out, wherever a run is: what it takes by forecast, and what takes less."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sft_core.config.train import TrainSection
from sft_core.errors import TrainingError
from sft_core.model.room import is_short
from sft_core.train.inputs import TrainInputs, read_data
from sft_core.train.memory import remedies
from sft_core.train.outlook import place_of


@contextmanager
def told_when_short(inputs: TrainInputs, section: TrainSection, where: Callable[[], str]) -> Iterator[None]:
    """Around a part of a run that may find no memory.

    Args:
        where: told in the error: what the run was at.

    Raises:
        TrainingError: memory ran out; with the forecast and the remedies.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_short(error):
            raise
        advice = remedies(inputs, section, read_data(inputs, section).course, place_of(inputs.model))
        raise TrainingError(f"no memory left {where()}: {advice}. Smaller passes and checkpointing leave "
                            "the result as it is: set them and start the run again, it continues from its last "
                            "checkpoint") from error
