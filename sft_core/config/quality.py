"""What is wrong with an answer, and which of it is left out."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from sft_core.config.section import Positive, Section, Share

Flaw = Literal["length", "placeholder", "repetition", "refusal", "truncated", "damage", "echo", "language"]


class QualitySection(Section):
    measure: bool = True
    """Look at languages and flaws. Off: some 0.2 ms a row are saved, every language is undetermined, and nothing can be
    dropped or selected by them."""
    drop: tuple[Flaw, ...] = ()
    """Rows to leave out. Every flaw is counted and can be read, whatever stands here. `length`: fewer or more words
    than `least_words` and `most_words`; `placeholder`: `<noinput>`, `N/A`, `[your answer here]`; `repetition`: the
    answer says the same again; `refusal`: it declines in a stock phrase of chat models; `truncated`: it ends inside a
    sentence, a block of code or JSON; `damage`: characters were lost or garbled; `echo`: it begins with the whole
    question and adds little; `language`: it is in another language than the question, which asks for none."""
    least_words: Annotated[int, Field(ge=0)] = 0
    """Fewest words of all answers of a conversation together. Off by default: a label is an answer."""
    most_words: Positive | None = None
    """Most words of all answers of a conversation together; nothing: no limit. `data.max_tokens` has the last word."""
    repeated_words: Share = 0.8
    """Share of an answer's words in runs of five that have been there before, from which it is repetition. Songs,
    tables of HTML and lists of ten equal sentences reach 0.77."""
    repeated_lines: Share = 0.8
    """The same of its lines."""
    echo: Share = 0.8
    """Share of a question's words that the answer begins with, from which it is an echo."""
    damage: Positive = 1
    """Lost or garbled characters of a conversation from which it is damaged."""
    language_confidence: Share = 0.7
    """How sure both languages must be. A quarter of Alpaca's short questions are English by less than 0.8."""

    @model_validator(mode="after")
    def _measured(self) -> QualitySection:
        if self.drop and not self.measure:
            raise ValueError("drop names flaws, and measure: false looks for none; take one of them out")
        return self
