"""The template as single rows set its variables (`chat_template_kwargs`), each tried out as `template.kwargs` is."""

from __future__ import annotations

import json
import re

from transformers import PreTrainedTokenizerBase

from sft_core.config.data import TemplateSection
from sft_core.conversation import Conversation, Origin, Turn
from sft_core.errors import TemplateError
from sft_core.templates.choose import choose
from sft_core.templates.given import variables_of
from sft_core.templates.messages import TemplateRefused, ThoughtClosed, VariablesRefused
from sft_core.templates.template import OTHERS, Template, trained_turns
from sft_core.templates.thoughts import SWITCH, without

_DROP = "set template.thinking: drop"
_REMEMBERED = 64
_PLAIN = Conversation((Turn("user", "q"), Turn("assistant", "a")), Origin("trial", "trial", 1))


class Variants:
    """One template with other values of its variables."""

    def __init__(self, template: Template, tokenizer: PreTrainedTokenizerBase, section: TemplateSection) -> None:
        """`section`: what `template` was chosen by."""
        self._template, self._tokenizer, self._section = template, tokenizer, section
        self._known: dict[str, Template] = {}

    def of(self, variables: str | None) -> Template:
        """The template with these variables, an object as JSON text, besides those of the configuration.

        Raises:
            VariablesRefused: it does not read one of them, cannot be used with them, or ends answers otherwise.
        """
        if variables is None:
            return self._template
        if variables not in self._known:
            if len(self._known) == _REMEMBERED:
                self._known.clear()
            self._known[variables] = self._tried(variables)
        return self._known[variables]

    def way_to_think(self, conversation: Conversation) -> str:
        """What to set where the prompt closes the thought of an answer that has one. Values of variables are tried, and
        what is left where the thoughts are dropped."""
        given, other = json.loads(conversation.variables or "{}"), ""
        lost = self._lost_without_thoughts(conversation)
        for name in sorted(filter(re.compile("think|reason").search, variables_of(self._template.jinja))):
            for value in (-1,) if "budget" in name else ("high",) if "effort" in name else (True, False):
                setting = json.dumps({name: value})
                refused = self._refusal(conversation, json.dumps({**given, name: value}))
                if refused is None:
                    also = "" if self._refusal(_PLAIN, setting) else ", which trains answers without one as well"
                    return (f"set template.kwargs: {setting}{also}, or give such rows a column chat_template_kwargs "
                            f"with {setting}" + ("" if lost else f", or {_DROP}"))
                if not isinstance(refused, ThoughtClosed | TemplateError):
                    other = f"; with template.kwargs: {setting} {refused}"
        switched = any("/no" in one for turn in conversation.turns for one in SWITCH.findall(turn.content))
        way = f"{OTHERS}; with template.thinking: drop too {lost}" if lost else _DROP
        return way + (other or "; no variable of the template lets it think here" + (
            ", as the row itself says /no_think" if switched else ""))

    def _lost_without_thoughts(self, conversation: Conversation) -> TemplateRefused | TemplateError | None:
        """Why the conversation without its thoughts is not trained either, None where it is."""
        opened = self.of(conversation.variables).form.opened
        said = [without(turn.content, opened) if turn.role == "assistant" else turn.content
                for turn in conversation.turns]
        if None in said:
            return TemplateRefused(f"it cannot be said where the thought of turn {said.index(None) + 1} ends")
        turns = tuple(turn._replace(content=content or "")
                      for turn, content in zip(conversation.turns, said, strict=True))
        return self._refusal(conversation._replace(turns=turns), conversation.variables)

    def _refusal(self, conversation: Conversation, variables: str | None) -> TemplateRefused | TemplateError | None:
        """Why the template with these variables does not train a conversation, None where it does."""
        chosen = trained_turns(conversation.turns, self._section.train_on, self._section.train_tool_calls)
        try:
            self.of(variables).texts(conversation, chosen)
        except (TemplateRefused, TemplateError) as refused:
            return refused
        return None

    def _tried(self, variables: str) -> Template:
        kwargs = {**self._section.kwargs, **json.loads(variables)}
        try:
            made = choose(self._section.model_copy(update={"kwargs": kwargs}), self._tokenizer)
        except TemplateError as error:
            said = str(error).removeprefix("template.kwargs: ")
            raise VariablesRefused(f"chat_template_kwargs of the row: {said}") from error
        if not set(made.stops) <= set(self._template.stops):
            raise VariablesRefused(f"chat_template_kwargs of the row: with them answers end with "
                                   f"{' or '.join(made.stops)}, others with {' or '.join(self._template.stops)}")
        return made
