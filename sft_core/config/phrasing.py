"""Rows of plain NLP data as instructions: several phrasings per task, zero-shot or with examples (FLAN)."""

from __future__ import annotations

import re
import string
from functools import cached_property
from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from sft_core.config.section import Section


def columns_of(text: str) -> list[str]:
    """Columns that a phrasing names in braces, in its order; doubled braces are braces.

    Raises:
        ValueError: braces that do not close, or hold anything but a name.
    """
    found = []
    for _, name, form, conversion in string.Formatter().parse(text):
        if name is not None:
            if form or conversion or not re.fullmatch(r"[\w -]+", name):
                raise ValueError(f"{text!r} names {{{name}}}, and braces hold the name of a column and nothing else; "
                                 "write a brace that is meant as {{ or }}")
            found.append(name)
    return found


def written(value: object) -> object:
    """A value as the keys of `labels` spell it: `1` for 1, 1.0 and "1", `true` for a truth value."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if isinstance(value, int | float) else value


Spelled = Annotated[str, BeforeValidator(written)]


class PhrasingSection(Section):
    """One way to ask for one row."""

    prompt: str
    """What the user says, with columns in braces, e.g. `Is this review kind? {text}`."""
    answer: str
    """What the assistant answers, e.g. `{label}`."""

    @model_validator(mode="after")
    def _has_columns(self) -> PhrasingSection:
        for text in (self.prompt, self.answer):
            if not columns_of(text):
                raise ValueError(f"the phrasing {text!r} names no column; write one in braces, e.g. {{text}}")
        return self


class SourcePhrasingSection(Section):
    """How the rows of one source become instructions."""

    phrasings: tuple[PhrasingSection, ...] = ()
    """Phrasings of the task; each row gets one, chosen by its content. With them a source needs no `format`."""
    labels: dict[str, dict[Spelled, str]] = Field(default_factory=dict)
    """Names for the values of columns, e.g. `{label: {0: unkind, 1: kind}}`. A row with another value is rejected."""
    shots: Annotated[int, Field(ge=0, le=16)] = 0
    """So many rows of the same file are asked and answered before the row itself, in turns that are not trained; never
    rows of the validation half."""

    @cached_property
    def named(self) -> tuple[str, ...]:
        """All columns that its phrasings name."""
        return tuple(dict.fromkeys(name for one in self.phrasings for text in (one.prompt, one.answer)
                                   for name in columns_of(text)))

    @model_validator(mode="after")
    def _used(self) -> SourcePhrasingSection:
        if (self.labels or self.shots) and not self.phrasings:
            raise ValueError("labels and shots are of phrasings, and there are none; give phrasings, or take them out")
        if idle := sorted(self.labels.keys() - set(self.named)):
            raise ValueError(f"labels names the column {', '.join(idle)}, which no phrasing does; those name "
                             f"{', '.join(self.named)}")
        return self
