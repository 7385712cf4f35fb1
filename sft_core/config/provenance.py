"""Where data comes from and what it may be used for."""

from __future__ import annotations

import datetime
from typing import Literal

from pydantic import Field, JsonValue, model_validator

from sft_core.config.section import Section

Use = Literal["commercial", "research"]
"""What a data set or a model is for."""
Kind = Literal["human", "synthetic", "unknown"]


class SourceProvenanceSection(Section):
    """What is known of one source."""

    licence: str | None = None
    """Its licence: an SPDX id (`cc-by-4.0`), a common name, or `own` for data of your own or an agreement of your own.
    By default what its files or its page on the hub say."""
    date: datetime.date | None = None
    """The day it was made or fetched: of duplicates the newest can stay (`data.duplicates.keep`)."""
    kind: Kind = "unknown"
    """Who wrote its answers: people, or a model."""
    generator: str | None = None
    """The model that wrote them, e.g. `gpt-4`. The terms of its maker hold beside the licence."""
    prompt_version: str | None = None
    """Version of the prompts that it was given."""
    sampling: dict[str, JsonValue] = Field(default_factory=dict)
    """How it was sampled, e.g. `{temperature: 0.7, top_p: 0.95}`."""

    @model_validator(mode="after")
    def _models_generate(self) -> SourceProvenanceSection:
        said = [name for name in ("generator", "prompt_version", "sampling") if getattr(self, name)]
        if said and self.kind != "synthetic":
            raise ValueError(f"{', '.join(said)} is of what a model wrote, and kind is {self.kind}; set kind: "
                             "synthetic, or take it out")
        return self
