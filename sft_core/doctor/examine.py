"""All checks in their order. Each one runs whatever became of the others, unless it needs what another one makes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from sft_core import stopping
from sft_core.config.data import DataSection, TemplateSection
from sft_core.config.train import TrainSection
from sft_core.doctor import chats, steps
from sft_core.doctor.drill import cut_down
from sft_core.doctor.finding import Finding, Seen, examined, verdict
from sft_core.model.load import check_positions
from sft_core.model.proof import Rows
from sft_core.model.release import give_back
from sft_core.train.inputs import TrainInputs
from sft_core.train.memory import LIBRARIES, in_words, remedies
from sft_core.train.outlook import Outlook, look_ahead
from sft_core.train.reference import with_reference
from sft_core.train.workbench import Workbench, set_up


@dataclass(frozen=True)
class Patient:
    """What is examined: the sections of a run, and its data, prepared."""

    data: DataSection
    template: TemplateSection
    train: TrainSection
    inputs: TrainInputs
    prepared: bool  # `inputs.prepared` is there
    work: Path  # an empty folder for files of the checks


def examine(patient: Patient) -> Iterator[Finding]:
    """Every check, one after the other, each told as soon as it is done.

    Raises:
        Interrupted: Ctrl-C or SIGTERM.
    """
    ward = _Ward(patient)
    for check in CHECKS:
        stopping.check()
        yield examined(check.name, lambda check=check: _look(ward, check))  # type: ignore[misc]


@dataclass
class _Ward:
    """What the checks hand on to those after them; None when it could not be made."""

    patient: Patient
    sample: chats.Sample | None = None
    cut: tuple[TrainInputs, TrainSection] | None = None
    bench: Workbench | None = None
    trained: int = 0  # parameters
    saved: Path | None = None  # a model folder that training wrote
    too_large: str | None = None

    def lacks(self, need: str) -> str | None:
        """Why there is none of it; None when there is."""
        if need == "prepared":
            return None if self.patient.prepared else "the data could not be prepared"
        why = {"sample": "no conversation could be rendered", "bench": "the model could not be set up",
               "cut": "the model could not be set up"}
        return None if getattr(self, need) is not None else why[need]


class _Check(NamedTuple):
    name: str
    needs: str | None
    look: Callable[[_Ward], Seen]


def _look(ward: _Ward, check: _Check) -> Seen:
    if check.needs and (why := ward.lacks(check.needs)):
        return Seen("skipped", f"{why}, see above")
    return check.look(ward)


def _memory(ward: _Ward) -> Seen:
    """The forecast against what is free now."""
    inputs, section = ward.patient.inputs, ward.patient.train
    seen = look_ahead(inputs, section, ward.patient.work)
    found, device = seen.forecast, seen.place.device
    if seen.resident > seen.free:
        ward.too_large = (f"the model with its optimiser takes {in_words(seen.resident)}, "
                          f"{in_words(seen.free)} of {device} memory are free")
    told = (f"{in_words(seen.peak)} of {in_words(seen.free)} free on {device} ({_parts(seen)}); "
            f"{in_words(found.disk)} of {in_words(seen.disk_free)} free on disk")
    tight, full = seen.peak > seen.free, found.disk > seen.disk_free
    less = f"; {remedies(inputs, section, seen.data.course, seen.place)}" if tight else ""
    return verdict(not (tight or full), told + less
                   + ("; free some disk space or lower train.keep_checkpoints" if full else ""))


def _positions(ward: _Ward) -> Seen:
    inputs = ward.patient.inputs
    known = check_positions(inputs.model, inputs.mirror, inputs.max_tokens)
    return verdict(True, f"data.max_tokens is {inputs.max_tokens}; the model "
                   + ("has no bound of positions" if known is None else f"knows {known:,} positions"))


def _masks(ward: _Ward) -> Seen:
    one = ward.patient
    ward.sample = chats.sample_of(one.data, one.template, one.inputs.model, one.inputs.mirror, one.work / "sources")
    return chats.masks(ward.sample)


def _parity(ward: _Ward) -> Seen:
    assert ward.sample is not None, "asked for"
    return chats.parity(ward.sample)


def _attention(ward: _Ward) -> Seen:
    """Sets the model up for the checks after it."""
    one = ward.patient
    if ward.too_large:
        return Seen("skipped", ward.too_large)
    inputs, section = cut_down(one.inputs, one.train, one.work / "cut")
    ward.bench = set_up(with_reference(inputs, section, one.work / "reference"), section)
    ward.trained = sum(p.numel() for p in ward.bench.parameters.values())
    ward.cut = inputs, section
    return steps.attention(ward.bench, inputs.model, Rows(one.inputs.pack, one.inputs.max_tokens))


def _packed(ward: _Ward) -> Seen:
    assert ward.bench is not None, "asked for"
    return steps.packed_as_alone(ward.bench, ward.patient.inputs.model)


def _accumulated(ward: _Ward) -> Seen:
    assert ward.bench is not None, "asked for"
    assert ward.cut is not None, "made with the bench"
    return steps.accumulated_as_at_once(ward.bench, ward.cut[1], ward.patient.inputs.model)


def _merged(ward: _Ward) -> Seen:
    assert ward.bench is not None, "asked for"
    return steps.merged_as_adapter(ward.bench, ward.patient.train)


def _resumed(ward: _Ward) -> Seen:
    assert ward.cut is not None, "asked for"
    if ward.patient.train.engine == "trl":
        return Seen("skipped", "train.engine is trl, which resumes from checkpoints of its own")
    ward.bench = None  # training loads a model of its own; two may be too many
    give_back()
    folder = ward.patient.work / "resume"
    seen = steps.resumed_as_uninterrupted(*ward.cut, ward.trained, folder)
    if (folder / "whole" / "model").is_dir():
        ward.saved = folder / "whole" / "model"
    return seen


def _stops(ward: _Ward) -> Seen:
    assert ward.sample is not None, "asked for"
    return chats.stops(ward.sample, ward.saved)


CHECKS = (
    _Check("positions", None, _positions), _Check("memory", "prepared", _memory),
    _Check("masks", None, _masks), _Check("template parity", "sample", _parity),
    _Check("attention", "prepared", _attention), _Check("packed = alone", "bench", _packed),
    _Check("accumulate 8×1 = 1×8", "bench", _accumulated), _Check("merged = adapter", "bench", _merged),
    _Check("resume = uninterrupted", "cut", _resumed), _Check("stop token", "sample", _stops),
)


def _parts(seen: Outlook) -> str:
    found, work = seen.forecast, seen.work
    own = seen.processes * LIBRARIES if seen.place.device == "cpu" else 0
    named = {"libraries": own, "weights": found.weights,
             "gradients": found.gradients, "moments": found.moments, "base": found.reference,
             "casts": found.casts, "activations": found.activations, "logits": found.logits, "saving": found.saving}
    told = ", ".join(f"{name} {in_words(size)}" for name, size in named.items() if size)
    elsewhere = {"the base": found.reference_elsewhere, "copies for checkpoints": found.copies}
    if main := ", ".join(f"{name} {in_words(size)}" for name, size in elsewhere.items() if size):
        told += f", in main memory {main}"
    return f"{told}; {work.rows} rows, {sum(work.lengths):,} tokens in a pass"
