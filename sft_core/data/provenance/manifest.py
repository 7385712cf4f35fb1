"""What every source is, who made it, what was done to its rows, and what was left of them: plain data for `JSON`.

A shard is part of a source; its files and counts add up in that of the source. The fingerprint of the manifest stands
for the data set: equal files, settings and counts have the same, wherever they lie.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from sft_core.config.provenance import SourceProvenanceSection, Use
from sft_core.data.provenance.handed import Handed
from sft_core.data.provenance.terms import check_use, terms_of, terms_of_generator
from sft_core.errors import DataError
from sft_core.stage import file_digest, fingerprint

VERSION = 1


@dataclass(frozen=True)
class Part:
    """One file of a source, or one shard of it."""

    name: str  # relative to the source
    sha256: str
    bytes: int | None  # None of rows that a hub data set was read as


@dataclass(frozen=True)
class Step:
    """One transformation of the rows of a source."""

    name: str  # normalise, near duplicates, …
    settings: Mapping[str, Any] = field(default_factory=dict)
    rows_in: int = 0
    rows_out: int = 0
    changed: int = 0  # rows that went on with other texts
    reasons: Mapping[str, int] = field(default_factory=dict)  # why the others did not go on

    def __add__(self, other: Step) -> Step:
        """The same step of another shard."""
        reasons = {why: self.reasons.get(why, 0) + other.reasons.get(why, 0)
                   for why in sorted({*self.reasons, *other.reasons})}
        return replace(self, rows_in=self.rows_in + other.rows_in, rows_out=self.rows_out + other.rows_out,
                       changed=self.changed + other.changed, reasons=reasons)


@dataclass(frozen=True)
class SourceRecord:
    """One source. What is not known is None."""

    name: str
    path: str  # relative to the configuration, or a hub id
    revision: str | None
    licence: str | None  # word by word
    licence_from: str | None  # who says so: the configuration, a file, a page
    told: SourceProvenanceSection
    parts: tuple[Part, ...]
    steps: tuple[Step, ...]
    scores: Mapping[str, Any] = field(default_factory=dict)  # by name, how they spread over the rows read and kept
    handed: Handed | None = None  # what a run made of the rows that are left; None where there was none

    def __post_init__(self) -> None:
        """Raises DataError when rows are lost or won between two steps or within one."""
        for step in self.steps:
            if step.rows_in != step.rows_out + sum(step.reasons.values()):
                raise DataError(f"the step {step.name} of {self.name} does not add up: {step.rows_in} rows in, "
                                f"{step.rows_out} out, {sum(step.reasons.values())} left out; this is a bug, please "
                                "report it")
        for one, after in zip(self.steps, self.steps[1:], strict=False):
            if one.rows_out != after.rows_in:
                raise DataError(f"{one.rows_out} rows of {self.name} leave the step {one.name} and {after.rows_in} "
                                f"come to {after.name}; this is a bug, please report it")

    @property
    def rows_in(self) -> int:
        """Rows that were read."""
        return self.steps[0].rows_in if self.steps else 0

    @property
    def rows_out(self) -> int:
        """Rows that are left."""
        return self.steps[-1].rows_out if self.steps else 0

    def to_dict(self) -> dict[str, Any]:
        """Plain data, with what the table of licences knows of it."""
        terms = [one for one in (terms_of(self.licence), terms_of_generator(self.told.generator)) if one]
        return {
            "name": self.name, "path": self.path, "revision": self.revision,
            "licence": {"said": self.licence, "by": self.licence_from, "known": terms_of(self.licence) is not None,
                        "forbids": sorted({use for one in terms for use in one.forbids}),
                        "asks": list(dict.fromkeys(wish for one in terms for wish in one.asks))},
            "date": self.told.date.isoformat() if self.told.date else None, "kind": self.told.kind,
            "generator": self.told.generator, "prompt_version": self.told.prompt_version,
            "sampling": dict(self.told.sampling), "parts": [asdict(part) for part in self.parts],
            "steps": [asdict(step) for step in self.steps], "scores": dict(self.scores),
            "handed": None if self.handed is None else self.handed._asdict(),
            "rows_in": self.rows_in, "rows_out": self.rows_out}


def joined(shards: Sequence[SourceRecord]) -> SourceRecord:
    """The record of a source from those of its shards, in their order; how scores spread cannot be joined.

    Raises:
        DataError: they are of different sources, or have other steps.
    """
    first = shards[0]
    for one in shards[1:]:
        if (one.name, [s.name for s in one.steps]) != (first.name, [s.name for s in first.steps]):
            raise DataError(f"shards of {first.name} went through other steps, or one is of {one.name}; this is a bug, "
                            "please report it")
    steps = first.steps
    for one in shards[1:]:
        steps = tuple(a + b for a, b in zip(steps, one.steps, strict=True))
    return replace(first, parts=tuple(part for one in shards for part in one.parts), steps=steps, scores={})


def parts_of(files: Iterable[Path], folder: Path) -> tuple[Part, ...]:
    """Files of a source by name, with their SHA-256; `folder` is what their names are relative to."""
    return tuple(Part(file.relative_to(folder).as_posix(), file_digest(file), file.stat().st_size)
                 for file in sorted(files))


def manifest(records: Sequence[SourceRecord], use: Use | None, made: datetime.date) -> dict[str, Any]:
    """All sources, as `manifest.json` has it.

    Args:
        use: what the data is for, `data.use`; None where nobody says.
        made: the day; no part of the fingerprint, nor are scores, of which another machine rounds others, nor what a
            run made of the rows.

    Raises:
        DataError: a source must not be put to this use.
    """
    if use is not None:
        for one in records:
            check_use(one.name, use, licence=one.licence, generator=one.told.generator)
    sources = [one.to_dict() for one in records]
    plain = [{name: said for name, said in one.items() if name not in ("scores", "handed")} for one in sources]
    return {"version": VERSION, "fingerprint": fingerprint("manifest", VERSION, use, plain), "made": made.isoformat(),
            "use": use, "rows_in": sum(one.rows_in for one in records),
            "rows_out": sum(one.rows_out for one in records), "sources": sources}
