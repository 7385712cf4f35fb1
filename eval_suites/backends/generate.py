"""Greedy answers to chat items, through the chat template as a server would apply it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from jinja2 import TemplateError

from eval_suites.backends.contract import Backend, Generation, Prompt, Stops
from eval_suites.suites.chat_item import ChatItem
from sft_core.stage import fingerprint
from sft_core.templates.messages import RAISED


class ChatForm(Protocol):
    """What is needed of a template: its Jinja and its stops. `sft_core.templates.template.Template` is one."""

    @property
    def jinja(self) -> str:
        """The chat template."""

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts that end an assistant turn, a plain one or one that calls tools."""


class Answer(NamedTuple):
    """What the model said, and whether it stopped by itself. `text` is None where it could not be asked."""

    text: str | None
    stopped: bool
    why: str = ""
    tokens: int = 0  # of the answer
    ids: str = ""  # hash of the prompt's ids, where they are known here


class Answerer(Protocol):
    """Answers chat items: a backend behind a template, or a server that applies its own."""

    def answers(self, items: Sequence[ChatItem], longest: int) -> Iterator[tuple[int, Answer]]:
        """(place of the item, its answer of at most `longest` tokens) as soon as it is there, in any order."""


def stop_ids(model: Any, tokenizer: Any, stops: Sequence[str]) -> list[int]:
    """Every id that ends a generation: those of the generation config, EOS, and the template's stops that are one."""
    configured = model.generation_config.eos_token_id
    found = set(configured if isinstance(configured, list) else [configured])
    found.add(tokenizer.eos_token_id)
    encoded = [tokenizer.encode(stop, add_special_tokens=False) for stop in stops]
    found |= {ids[0] for ids in encoded if len(ids) == 1}
    return sorted(i for i in found if i is not None)


def prompt_ids(tokenizer: Any, item: ChatItem, jinja: str) -> list[int]:
    """Token ids of an item's messages and the opening of the assistant turn.

    Raises:
        jinja2.TemplateError, TypeError, …: the template refuses these messages, see `RAISED`.
    """
    return _encoded(tokenizer, _opened(tokenizer, item, jinja, item.parsed_tools()))


def asked_ids(tokenizer: Any, item: ChatItem, jinja: str) -> list[int]:
    """Token ids as `prompt_ids`, of an item that is to be scored.

    Raises:
        jinja2.TemplateError, …: as there, or the template leaves out the item's tools.
    """
    tools = item.parsed_tools()
    text = _opened(tokenizer, item, jinja, tools)
    if tools and text == _opened(tokenizer, item, jinja, None):
        raise TemplateError("it writes nothing of the tools, so that the model would be asked to call what it has "
                            "never seen; give one that writes them (--template, template.path)")
    return _encoded(tokenizer, text)


def _encoded(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False))


def _opened(tokenizer: Any, item: ChatItem, jinja: str, tools: list[dict[str, Any]] | None) -> str:
    return str(tokenizer.apply_chat_template(item.messages, tools=tools, chat_template=jinja, tokenize=False,
                                             add_generation_prompt=True))


class Templated:
    """A backend asked through a chat template.

    Args:
        backend: who computes.
        tokenizer: the model's.
        form: the template.
        ends: ids that end an answer, see `stop_ids`.
    """

    def __init__(self, backend: Backend, tokenizer: Any, form: ChatForm, ends: Sequence[int]) -> None:
        self._backend, self._tokenizer, self._form = backend, tokenizer, form
        self._whole = [stop for stop in form.stops if len(tokenizer.encode(stop, add_special_tokens=False)) > 1]
        self.stops = Stops(frozenset(ends), self._has_stop if self._whole else None, "\0".join(self._whole))

    def _has_stop(self, ids: Sequence[int]) -> bool:
        said = self._tokenizer.decode(ids, skip_special_tokens=False)
        return any(stop in said for stop in self._whole)

    def answers(self, items: Sequence[ChatItem], longest: int) -> Iterator[tuple[int, Answer]]:
        """As `Answerer.answers`. An item that the template refuses, or that leaves no room in the model's window, is
        not asked."""
        yield from self.continued([self.prompt(item, longest) for item in items])

    def continued(self, asked: Sequence[Prompt | Answer]) -> Iterator[tuple[int, Answer]]:
        """(place, answer) of prompts that `prompt` made; what is an answer already stays as it is."""
        prompts: list[Prompt] = []
        places: list[int] = []
        for place, one in enumerate(asked):
            if isinstance(one, Answer):
                yield place, one
            else:
                prompts.append(one)
                places.append(place)
        for at, said in self._backend.generate(prompts, self.stops):
            yield places[at], self.answer(prompts[at], said)

    def prompt(self, item: ChatItem, longest: int) -> Prompt | Answer:
        """What the model continues, by at most `longest` tokens; of an item that cannot be asked an answer that says
        why."""
        window = self._backend.window
        try:
            ids = asked_ids(self._tokenizer, item, self._form.jinja)
        except RAISED as error:
            return Answer(None, False, f"the chat template refuses it: {error}")
        if len(ids) < window:
            return Prompt(tuple(ids), min(longest, window - len(ids)))
        return Answer(None, False, f"{len(ids)} tokens do not fit the model's window of {window}")

    def answer(self, asked: Prompt, said: Generation) -> Answer:
        """What was generated as an answer."""
        hashed = fingerprint(asked.ids)
        if said.why:
            return Answer(None, False, said.why, len(said.ids), hashed)
        text, stopped = self.text(said.ids, said.stopped)
        return Answer(text, stopped, "", len(said.ids), hashed)

    def text(self, ids: Sequence[int], stopped: bool) -> tuple[str, bool]:
        """The text up to the stop. Other special tokens stay visible: they are part of what the model said."""
        text = self._tokenizer.decode(ids, skip_special_tokens=False)
        ends = [at for stop in self._form.stops if (at := text.find(stop)) >= 0]
        if ends:  # a stop that is several tokens here, so no id could end the generation
            return text[: min(ends)], True
        return text, stopped
