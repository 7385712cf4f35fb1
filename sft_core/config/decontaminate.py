"""What to do with training rows that hold items of the evaluation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from sft_core.config.section import MOST, OffIsWord, Section

LEAST_PAIRS, LEAST_WORDS = 0.3, 0.5
"""Shares that are measured; a threshold below them would miss what nobody has looked for."""
Do = Annotated[Literal["drop", "report", "off"], OffIsWord]


class DecontaminateSection(Section):
    verbatim: Do = "drop"
    """What to do with conversations and replay documents that hold an item of one of this run's evaluation suites word
    for word: a question, 13 words of it in a row, or half of an answer. `report` trains on them and gives the scores of
    the items that were not trained on beside those of all."""
    reworded: Do = "report"
    """The same for items that were changed: other numbers or names, typos, words left out or replaced, sentences in
    other words and order. Data made from templates hold many that are only alike, hence they are kept unless asked."""
    pairs: Annotated[float, Field(ge=LEAST_PAIRS, le=1.0)] = 0.4
    """Share of an item's word pairs, rare ones weighing more, from which it counts as reworded. Needs seven pairs."""
    words: Annotated[float, Field(ge=LEAST_WORDS, le=1.0)] = 0.6
    """Share of a question's words without function words, rare ones weighing more, from which it counts as
    paraphrased. Needs seven words."""
    recall_items: Annotated[int, Field(ge=0, lt=MOST)] = 200
    """Items of every suite that are changed and planted to measure what is found of them; 0 measures nothing."""

    @property
    def looks(self) -> bool:
        """Whether anything is looked for."""
        return (self.verbatim, self.reworded) != ("off", "off")


NOTHING = DecontaminateSection(verbatim="off", reworded="off")
Decontaminate = Annotated[DecontaminateSection, BeforeValidator(
    lambda given: {"verbatim": given, "reworded": given} if isinstance(given, str | bool) else given)]
"""The section, or one word for both kinds of finds."""
