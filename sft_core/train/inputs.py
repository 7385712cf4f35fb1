"""What a training run starts from: prepared examples in the order of its course, and their template."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from sft_core.config.data import ModelSection
from sft_core.config.train import TrainSection
from sft_core.data.examples import load_examples
from sft_core.data.mix import labels
from sft_core.data.mix.plan import Mixing, Mixture, mix
from sft_core.errors import DataError, TrainingError
from sft_core.stage import read_json
from sft_core.templates.render import IGNORE, Example
from sft_core.train.course import Course, Packing, Stream, cut, lay_out

T = TypeVar("T")


@dataclass(frozen=True)
class TrainInputs:
    """What is trained, apart from how."""

    prepared: Path  # folder written by prepare(): train, validation and replay Parquet files, template.json
    model: ModelSection
    max_tokens: int  # length of a row, DataSection.max_tokens
    pack: bool  # DataSection.pack
    seed: int
    mirror: Path | None = None
    weights: Mapping[str, float] = field(default_factory=dict)  # SourceSection.weight by source name
    mixing: Mixing | None = None  # DataSection.mixture; None: every example once in an epoch
    kept: Mapping[str, Path] = field(default_factory=dict)  # `train`, `replay` → folder written by reference.keep
    address: str | None = None  # of this machine for others that train with it; None: of the interface towards them


@dataclass(frozen=True)
class ServedTemplate:
    """The chat template as data preparation left it in `template.json`."""

    name: str
    stops: tuple[str, ...]  # tokens that end an answer, a plain one first
    jinja: str
    added: tuple[str, ...] = ()  # tokens that the tokenizer got for it


@dataclass(frozen=True)
class Data:
    """What a run sees, in its order."""

    course: Course
    validation: Stream
    mixture: Mixture | None = None


def read_data(inputs: TrainInputs, section: TrainSection, grow: float = 1.0) -> Data:
    """Load the prepared examples and lay out the course.

    Args:
        grow: lay it out as if there were so many times as many examples, for a forecast from a sample of the rows.

    Raises:
        DataError: prepared files are missing, empty, or not what the ledger says.
        TrainingError: the course has no step.
    """
    train = _examples(inputs.prepared, "train")
    validation = _examples(inputs.prepared, "validation", needed=False)
    replay = _examples(inputs.prepared, "replay") if section.wants_replay else []
    _check_ledger(inputs.prepared, {"train": train, "validation": validation, "replay": replay})
    found = _labels(inputs, len(train))
    train, validation, replay = (_grown(examples, grow) for examples in (train, validation, replay))
    packing = Packing(inputs.max_tokens, inputs.pack, inputs.seed)
    mixture = None
    if inputs.mixing is not None:
        theirs = found and labels.Labels(*(_grown(list(column), grow) for column in found))
        mixture = mix(train, theirs, inputs.mixing, inputs.seed)
    course = lay_out(train, replay, section, packing, inputs.weights, mixture)
    if course.steps == 0:
        raise TrainingError(f"train.epochs {section.epochs:g} of {len(train)} examples makes no step; train longer")
    rows = tuple(packing.rows(validation, "validation", 0)) if validation else ()
    return Data(course, Stream(validation, cut(rows, validation, section)), mixture)


def served_template(prepared: Path) -> ServedTemplate:
    """The template that the data was rendered with.

    Raises:
        DataError: `template.json` is missing.
    """
    try:
        found = read_json(prepared / "template.json")
        return ServedTemplate(found["name"], tuple(found["stops"]), found["jinja"], tuple(found["added_tokens"]))
    except (FileNotFoundError, KeyError) as error:
        raise DataError(f"{prepared}/template.json is missing or incomplete ({error}); prepare the data "
                        "again") from error


def data_digest(prepared: Path, mixing: Mixing | None = None) -> str:
    """Hash of what training reads of the prepared files, 16 hex digits: ids, targets and sources of all examples in
    their order, the template, and the labels that the mixture limits. Where the rows stood before, and what was looked
    for in them, is no part of it."""
    digest = hashlib.sha256()
    for file in (prepared / f"{name}.parquet" for name in ("train", "validation", "replay")):
        digest.update(file.name.encode())
        table = pq.read_table(file, columns=["input_ids", "targets", "source"]) if file.is_file() else pa.table({})
        for batch in table.replace_schema_metadata().combine_chunks().to_batches(max_chunksize=10_000):
            digest.update(batch.serialize())
    template = prepared / "template.json"
    digest.update(template.read_bytes() if template.is_file() else b"")
    if mixing is not None and mixing.needs_labels:
        digest.update((prepared / labels.FILE).read_bytes())
    return digest.hexdigest()[:16]


def _check_ledger(prepared: Path, files: Mapping[str, Sequence[Example]]) -> None:
    """The course is planned from the files; so what the counters must reach is what the ledger says."""
    file = prepared / "ledger.json"
    ledger = read_json(file) if file.is_file() else {}
    for name, examples in files.items():
        found = {f"{name}_examples": len(examples), f"{name}_tokens": sum(len(e.input_ids) for e in examples),
                 f"{name}_trained_tokens": sum(len(e.targets) - e.targets.count(IGNORE) for e in examples)}
        wrong = {key: value for key, value in found.items() if ledger.get(key, value) != value}
        if examples and wrong:
            told = ", ".join(f"{key} {value} (ledger: {ledger[key]})" for key, value in wrong.items())
            raise DataError(f"{prepared}/{name}.parquet does not hold what its ledger.json says: {told}; prepare the "
                            "data again")


def _labels(inputs: TrainInputs, examples: int) -> labels.Labels | None:
    """Those of the training examples, where the mixture limits them, or where they are there to be shown with it."""
    if inputs.mixing is None or not (inputs.mixing.needs_labels or (inputs.prepared / labels.FILE).is_file()):
        return None
    return labels.read_labels(inputs.prepared, examples)


def _grown(entries: list[T], times: float) -> list[T]:
    return entries if times == 1.0 else list(islice(cycle(entries), round(times * len(entries))))


def _examples(prepared: Path, name: str, needed: bool = True) -> list[Example]:
    file = prepared / f"{name}.parquet"
    examples = load_examples(file) if file.is_file() else []
    if needed and not examples:
        raise DataError(f"{file} {'has no rows' if file.is_file() else 'is missing'}, but this run trains on it; "
                        "prepare the data again with the sources of this run")
    return examples
