"""Scores of rows that a model gives: how likely it finds their answers, and a judge's grades."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, FiniteFloat, model_validator

from sft_core.config.evaluate import EndpointSection
from sft_core.config.section import Positive, Section, Share

ModelScore = Literal["perplexity", "ifd"]
Score = Literal["perplexity", "ifd", "judge"]


def _in_order(ends: tuple[float | None, float | None]) -> tuple[float | None, float | None]:
    low, high = ends
    if low is None and high is None:
        raise ValueError("[null, null] keeps every row; give a lowest or a highest value, or leave it out")
    if low is not None and high is not None and low > high:
        raise ValueError(f"[{low:g}, {high:g}] keeps no row: the lowest value comes first")
    return ends


Bounds = Annotated[tuple[FiniteFloat | None, FiniteFloat | None], AfterValidator(_in_order)]
"""Lowest and highest value, both included; None: no limit."""


class RowJudgeSection(Section):
    """A judge of rows. Only rows that are left before the selection are shown to it, and none twice: its replies are
    kept by what was asked. With `data.pii.action: redact` it sees placeholders."""

    endpoint: EndpointSection
    """Where the judge is asked."""
    max_tokens: Positive = 512
    """Longest judgement."""
    max_ungraded_share: Share = 0.1
    """More rows without a grade than this share of those that are asked about stop the run: requests that failed, and
    replies that hold no grade. Fewer are counted; such a row comes last by `judge`, and goes where `keep` names it."""


class ScoresSection(Section):
    measure: tuple[ModelScore, ...] = ()
    """What is measured by a model, besides the quality of `data.quality`, which costs nothing. `perplexity`: of the
    trained tokens, as template and mask make them, behind their prompts. `ifd`: instruction-following difficulty, the
    loss of an answer behind its prompt over its loss without (Li et al. 2024, arXiv 2308.12032); near 1 the prompt
    does not help, above 1 it misleads. Each row is read once by the model, for `ifd` its answers once more; what was
    measured of a row is kept."""
    model: str | None = None
    """Who measures: a folder or hub id; none: the base that is trained. The tokens are then its own, through the same
    `template`."""
    judge: RowJudgeSection | None = None
    """Grades the answers of a row from 1 to 10."""
    keep: dict[Score, Bounds] = Field(default_factory=dict)
    """Rows to keep by a score: lowest and highest value, null for no limit, e.g. `{ifd: [null, 1], judge: [6, null]}`.
    A row that cannot be rendered has no perplexity, and stays for the rendering to say so."""

    @property
    def names(self) -> tuple[Score, ...]:
        """The scores that rows will have."""
        return (*dict.fromkeys(self.measure), *(("judge",) if self.judge else ()))

    @model_validator(mode="after")
    def _known(self) -> ScoresSection:
        for name in self.keep:
            if name not in self.names:
                raise ValueError(f"keep names {name}, which nothing measures; {how_to_have(name)}")
        if self.model is not None and not self.measure:
            raise ValueError("model says who measures, and measure names nothing; name a score, or take model out")
        return self


def how_to_have(name: str) -> str:
    """What gives rows this score."""
    return "give data.scores.judge.endpoint" if name == "judge" else f"add it to data.scores.measure: [{name}]"
