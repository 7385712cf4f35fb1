"""Language, task and kind of the training examples: columns in a file beside them, in their order."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from sft_core.errors import DataError

FILE = "labels.parquet"
UNKNOWN = "unknown"


class Labels(NamedTuple):
    """One entry per training example; `unknown` where nothing is known."""

    language: list[str]
    task: list[str]
    kind: list[str]  # human, synthetic or unknown

    def add(self, others: Labels) -> None:
        """These examples come next."""
        for mine, theirs in zip(self, others, strict=True):
            mine += theirs


def write_labels(prepared: Path, labels: Labels) -> None:
    """Write them beside `train.parquet`."""
    pq.write_table(pa.table({name: pa.array(column, pa.string()).dictionary_encode()
                             for name, column in labels._asdict().items()}), prepared / FILE)


def read_labels(prepared: Path, examples: int) -> Labels:
    """The labels of so many examples.

    Raises:
        DataError: the file is missing, or is of other examples.
    """
    try:
        table = pq.read_table(prepared / FILE, columns=list(Labels._fields))
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"cannot read {prepared / FILE}, which the limits of data.mixture need: {error}; prepare the "
                        "data again") from error
    if len(table) != examples:
        raise DataError(f"{prepared / FILE} labels {len(table)} examples, and train.parquet has {examples}; prepare "
                        "the data again")
    return Labels(*(table.column(name).to_pylist() for name in Labels._fields))
