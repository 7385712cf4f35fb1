"""What all sections are made of: immutable, closed, documented by the docstrings under their fields."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from sft_core.masking import has_secret
from sft_core.names import name_problem

MOST = 2**63
"""No whole number reaches it: tensors count in 64 bits."""
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(ge=1, lt=MOST)]
OffIsWord = BeforeValidator(lambda value: "off" if value is False else value)
"""YAML 1.1 reads an unquoted `off` as false; where `off` is one of several words it is meant as the word."""


def _checked_name(text: str) -> str:
    if problem := name_problem(text):
        raise ValueError(problem)
    return text


Name = Annotated[str, AfterValidator(_checked_name)]
"""A name that becomes part of a path in the workspace."""


def without_password(instead: str) -> AfterValidator:
    """Refuses a URL with a password: configurations are recorded. `instead`: where it belongs."""

    def check(url: str) -> str:
        if has_secret(url):
            raise ValueError(f"holds a password or token, and configurations are recorded; {instead}")
        return url

    return AfterValidator(check)


class Section(BaseModel):
    """Base of all sections: immutable, closed, documented by the docstrings under its fields."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True, populate_by_name=True,
        protected_namespaces=(),
    )
