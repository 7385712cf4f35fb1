"""What all sections are made of: immutable, closed, documented by the docstrings under their fields."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(ge=1)]
OffIsWord = BeforeValidator(lambda value: "off" if value is False else value)
"""YAML 1.1 reads an unquoted `off` as false; where `off` is one of several words it is meant as the word."""


class Section(BaseModel):
    """Base of all sections: immutable, closed, documented by the docstrings under its fields."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, populate_by_name=True, protected_namespaces=()
    )
